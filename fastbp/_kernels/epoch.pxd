"""Updates one after the other: a batch, or all those of an epoch, in one call."""

from libc.stdint cimport int64_t

from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.net cimport Batch, Net
from fastbp._kernels.optimizer cimport Update
from fastbp._kernels.team cimport fbp_team

# Why training stopped before its last batch.
cdef enum Failure:
    NONE
    LOSS
    GRADIENT

# One call of a network: arguments and results
cdef struct Call:
    Net *net
    Batch all              # the examples
    char *out              # logits or gradient
    Py_ssize_t out_row     # bytes
    const int64_t *order   # of the rows, or NULL
    Py_ssize_t count, batch_size
    Update *u
    int64_t first_step
    void *optimizer        # Python objects
    void *report
    void *ranks            # what sums over processes: see `Ranks` in fastbp/_kernel_api.py; or NULL
    const char *sends      # of each layer, whether to send its gradient, with those of the layers above that wait for it
    const int64_t *first_rows  # for each step, the rows that other ranks have before those of this one; or NULL
    Py_ssize_t steps       # to make, at least: without examples if there are no more
    double loss, weight    # Σ weighted errors, or the mean error of a single batch; Σ weights
    Py_ssize_t start, done, updates  # rows and batches finished; updates made: none for batches whose weights sum to 0
    double *batches        # for each batch its mean error, and Σ W² before the update; or NULL
    Failure failure
    bint stopped           # `report` has asked to stop, or another rank
    bint undone            # the last step was not made: a rank has failed, or none has examples

# Train on all batches; make one update. step_once makes none, and `updates` stays 0, if the error is not finite or the update
# might overflow.
cdef int train_batches(Call *c, fbp_team *team) except -1 nogil
cdef int step_once(Call *c, fbp_team *team) except -1 nogil
