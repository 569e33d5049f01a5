"""The three products of a dense layer: for a call from Python, the last layer with its error, and a training step. The three of
a step by which Muon orthogonalises a matrix."""

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

# Of X (I, O) without gaps, s = min(I, O): Q (s, s) = X Xᵀ, or Xᵀ X where there are fewer columns than rows;
cdef inline void set_gram_product(Product *p, const Dense *layer, const char *x, char *q) noexcept nogil:
    cdef Py_ssize_t inputs = layer.inputs, outputs = layer.outputs
    set_product(p, layer.k, layer.element, min(inputs, outputs), min(inputs, outputs), max(inputs, outputs), layer.pieces)
    p.A, p.A_row, p.A_column = x, outputs if inputs <= outputs else 1, 1 if inputs <= outputs else outputs
    p.B, p.B_row, p.B_column = x, p.A_column, p.A_row
    p.C = q

# P (s, s) = Q Q
cdef inline void set_square_product(Product *p, const Dense *layer, const char *q, char *to) noexcept nogil:
    cdef Py_ssize_t s = min(layer.inputs, layer.outputs)
    set_product(p, layer.k, layer.element, s, s, s, layer.pieces)
    p.A, p.A_row, p.A_column = q, s, 1
    p.B, p.B_row, p.B_column = q, s, 1
    p.C = to

# and (I, O) P X, or X P.
cdef inline void set_polynomial_product(Product *p, const Dense *layer, const char *x, const char *q, char *to) noexcept nogil:
    cdef Py_ssize_t inputs = layer.inputs, outputs = layer.outputs
    set_product(p, layer.k, layer.element, inputs, outputs, min(inputs, outputs), layer.pieces)
    p.A, p.A_row, p.A_column = q if inputs <= outputs else x, min(inputs, outputs), 1
    p.B, p.B_row, p.B_column = x if inputs <= outputs else q, outputs, 1
    p.C = to

# The product, with scratch of its own; whether there was memory for that.
cdef bint multiplied(const Product *p, int n_threads) except -1 nogil
