/* fastbp for C programs: its functions on rows and matrices, through pointers that fbp_import() fetches from an installed
 * package.
 *
 *     #include <Python.h>
 *     #include "fastbp.h"                             in the folder that fastbp.get_include() tells
 *
 *     const fbp_api *fbp = fbp_import();              once, with the GIL; NULL: a Python exception says why
 *     int failed = fbp->float32->softmax(N, C, z, C, 0, y, C);
 *
 * functions.def lists and documents the functions. They compute what those of Python of the same names do, to the same bits.
 * They need no GIL and never take it, look for no signal and raise nothing; any number of threads may call them at a time.
 *
 * The ABI: within one FBP_ABI no function or member changes its type, place or meaning; functions are only added, at the end, and
 * so are rows of the three lists below. fbp_import() refuses a package of another FBP_ABI, and one too old to have all functions
 * of this header.
 */
#ifndef FASTBP_H
#define FASTBP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FBP_ABI 1

typedef ptrdiff_t fbp_size; /* sizes, and strides in elements */

/* What the functions return */
enum {
    FBP_DONE = 0,
    FBP_NO_MEMORY = 1,     /* there is none for the work space; nothing was written */
    FBP_WRONG_LABEL = 2,   /* a label is neither in [0, C) nor to be ignored; nothing was written */
    FBP_WRONG_ARGUMENT = 3 /* a negative size, a number of no row of its list, a missing state or targets; nothing was written */
};

/* Activations: FBP_IDENTITY, FBP_SIGMOID, ... */
enum {
#define FBP_ACTIVATION(kind, name, slope, bound, weights) kind,
#include "activations.def"
#undef FBP_ACTIVATION
    FBP_ACTIVATIONS
};

/* Errors whose outputs do not interact: FBP_SIGMOID_CROSS_ENTROPY, FBP_SQUARED_ERROR, ... */
enum {
#define FBP_ERROR(NUMBER, name, largest_target, parameter) FBP_##NUMBER,
#include "errors.def"
#undef FBP_ERROR
    FBP_ERRORS
};

/* Rules of optimizers: FBP_UPDATE_sgd, FBP_UPDATE_rmsprop, ... */
enum {
#define FBP_UPDATE(name, states, corrected) FBP_UPDATE_##name,
#include "updates.def"
#undef FBP_UPDATE
    FBP_UPDATES
};

/* The options of an error function. All zeros: the defaults of Python. Each function reads those that Python's has. */
typedef struct {
    const double *sample_weight; /* (N) or NULL */
    const double *class_weight;  /* (C) or NULL */
    const double *pos_weight;    /* (O) or NULL */
    const int64_t *ignore_index; /* the label of rows that are not read; NULL: -100 */
    double label_smoothing;
    double lse_square_scale;
    double softcap;              /* 0: none */
    int sum;                     /* reduction: 0 the mean, else the sum */
} fbp_error_options;

/* A step. `rates` and `state` are those of the class in Python, in this order; a state that it lacks is NULL:
 *
 *   FBP_UPDATE_sgd        momentum, nesterov (0 or 1)        velocity
 *   FBP_UPDATE_rmsprop    alpha, epsilon, momentum           mean_square, mean (if centred), velocity (with momentum)
 *   FBP_UPDATE_adagrad    epsilon                            sum_of_squares
 *   FBP_UPDATE_adam       beta_1, beta_2, epsilon            first_moment, second_moment, largest_second_moment (with amsgrad)
 *   FBP_UPDATE_lion       beta_1, beta_2                     mean
 *   FBP_UPDATE_muon       is of matrices: refused
 */
typedef struct {
    int rule;
    int decoupled;       /* 1: the weight decay acts on the parameters themselves, as in AdamW and Lion; 0: on the gradient */
    int64_t step;        /* from 1 */
    double learning_rate;
    double weight_decay;
    double rates[4];
    void *state[4];      /* vectors of P elements like the parameters, zeros before the first step; updated in place */
} fbp_optimizer;

/* The functions for one dtype */
#define FBP_FUNCTION(name, parameters) int(*name) parameters;
#define FBP_REAL float
typedef struct {
#include "functions.def"
} fbp_functions_float32;
#undef FBP_REAL
#define FBP_REAL double
typedef struct {
#include "functions.def"
} fbp_functions_float64;
#undef FBP_REAL
#undef FBP_FUNCTION

typedef struct {
    int abi;             /* FBP_ABI when fastbp was compiled; this and the next two members never change */
    size_t size;         /* bytes of fbp_functions_float32 then */
    const char *version; /* of fastbp */
    const fbp_functions_float32 *float32;
    const fbp_functions_float64 *float64;
} fbp_api;

#ifdef PY_VERSION_HEX /* Python.h comes first */
/* Imports fastbp and returns its functions, good for the life of the process. NULL: there is no fastbp, or none with compiled
 * kernels, or its ABI is another one; a Python exception is set. */
static inline const fbp_api *fbp_import(void)
{
    const fbp_api *api = NULL;
    PyObject *module = PyImport_ImportModule("fastbp.kernels");
    PyObject *capsule = module ? PyObject_GetAttrString(module, "api") : NULL;
    if (capsule) api = (const fbp_api *)PyCapsule_GetPointer(capsule, "fastbp.kernels.api");
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (!api) return NULL;
    if (api->abi != FBP_ABI) {
        PyErr_Format(PyExc_ImportError,
                     "fastbp.h: this program was compiled for ABI %d of fastbp, and fastbp %s has ABI %d: compile it again",
                     FBP_ABI, api->version, api->abi);
        return NULL;
    }
    if (api->size < sizeof(fbp_functions_float32)) {
        PyErr_Format(PyExc_ImportError, "fastbp.h: this program was compiled for a later fastbp than %s: install that one",
                     api->version);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif
#endif
