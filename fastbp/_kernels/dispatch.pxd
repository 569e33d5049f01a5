"""Declarations of the C primitives of src_c/; the number of threads of a call"""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "primitives.h" nogil:
    ctypedef Py_ssize_t fbp_size

    int FBP_IDENTITY, FBP_SIGMOID, FBP_TANH, FBP_RELU, FBP_ACTIVATIONS  # and the other kinds of activations.def
    int FBP_OF_INPUT

    ctypedef struct fbp_activation:
        const char *name
        int slope
        double bound
        const char *weights

    const fbp_activation *fbp_activation_facts(int kind)

    enum:
        FBP_RATES, FBP_STATES, FBP_AVERAGE

    ctypedef struct fbp_update:
        int rule
        double learning_rate, weight_decay
        int decoupled
        double rate[4]
        double bias[2]
        double gradient_scale
        double clip
        double average

    ctypedef struct fbp_epilogue:
        int activation
        const void *bias
        const void *slope
        fbp_size slope_row
        int accumulate, pieces
        const fbp_update *update
        void *state[4]

    ctypedef struct fbp_cross_entropy:
        const void *class_weight
        double smoothing
        double lse_square_scale
        double softcap
        double weight_sum, weight_sum_lost
        bint share_of_0

    ctypedef struct fbp_error:
        int kind
        const void *pos_weight
        double smoothing
        double parameter

    # The primitives of one dtype on one instruction set: src_c/kernels.def lists them, src_c/ documents them.
    ctypedef struct fbp_kernels:
        void (*activate)(int kind, fbp_size n, const void *x, void *y) noexcept nogil
        void (*activate_backward)(int kind, fbp_size n, const void *g, const void *a, void *d) noexcept nogil
        void (*softmax_row)(fbp_size C, const void *z, void *y) noexcept nogil
        void (*log_softmax_row)(fbp_size C, const void *z, void *y) noexcept nogil
        double (*logsumexp_row)(fbp_size C, const void *z) noexcept nogil
        void (*softmax_backward_row)(fbp_size C, const void *g, const void *y, void *d) noexcept nogil
        void (*softmax_hessian_row)(fbp_size C, const void *z, double scale, void *h) noexcept nogil

        void (*softmax_cross_entropy_rows)(fbp_size N, fbp_size C, const void *z, fbp_size z_row, const int64_t *labels,
                                           const double *weights, double divisor, const fbp_cross_entropy *options, void *slope,
                                           void *e, void *d, fbp_size d_row, double *errors) noexcept nogil
        double (*softmax_cross_entropy_row)(fbp_size C, const void *z, const void *t, fbp_size label,
                                            const fbp_cross_entropy *options, double scale, void *slope, void *e,
                                            void *d) noexcept nogil
        double (*elementwise_error_row)(fbp_size O, const void *z, const void *t, const fbp_error *error, double scale,
                                        void *d) noexcept nogil
        void (*elementwise_error_column)(fbp_size N, const void *z, const void *t, const fbp_error *error, double scale, void *d,
                                         double *errors) noexcept nogil
        void (*sigmoid_hessian_row)(fbp_size O, const void *z, const void *t, const fbp_error *error, double scale,
                                    void *h) noexcept nogil

        void (*dropout)(fbp_size n, const void *x, double rate, uint64_t key, int stream, fbp_size start, void *y) noexcept nogil

        void (*update)(fbp_size n, const void *g, const fbp_update *u, void *const *state, void *w) noexcept nogil
        double (*largest_magnitude)(fbp_size n, const void *x, void *y) noexcept nogil
        double (*sum_of_squares)(fbp_size n, const void *x) noexcept nogil

        void (*matrix_product)(fbp_size M, fbp_size N, fbp_size K, const void *A, fbp_size A_row, fbp_size A_column,
                               const void *B, fbp_size B_row, fbp_size B_column, const fbp_epilogue *epilogue,
                               void *scratch, void *C, fbp_size C_row) noexcept nogil
        int (*product_pieces)(fbp_size M, fbp_size N, fbp_size K, int pieces) noexcept nogil
        fbp_size (*matrix_product_scratch)(fbp_size M, fbp_size N, fbp_size K, int pieces) noexcept nogil
        fbp_size (*tile_columns)() noexcept nogil
        fbp_size (*tile_depth)() noexcept nogil
        double (*column_sums)(fbp_size N, fbp_size O, const void *x, fbp_size x_row, int accumulate, void *sums) noexcept nogil
        double (*multiply_adds)(int64_t repetitions) noexcept nogil

    const fbp_kernels *fbp_kernels_for(size_t element_size)
    const char *fbp_isa_name(int i)
    const char *fbp_isa()
    int fbp_use_isa(const char *name)
    const char *fbp_unit(int pieces)

# The one dtype of all arrays of a call.
ctypedef fused real:
    float
    double

cdef const fbp_kernels *kernels_for(size_t element_size) noexcept nogil

# The number of threads for `work` nanoseconds of one thread: at most n_threads, each with enough work to pay for waking it
cdef int threads_for(int n_threads, double work) noexcept nogil

# The number of threads that a call may use which asks for n_threads; for less than 1, max_threads()
cdef int most_threads(int n_threads) noexcept nogil

# The number of threads that a call with this argument may use: max_threads() for None, 0 for anything but None and integers >= 1
cdef int plain_threads(n_threads) except -1

# The pieces of a number in products of a precision, by name: 0 for float32 as it is; -1 for None. chosen_pieces: the same, for -1
# those of the precision in use.
cdef int named_pieces(precision) except -2
cdef int chosen_pieces(int pieces) noexcept nogil

# The number in src_c/fastbp.h of an activation of fastbp.activations.
cdef int activation_kind(str name) except -1
