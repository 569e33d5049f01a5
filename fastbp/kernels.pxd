"""fastbp for Cython: its functions on rows and matrices, without the GIL.

    from fastbp.kernels cimport softmax            # include_dirs=[fastbp.get_include()]

    softmax(N, C, &z[0, 0], C, 0, &y[0, 0], C)     # float32 or float64, by the type of the pointers

They compute what those of Python of the same names do, to the same bits. They never take the GIL, look for no signal and
raise nothing; any number of threads may call them at a time. Each returns FBP_DONE, FBP_NO_MEMORY, FBP_WRONG_LABEL or
FBP_WRONG_ARGUMENT. Nothing but sizes, labels and numbers of lists is checked.

N rows are examples; C classes, I inputs, O outputs, P parameters. Each matrix is followed by the distance of its rows in
elements; rows have no gaps. An output overlaps no other array, unless it is said that it may be one: from the same address on,
at the same distance of rows. No pointer may be NULL but where that is said, or the array is empty. n_threads: at most so many;
0 for the default that fastbp.show_config() tells.

What changes type or meaning changes its name, too: Cython compares the types when a module is imported that cimports them.
"""

from libc.stdint cimport int64_t

cdef extern from "fastbp.h":
    int FBP_ABI

    enum:
        FBP_DONE, FBP_NO_MEMORY, FBP_WRONG_LABEL, FBP_WRONG_ARGUMENT
    enum:
        FBP_IDENTITY, FBP_SIGMOID, FBP_TANH, FBP_RELU, FBP_LEAKY_RELU, FBP_ELU, FBP_SELU, FBP_GELU, FBP_SILU, FBP_MISH
        FBP_SOFTPLUS
    enum:
        FBP_SIGMOID_CROSS_ENTROPY, FBP_SQUARED_ERROR, FBP_SIGMOID_SQUARED_ERROR, FBP_POISSON_DEVIANCE, FBP_HUBER, FBP_QUANTILE
    enum:
        FBP_UPDATE_sgd, FBP_UPDATE_rmsprop, FBP_UPDATE_adagrad, FBP_UPDATE_adam, FBP_UPDATE_lion, FBP_UPDATE_muon

    # The options of an error function. All zeros: the defaults of Python. Each function reads those that Python's has.
    ctypedef struct fbp_error_options:
        const double *sample_weight   # (N) or NULL
        const double *class_weight    # (C) or NULL
        const double *pos_weight      # (O) or NULL
        const int64_t *ignore_index   # the label of rows that are not read; NULL: -100
        double label_smoothing
        double lse_square_scale
        double softcap                # 0: none
        int sum                       # reduction: 0 the mean, else the sum

    # An optimizer's step; fastbp.h tells the rates and the state of each rule.
    ctypedef struct fbp_optimizer:
        int rule
        int decoupled                 # 1: the weight decay acts on the parameters themselves; 0: through the gradient
        int64_t step                  # from 1
        double learning_rate
        double weight_decay
        double rates[4]
        void *state[4]                # vectors of P elements like the parameters, zeros before the first step; updated in place

# The one dtype of all arrays of a call
ctypedef fused real:
    float
    double

# out (N, C) = f(x), of activation `kind`; out may be x
cdef int activate(int kind, Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out,
                  Py_ssize_t out_row) noexcept nogil

# out (N, C) = grad ⊙ f'; f' is computed from a, the output or the input of f, as fastbp.activation_backward tells. out may be
# grad or a.
cdef int activation_backward(int kind, Py_ssize_t N, Py_ssize_t C, const real *grad, Py_ssize_t grad_row, const real *a,
                             Py_ssize_t a_row, int n_threads, real *out, Py_ssize_t out_row) noexcept nogil

# out (N, C) = softmax, or its logarithm, of each row; out may be x
cdef int softmax(Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out,
                 Py_ssize_t out_row) noexcept nogil
cdef int log_softmax(Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out,
                     Py_ssize_t out_row) noexcept nogil

# out (N, C) = y ⊙ (grad - Σ grad y) with y the softmax; out may be grad or y
cdef int softmax_backward(Py_ssize_t N, Py_ssize_t C, const real *grad, Py_ssize_t grad_row, const real *y, Py_ssize_t y_row,
                          int n_threads, real *out, Py_ssize_t out_row) noexcept nogil

# out (N) = ln Σ exp(x) of each row
cdef int logsumexp(Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out) noexcept nogil

# The reduced error of N rows of logits, its gradient grad (N, C), which may be logits, and the sum of the rows' weights. Either
# labels (N), class indices, or targets (N, C); the other one is NULL. options: NULL for the defaults. losses (N) or NULL: the
# weighted errors of the rows.
cdef int softmax_cross_entropy(Py_ssize_t N, Py_ssize_t C, const real *logits, Py_ssize_t logits_row, const int64_t *labels,
                               const real *targets, Py_ssize_t targets_row, const fbp_error_options *options, int n_threads,
                               real *losses, real *grad, Py_ssize_t grad_row, double *loss, double *weight_sum) noexcept nogil

# The same for error `kind` of outputs (N, O) or logits; parameter: delta of huber, tau of quantile, else not read.
cdef int elementwise_error(int kind, double parameter, Py_ssize_t N, Py_ssize_t O, const real *outputs, Py_ssize_t outputs_row,
                           const real *targets, Py_ssize_t targets_row, const fbp_error_options *options, int n_threads,
                           real *losses, real *grad, Py_ssize_t grad_row, double *loss, double *weight_sum) noexcept nogil

# out (N, O) = f(x W + b): x (N, I), weight (I, O) of any two strides, bias (O) or NULL, f of activation `kind`
cdef int linear(int kind, Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs, const real *x, Py_ssize_t x_row,
                const real *weight, Py_ssize_t weight_row, Py_ssize_t weight_column, const real *bias, int n_threads, real *out,
                Py_ssize_t out_row) noexcept nogil

# out (N, I) = (delta Wᵀ) ⊙ f': delta (N, O), weight (I, O) of any two strides; f' of activation `kind` from a (N, I), which for
# FBP_IDENTITY is NULL
cdef int linear_backward_input(int kind, Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs, const real *delta,
                               Py_ssize_t delta_row, const real *weight, Py_ssize_t weight_row, Py_ssize_t weight_column,
                               const real *a, Py_ssize_t a_row, int n_threads, real *out, Py_ssize_t out_row) noexcept nogil

# out (I, O) = a_prevᵀ delta, and bias_out (O) = Σ_n delta_n, unless it is NULL: a_prev (N, I), delta (N, O)
cdef int linear_backward_weight(Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs, const real *a_prev,
                                Py_ssize_t a_prev_row, const real *delta, Py_ssize_t delta_row, int n_threads, real *out,
                                Py_ssize_t out_row, real *bias_out) noexcept nogil

# parameters (P) and the optimizer's state, in place, by gradient (P)
cdef int optimizer_update(Py_ssize_t P, const real *gradient, const fbp_optimizer *optimizer, int n_threads,
                          real *parameters) noexcept nogil
