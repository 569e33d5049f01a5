/* The preconditions of the primitives, which assert them in a debug build */
#include <assert.h>

/* p may be the address of n elements: it is aligned, and NULL only if n = 0 */
static inline int are_elements(const void *p, fbp_size n)
{
    return n == 0 || (n > 0 && p && (uintptr_t)p % _Alignof(real) == 0);
}

/* The a elements from p on and the b elements from q on do not overlap. */
static inline int are_apart(fbp_size a, const real *p, fbp_size b, const real *q)
{
    return a == 0 || b == 0 || (uintptr_t)(p + a) <= (uintptr_t)q || (uintptr_t)(q + b) <= (uintptr_t)p;
}

/* n elements from y on may be written while n elements from x on are read in the same order */
static inline int are_same_or_apart(fbp_size n, const real *x, const real *y) { return x == y || are_apart(n, x, n, y); }

/* The same for each of N rows */
static inline int each_same_or_apart(fbp_size N, fbp_size n, const real *x, fbp_size x_row, const real *y, fbp_size y_row)
{
    fbp_size row = 0;
    while (row < N && are_same_or_apart(n, x + row * x_row, y + row * y_row)) row++;
    return row >= N;
}

/* n elements from p on overlap none of N rows of row_length elements */
static inline int apart_from_rows(fbp_size n, const real *p, fbp_size N, fbp_size row_length, const real *x, fbp_size x_row)
{
    fbp_size row = 0;
    while (row < N && are_apart(n, p, row_length, x + row * x_row)) row++;
    return row >= N;
}

/* N rows of n elements at y may be written: no two share an element. */
static inline int are_rows(fbp_size N, fbp_size n, const real *y, fbp_size y_row)
{
    return N >= 0 && n >= 0 && (N == 0 || are_elements(y, n)) && (N <= 1 || y_row >= n || -y_row >= n);
}

static inline int is_activation(int kind) { return kind >= 0 && kind < FBP_ACTIVATIONS; }

static inline int are_labels(fbp_size N, fbp_size C, const int64_t *labels)
{
    fbp_size n = 0;
    while (n < N && labels[n] >= 0 && labels[n] < C) n++;
    return n >= N;
}

/* The options of a row of C logits have the scratch that they need, and no two of their arrays overlap. */
static inline int are_options(fbp_size C, const fbp_cross_entropy *options, const real *slope, const real *e)
{
    const real *w = options ? options->class_weight : NULL, *s = options && options->softcap > 0 ? slope : NULL;
    return (!options || options->softcap <= 0 || slope) && are_elements(w, w ? C : 0) && are_elements(s, s ? C : 0) &&
           are_elements(e, e ? C : 0) && (!s || !e || are_apart(C, s, C, e)) && (!w || !s || are_apart(C, w, C, s)) &&
           (!w || !e || are_apart(C, w, C, e));
}

/* The rule exists, its numbers are set, and no state vector occurs twice. */
static inline int is_update(const fbp_update *u, void *const *state)
{
    static const int states[] = {
#define FBP_UPDATE(name, states, corrected) states,
#include "updates.def"
#undef FBP_UPDATE
    };
    if (u->rule < 0 || u->rule >= FBP_UPDATES || !(u->bias[0] > 0 && u->bias[1] > 0)) return 0;
    for (int i = 0; i < FBP_STATES; i++) {
        if (state[i] && i >= states[u->rule] && i != FBP_AVERAGE) return 0;
        for (int j = 0; j < i; j++)
            if (state[i] && state[i] == state[j]) return 0;
    }
    return u->rule == FBP_UPDATE_sgd ? state[0] || u->rate[0] == 0 : state[0] && (u->rule != FBP_UPDATE_adam || state[1]);
}

/* n elements from p on overlap neither a matrix (rows, columns) nor the gaps between its elements. */
static inline int apart_from_matrix(fbp_size n, const real *p, fbp_size rows, fbp_size columns, const real *x, fbp_size x_row,
                                    fbp_size x_column)
{
    const fbp_size down = (rows - 1) * x_row, along = (columns - 1) * x_column, before = smaller(down, 0) + smaller(along, 0);
    return rows == 0 || columns == 0 || are_apart(n, p, down + along - 2 * before + 1, x + before);
}

static inline int are_operands(fbp_size M, fbp_size N, fbp_size K, const real *A, const real *B, const real *C, fbp_size C_row)
{
    return M >= 0 && N >= 0 && K >= 0 && are_elements(A, M * K) && are_elements(B, K * N) && (N == 0 || are_rows(M, N, C, C_row));
}

/* An update excludes every other part of an epilogue. */
static inline int is_epilogue(fbp_size M, fbp_size N, const fbp_epilogue *e, const real *C, fbp_size C_row)
{
    const int updates = e->update != NULL, others = e->bias || e->slope || e->accumulate || e->activation != FBP_IDENTITY;
    return is_activation(e->activation) && !(updates && others) &&
           (!updates || is_update(e->update, e->state)) &&
           (!e->bias || (are_elements(e->bias, N) && apart_from_rows(N, e->bias, M, N, C, C_row))) &&
           (!e->slope || (are_elements(e->slope, M * N) && each_same_or_apart(M, N, e->slope, e->slope_row, C, C_row)));
}

/* `room` elements of scratch overlap no operand. */
static inline int is_scratch(fbp_size room, const real *scratch, fbp_size M, fbp_size N, fbp_size K, const real *A,
                             fbp_size A_row, fbp_size A_column, const real *B, fbp_size B_row, fbp_size B_column, const real *C,
                             fbp_size C_row)
{
    return are_elements(scratch, room) && apart_from_matrix(room, scratch, M, K, A, A_row, A_column) &&
           apart_from_matrix(room, scratch, K, N, B, B_row, B_column) && apart_from_matrix(room, scratch, M, N, C, C_row, 1);
}
