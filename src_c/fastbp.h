/* fastbp: the vector primitives of one row or one tile, compiled once per instruction set.
 *
 * A table of primitives belongs to one instruction set and one dtype; fbp_kernels_for() hands out the one in use. The functions
 * of a table take void pointers to that dtype's elements: a caller fetches the table once and is otherwise written for both.
 */
#ifndef FASTBP_H
#define FASTBP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef ptrdiff_t fbp_size; /* sizes, and strides in elements */

/* elementwise activations, by the names of fastbp.activations */
enum {
    FBP_IDENTITY, FBP_SIGMOID, FBP_TANH, FBP_RELU, FBP_LEAKY_RELU, FBP_GELU, FBP_SILU, FBP_SOFTPLUS, FBP_ACTIVATIONS
};

/* What a matrix product does with an element of the finished product while it is still in a register. */
typedef struct {
    int activation;     /* FBP_IDENTITY for none */
    const void *bias;   /* (N) or NULL:     C = f(A B + bias)       the forward pass */
    const void *slope;  /* (M, N) or NULL:  C = (A B) ⊙ f'(slope)   the recursion; what f' takes, see activate_backward */
    fbp_size slope_row;
    int accumulate;     /* C += A B, with no bias */
} fbp_epilogue;

#define REAL void
typedef struct {
#define FBP_KERNEL(result, name, parameters, arguments) result(*name) parameters;
#include "kernels.def"
#undef FBP_KERNEL
} fbp_kernels;
#undef REAL

/* The primitives in use for elements of 4 (float32) or 8 (float64) bytes. */
const fbp_kernels *fbp_kernels_for(size_t element_size);

/* Instruction sets, best first: the name of number i if this CPU can run it, "" if it can not, NULL past the end. */
const char *fbp_isa_name(int i);
/* The one in use; and choosing one by name: 0, or -1 if it is unknown or this CPU can not run it. */
const char *fbp_isa(void);
int fbp_use_isa(const char *name);

#ifdef __cplusplus
}
#endif
#endif
