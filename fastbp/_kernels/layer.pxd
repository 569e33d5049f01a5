"""The three products of a dense layer: for a call from Python, the last layer with its error, and a training step."""

from fastbp._kernels.dispatch cimport FBP_IDENTITY, fbp_kernels
from fastbp._kernels.product cimport Product, set_product

# Weights W (I, O) of any strides, and a bias (O) or NULL. All strides here are in elements of `element` bytes.
cdef struct Dense:
    const fbp_kernels *k
    Py_ssize_t element, inputs, outputs  # I and O
    const char *w
    Py_ssize_t w_row, w_column
    const char *bias
    int pieces  # of each number in its products, where that pays: 0 for float32 as it is

# A (N, O) = f(X W + b)
cdef inline void set_forward_product(Product *p, const Dense *layer, Py_ssize_t N, const char *x, Py_ssize_t x_row,
                                     int activation, char *a, Py_ssize_t a_row) noexcept nogil:
    set_product(p, layer.k, layer.element, N, layer.outputs, layer.inputs, layer.pieces)
    p.A, p.A_row, p.A_column = x, x_row, 1
    p.B, p.B_row, p.B_column = layer.w, layer.w_row, layer.w_column
    p.C, p.C_row = a, a_row
    p.epilogue.bias, p.epilogue.activation = layer.bias, activation

# dX (N, I) = δ Wᵀ, or (δ Wᵀ) ⊙ f'(slope): f is the activation of the layer below, slope (N, I) or NULL the argument of f'
cdef inline void set_recursion_product(Product *p, const Dense *layer, Py_ssize_t N, const char *delta, Py_ssize_t delta_row,
                                       int activation, const char *slope, Py_ssize_t slope_row, char *dx,
                                       Py_ssize_t dx_row) noexcept nogil:
    set_product(p, layer.k, layer.element, N, layer.inputs, layer.outputs, layer.pieces)
    p.A, p.A_row, p.A_column = delta, delta_row, 1
    p.B, p.B_row, p.B_column = layer.w, layer.w_column, layer.w_row
    p.C, p.C_row = dx, dx_row
    if slope != NULL and activation != FBP_IDENTITY:
        p.epilogue.activation, p.epilogue.slope, p.epilogue.slope_row = activation, slope, slope_row

# dW (I, O) = Xᵀ δ, or its transpose (O, I) = δᵀ X
cdef inline void set_gradient_product(Product *p, const Dense *layer, Py_ssize_t N, const char *x, Py_ssize_t x_row,
                                      const char *delta, Py_ssize_t delta_row, bint transposed, char *dw,
                                      Py_ssize_t dw_row) noexcept nogil:
    if transposed:
        set_product(p, layer.k, layer.element, layer.outputs, layer.inputs, N, layer.pieces)
        p.A, p.A_row, p.A_column = delta, 1, delta_row
        p.B, p.B_row, p.B_column = x, x_row, 1
    else:
        set_product(p, layer.k, layer.element, layer.inputs, layer.outputs, N, layer.pieces)
        p.A, p.A_row, p.A_column = x, 1, x_row
        p.B, p.B_row, p.B_column = delta, delta_row, 1
    p.C, p.C_row = dw, dw_row
