/* The vector primitives of one row or one tile, compiled once per instruction set. What other programs call is fastbp.h.
 *
 * A table of primitives belongs to one instruction set and one dtype; fbp_kernels_for() returns the table in use. Its functions
 * take void pointers to elements of that dtype, so a caller that has fetched the table is written once for both dtypes.
 */
#ifndef FBP_PRIMITIVES_H
#define FBP_PRIMITIVES_H

#include "fastbp.h"

#include <math.h>

/* Elementwise activations: their properties, by the numbers of fastbp.h */
enum { FBP_OF_OUTPUT, FBP_OF_INPUT };
typedef struct {
    const char *name;
    int slope; /* FBP_OF_OUTPUT or FBP_OF_INPUT: what f' is computed from */
    double bound;
    const char *weights;
} fbp_activation;
static inline const fbp_activation *fbp_activation_facts(int kind)
{
    static const fbp_activation facts[] = {
#define FBP_ACTIVATION(kind, name, slope, bound, weights) {#name, slope, bound, weights},
#include "activations.def"
#undef FBP_ACTIVATION
    };
    return &facts[kind];
}

/* An optimizer's update of parameters w by a gradient: rows/updates.h. Its state vectors lie like w; NULL where a rule does
 * without. The last one is no rule's: a running mean of the parameters themselves. */
enum { FBP_RATES = 4, FBP_STATES = 4, FBP_AVERAGE = FBP_STATES - 1 };
typedef struct {
    int rule;
    double learning_rate, weight_decay;
    int decoupled;           /* the decay acts on the parameter itself, not through the gradient */
    double rate[FBP_RATES];  /* the rule's own */
    double bias[2];          /* 1 - rate^t of the first two at step t, from 1, if the rule is corrected, else 1 */
    double gradient_scale;   /* 1 leaves it as it is */
    double clip;             /* > 0: of a gradient, the largest magnitude that counts */
    double average;          /* how much of the running mean of the parameters is kept */
} fbp_update;

/* What a matrix product does with a tile of C while it is in registers or in the L1 cache */
typedef struct {
    int activation;     /* FBP_IDENTITY for none */
    const void *bias;   /* (N) or NULL:     C = f(A B + bias)       the forward pass */
    const void *slope;  /* (M, N) or NULL:  C = (A B) ⊙ f'(slope)   the recursion; see activate_backward for slope */
    fbp_size slope_row;
    int accumulate;     /* C += A B */
    int pieces;         /* product_pieces() of the whole product, of which this one may be a part */
    const fbp_update *update; /* or NULL:   C are parameters, A B their gradient, K <= tile_depth() */
    void *state[FBP_STATES];  /* of the optimizer, laid out like C */
} fbp_epilogue;

/* The options of a softmax cross-entropy with targets t and logits z. All zeros: none. */
typedef struct {
    const void *class_weight; /* w (C) or NULL:  w_c ((1 - smoothing) t_c + smoothing / C) replaces t_c */
    double smoothing;
    double lse_square_scale;  /* s:  adds s lse² to the error */
    double softcap;           /* c > 0:  c tanh(z/c) replaces z */
    double weight_sum, weight_sum_lost; /* Σ w and its rounding error; read for labels with class weights and smoothing */
    int share_of_0;           /* whether, with smoothing > 0, some w_c smoothing / C may be 0 in the dtype */
} fbp_cross_entropy;

/* Errors whose outputs do not interact */
typedef struct {
    int kind;               /* its number in fastbp.h */
    const void *pos_weight; /* p (O) or NULL: factors of the terms in t of FBP_SIGMOID_CROSS_ENTROPY */
    double smoothing;       /* of FBP_SIGMOID_CROSS_ENTROPY:  (1 - smoothing) t + smoothing / 2  replaces t */
    double parameter;       /* of errors that have one: see errors.def */
} fbp_error;

#define REAL void
typedef struct {
#define FBP_KERNEL(result, name, parameters, arguments) result(*name) parameters;
#include "kernels.def"
#undef FBP_KERNEL
} fbp_kernels;
#undef REAL

/* The primitives in use for elements of 4 (float32) or 8 (float64) bytes. */
const fbp_kernels *fbp_kernels_for(size_t element_size);

/* Instruction sets, best first: the name of number i if this CPU can run it, "" if it cannot, NULL past the end */
const char *fbp_isa_name(int i);
/* The name of the instruction set in use; make another one the one in use: 0, or -1 if it is unknown or this CPU cannot run it */
const char *fbp_isa(void);
int fbp_use_isa(const char *name);

/* The unit that forms float32 products of so many pieces of each number, with the instruction set in use; "" if there is none */
const char *fbp_unit(int pieces);

#endif
