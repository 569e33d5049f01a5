from fastbp._kernels.rows cimport RowError, Rows

cdef enum:
    NO_MEMORY = 1
    ASTRAY = 2   # a label was changed to one out of range during the call

# `reduced` on a team, with a work space of its own: sets d, the mean or sum, the sum of the weights, and the weighted errors in
# `losses`, unless it is NULL. Returns 0 or why not.
cdef int evaluate(Rows *r, RowError error, bint mean, char *losses, int n_threads, double *loss,
                  double *weight_sum) except? -1 nogil
