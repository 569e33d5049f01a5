"""The C primitives of src_c/ as the kernels see them, and how many threads a kernel takes."""

from libc.stdint cimport int64_t, uintptr_t

cdef extern from "fastbp.h" nogil:
    ctypedef Py_ssize_t fbp_size

    int FBP_IDENTITY, FBP_SIGMOID, FBP_TANH, FBP_RELU, FBP_LEAKY_RELU, FBP_GELU, FBP_SILU, FBP_SOFTPLUS, FBP_ACTIVATIONS

    ctypedef struct fbp_epilogue:
        int activation
        const void *bias
        const void *slope
        fbp_size slope_row
        int accumulate

    # One dtype on one instruction set; src_c/kernels.def is the list, the comments in src_c/ tell what each does.
    ctypedef struct fbp_kernels:
        void (*activate)(int kind, fbp_size n, const void *x, void *y) noexcept nogil
        void (*activate_backward)(int kind, fbp_size n, const void *g, const void *a, void *d) noexcept nogil
        void (*softmax_row)(fbp_size C, const void *z, void *y) noexcept nogil
        void (*log_softmax_row)(fbp_size C, const void *z, void *y) noexcept nogil
        double (*logsumexp_row)(fbp_size C, const void *z) noexcept nogil
        void (*softmax_backward_row)(fbp_size C, const void *g, const void *y, void *d) noexcept nogil

        double (*softmax_cross_entropy_row)(fbp_size C, const void *z, fbp_size label, double scale, void *d) noexcept nogil
        void (*effective_targets_row)(fbp_size C, const void *t, fbp_size label, const void *class_weight,
                                      double smoothing, void *u) noexcept nogil
        double (*softmax_cross_entropy_targets_row)(fbp_size C, const void *z, const void *u, double softcap,
                                                    double lse_square_scale, double scale, void *slope, void *d) noexcept nogil
        double (*sigmoid_cross_entropy_row)(fbp_size O, const void *z, const void *t, const void *pos_weight,
                                            double smoothing, double scale, void *d) noexcept nogil
        double (*squared_error_row)(fbp_size O, const void *y, const void *t, double scale, void *d) noexcept nogil
        double (*sigmoid_squared_error_row)(fbp_size O, const void *z, const void *t, double scale, void *d) noexcept nogil
        double (*poisson_deviance_row)(fbp_size O, const void *z, const void *t, double scale, void *d) noexcept nogil

        void (*sgd_update)(fbp_size n, const void *g, double learning_rate, double momentum, int nesterov,
                           double weight_decay, void *velocity, void *w) noexcept nogil
        void (*adam_update)(fbp_size n, const void *g, int64_t step, double learning_rate, double beta_1, double beta_2,
                            double epsilon, double weight_decay, void *m, void *v, void *w) noexcept nogil
        double (*largest_magnitude)(fbp_size n, const void *x) noexcept nogil

        void (*matrix_product)(fbp_size M, fbp_size N, fbp_size K, const void *A, fbp_size A_row, fbp_size A_column,
                               const void *B, fbp_size B_row, fbp_size B_column, const fbp_epilogue *epilogue,
                               void *scratch, void *C, fbp_size C_row) noexcept nogil
        fbp_size (*matrix_product_scratch)(fbp_size M, fbp_size N, fbp_size K) noexcept nogil
        fbp_size (*tile_columns)() noexcept nogil
        void (*column_sums)(fbp_size N, fbp_size O, const void *x, fbp_size x_row, void *sums) noexcept nogil
        double (*multiply_adds)(int64_t repetitions) noexcept nogil

    const fbp_kernels *fbp_kernels_for(size_t element_size)
    const char *fbp_isa_name(int i)
    const char *fbp_isa()
    int fbp_use_isa(const char *name)

# The one dtype of all arrays of a call.
ctypedef fused real:
    float
    double

cdef const fbp_kernels *kernels_for(size_t element_size) noexcept nogil

# Threads for `work` nanoseconds of one thread's time: at most n_threads, and each with enough to do to pay for waking it.
cdef int threads_for(int n_threads, double work) noexcept nogil

# The number in src_c/fastbp.h of an activation of fastbp.activations.
cdef int activation_kind(str name) except -1

# Scratch is laid out in whole cache lines, from the start of one.
cdef enum:
    LINE = 64

cdef inline Py_ssize_t whole_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + LINE - 1) // LINE * LINE

cdef inline char *line_start(char *memory) noexcept nogil:
    return memory + (LINE - <uintptr_t>memory % LINE) % LINE
