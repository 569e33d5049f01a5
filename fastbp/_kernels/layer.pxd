"""The three products of a dense layer: for a call from Python, the last layer with its error, and a training step."""

from fastbp._kernels.dispatch cimport fbp_kernels
from fastbp._kernels.product cimport Product

# Weights W (I, O) of any strides, and a bias (O) or NULL. All strides here are in elements of `element` bytes.
cdef struct Dense:
    const fbp_kernels *k
    Py_ssize_t element, inputs, outputs  # I and O
    const char *w
    Py_ssize_t w_row, w_column
    const char *bias

# A (N, O) = f(X W + b)
cdef Product forward_product(const Dense *layer, Py_ssize_t N, const char *x, Py_ssize_t x_row, int activation, char *a,
                             Py_ssize_t a_row) noexcept nogil
# dX (N, I) = δ Wᵀ, or (δ Wᵀ) ⊙ f'(slope); slope (N, I) is what f' of the layer below takes, or NULL
cdef Product recursion_product(const Dense *layer, Py_ssize_t N, const char *delta, Py_ssize_t delta_row, int activation,
                               const char *slope, Py_ssize_t slope_row, char *dx, Py_ssize_t dx_row) noexcept nogil
# dW (I, O) = Xᵀ δ, or its transpose (O, I) = δᵀ X
cdef Product gradient_product(const Dense *layer, Py_ssize_t N, const char *x, Py_ssize_t x_row, const char *delta,
                              Py_ssize_t delta_row, bint transposed, char *dw, Py_ssize_t dw_row) noexcept nogil
