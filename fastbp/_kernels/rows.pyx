"""The rows of an error function: which are read, with what weights, on which threads, and how their errors are reduced.

A. The primitives of src_c/rows compute a row; this module does what concerns several rows. A row's gradient depends on no
   other row, and the errors are added in order, in compensated float64: results do not depend on threads.
B. All facts about a call are in one struct, `Rows`, without a dtype: this code is compiled once, and networks train through
   it.
C. A row that is ignored or has weight 0 is not read.
D. Long calls run in slices, between which pending signals are polled.
E. The caller may change labels during a call: only a checked copy is used as an index. See src_c/memory/labels.h.
F. Class weights are scaled by a power of 2 near the largest, the unit, so that none overflows in the dtype and not all vanish.
   The unit cancels in a mean; a sum is multiplied by it at the end, which rounds nothing.
"""

from libc.math cimport NAN, fabs, frexp, isfinite, ldexp
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from fastbp._kernels.dispatch cimport fbp_cross_entropy, fbp_error
from fastbp._kernels.memory cimport LINE, element_at, line_start, plus, set_element, times, whole_lines
from fastbp._kernels.team cimport check_signals, fbp_team, fbp_team_share

cdef extern from "memory/labels.h" nogil:
    bint fbp_take_labels(Py_ssize_t count, Py_ssize_t classes, const int64_t *labels, int64_t *copy)
    int64_t fbp_label(const int64_t *labels, Py_ssize_t n)

cdef extern from * nogil:
    """
    #include <float.h>
    #include <math.h>

    static const struct error_of_def { const char *name; double largest_target, parameter; } FBP_ERROR_LIST[] = {
    #define FBP_ERROR(NUMBER, name, largest_target, parameter) {#name, largest_target, parameter},
    #include "errors.def"
    #undef FBP_ERROR
    };
    """
    ctypedef struct ErrorOfDef "struct error_of_def":
        const char *name
        double largest_target, parameter
    const ErrorOfDef *ERRORS "FBP_ERROR_LIST"
    int FBP_ERRORS

cdef enum:
    BLOCK = 256                 # rows whose labels are copied at a time
    MOST_EXPONENT = 1022        # of units that are normal numbers, like their reciprocals
cdef double ELEMENT_WORK = 0.5  # nanoseconds that one thread needs for an element, roughly; ten without vector instructions
cdef Py_ssize_t LONG_ROW = 16 * 1024          # bytes
cdef Py_ssize_t MUCH_MEMORY = 64 * 1024 * 1024
cdef double SMALL = 1e-37       # smaller numbers may underflow in float32
cdef double SLICE = 4e6         # nanoseconds, at that rate, between two polls
cdef Py_ssize_t ADDED = 16 * 1024**2  # errors that are summed between two polls
cdef Py_ssize_t PIECES = 4      # of a slice for each thread, so that none waits long for the others
cdef double PIECE_WORK = 8e3    # nanoseconds of the shortest piece that pays for handing it over


cdef inline void add(Sum *sum, double x) noexcept nogil:
    cdef double to = sum.rounded + x
    if fabs(sum.rounded) >= fabs(x):
        sum.lost += (sum.rounded - to) + x
    else:
        sum.lost += (x - to) + sum.rounded
    sum.rounded = to


cdef double value(Sum sum) noexcept nogil:
    return sum.rounded + sum.lost if isfinite(sum.rounded) else sum.rounded


# -- rows of one error -----------------------------------------------------------------------------------------------------------


ctypedef double (*Error)(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil


cdef inline void zero_row(const Rows *r, Py_ssize_t n) noexcept nogil:
    memset(r.d + n * r.d_row, 0, r.C * r.element)
    if r.h != NULL:
        memset(r.h + n * r.h_row, 0, r.C * r.element)


cdef inline void each_row(Error error, const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    """errors_n = s_n E_n; the gradient of errors_n / divisor goes to d. A row of weight 0 is not read."""
    cdef double weight
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        weight = sample_weight_of(r, n)
        if weight == 0:
            zero_row(r, n)
            s.errors[n] = 0
        else:
            s.errors[n] = weight * error(r, s, n, weight / p.divisor, p.thread)


cdef inline const char *target(const Rows *r, Py_ssize_t n) noexcept nogil:
    """The targets of row n, or NULL if targets are labels"""
    if r.t == NULL:
        return NULL
    return r.t + (n if r.order == NULL else r.order[n]) * r.t_row


cdef inline Py_ssize_t row_bytes(const Rows *r) noexcept nogil:
    """Bytes of a row of scratch"""
    return whole_lines(times(r.C, r.element))


cdef inline char *of_thread(const Rows *r, char *rows, int thread) noexcept nogil:
    """The row of scratch of a thread, or NULL if there are none"""
    return NULL if rows == NULL else rows + thread * row_bytes(r)


cdef inline fbp_cross_entropy options_of(const Rows *r, const Scratch *s) noexcept nogil:
    return fbp_cross_entropy(s.weight, r.smoothing, r.lse_square_scale * class_unit(r), r.softcap, s.weight_sum.rounded,
                             s.weight_sum.lost, s.share_of_0)


cdef double target_sum(const Rows *r, const Scratch *s, Py_ssize_t n, int64_t label) noexcept nogil:
    """Σ_c u_c of row n, u_c the effective targets, in units; `label` is its label, if targets are labels"""
    cdef Sum hot = Sum(0, 0)
    cdef double t, all_classes = r.C if s.weight == NULL else value(s.weight_sum)
    cdef Py_ssize_t c
    if r.t == NULL:
        add(&hot, 1 if s.weight == NULL else element_at(s.weight, label, r.element))
    else:
        for c in range(r.C):
            t = element_at(target(r, n), c, r.element)
            add(&hot, t if s.weight == NULL else t * element_at(s.weight, c, r.element))
    return (1 - r.smoothing) * value(hot) + r.smoothing / r.C * all_classes


cdef inline void softmax_hessian(const Rows *r, Py_ssize_t n, double scale) noexcept nogil:
    """d²E/dz² = Σu y (1 - y), Σu in `scale`. It precedes the gradient, which may overwrite z."""
    r.k.softmax_hessian_row(r.C, r.z + n * r.z_row, scale, r.h + n * r.h_row)


cdef double softmax_cross_entropy_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    cdef fbp_cross_entropy options = options_of(r, s)
    if r.h != NULL:
        softmax_hessian(r, n, scale * target_sum(r, s, n, 0))
    return r.k.softmax_cross_entropy_row(r.C, r.z + n * r.z_row, target(r, n), 0, &options, scale, of_thread(r, s.slopes, thread),
                                         of_thread(r, s.exponentials, thread), r.d + n * r.d_row)


cdef double elementwise_error_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    if r.h != NULL:
        r.k.sigmoid_hessian_row(r.C, r.z + n * r.z_row, target(r, n), &s.elementwise, scale, r.h + n * r.h_row)
    return r.k.elementwise_error_row(r.C, r.z + n * r.z_row, target(r, n), &s.elementwise, scale, r.d + n * r.d_row)


cdef void take_labels(const Rows *r, const Scratch *s, Py_ssize_t start, Py_ssize_t rows, int64_t *labels) noexcept nogil:
    """Copy the labels of at most BLOCK rows; a label that is no class becomes 0, and sets `astray` if its row is read."""
    cdef Py_ssize_t n
    if fbp_take_labels(rows, r.C, r.labels + start, labels):
        return
    for n in range(rows):
        if <uint64_t>labels[n] >= <uint64_t>r.C:
            labels[n] = 0
            if not s.weighted or s.errors[start + n] != 0:
                s.astray[0] = True


cdef void softmax_hessian_piece(const Rows *r, const Scratch *s, Piece p, const int64_t *labels, bint plain) noexcept nogil:
    """Rows with these labels, whose weights are in `errors`. If the options are `plain`, class weights are among them."""
    cdef double weight
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        weight = s.errors[n] if s.weighted else 1
        if weight == 0:
            memset(r.h + n * r.h_row, 0, r.C * r.element)
            continue
        if not plain:
            weight *= target_sum(r, s, n, labels[n - p.start])
        softmax_hessian(r, n, weight / p.divisor)


cdef void softmax_cross_entropy_piece(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    cdef fbp_cross_entropy options = options_of(r, s)
    cdef bint plain = r.smoothing == 0 and r.lse_square_scale == 0 and r.softcap == 0 and not s.weight_of_0
    cdef int64_t labels[BLOCK]
    cdef double *errors
    cdef Py_ssize_t n, start, rows
    if r.labels == NULL:
        each_row(softmax_cross_entropy_row, r, s, p)
        return
    if s.weighted and not plain:  # E includes the class weights
        for n in range(p.start, p.stop):
            s.errors[n] = sample_weight_of(r, n)
    start = p.start
    while start < p.stop:
        rows, errors = min(BLOCK, p.stop - start), s.errors + start
        take_labels(r, s, start, rows, labels)
        if r.h != NULL:
            softmax_hessian_piece(r, s, Piece(start, start + rows, p.divisor, p.thread), labels, plain)
        r.k.softmax_cross_entropy_rows(rows, r.C, r.z + start * r.z_row, r.z_row // r.element, labels,
                                       errors if s.weighted else NULL, p.divisor, NULL if plain else &options,
                                       of_thread(r, s.slopes, p.thread), of_thread(r, s.exponentials, p.thread),
                                       r.d + start * r.d_row, r.d_row // r.element, errors)
        start += rows


cdef void elementwise_error_piece(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    if r.C == 1 and r.z_row == r.t_row == r.d_row == r.element and r.order == NULL and r.h == NULL:
        elementwise_error_column(r, s, p)
    else:
        each_row(elementwise_error_row, r, s, p)


cdef inline double rounded(double x, Py_ssize_t element) noexcept nogil:
    """x in the dtype"""
    return <float>x if element == sizeof(float) else x


cdef void elementwise_error_column(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    """Rows of one output, to the bits of each_row(): whole vectors of them at first, then the weights"""
    cdef double weight
    cdef char *d
    cdef Py_ssize_t n, at = p.start * r.element
    r.k.elementwise_error_column(p.stop - p.start, r.z + at, r.t + at, &s.elementwise, 1 if s.weighted else 1 / p.divisor,
                                 r.d + at, s.errors + p.start)
    if not s.weighted:
        return
    for n in range(p.start, p.stop):
        weight, d = sample_weight_of(r, n), r.d + n * r.element
        if weight == 0:
            set_element(d, 0, r.element, 0)
            s.errors[n] = 0
        else:
            set_element(d, 0, r.element, element_at(d, 0, r.element) * rounded(weight / p.divisor, r.element))
            s.errors[n] *= weight


_KINDS = {ERRORS[i].name.decode(): i for i in range(FBP_ERRORS)} | {"softmax_cross_entropy": -1}


cdef RowError row_error_named(str name) except *:
    cdef int kind = _KINDS[name]
    if kind < 0:  # networks take labels alone on the fast path, so targets need no limit
        return RowError(softmax_cross_entropy_piece, kind, 0, True, NAN)
    return RowError(elementwise_error_piece, kind, ERRORS[kind].parameter, False, ERRORS[kind].largest_target)


# -- the weights of rows ---------------------------------------------------------------------------------------------------


cdef void set_class_weight(Rows *r, const double *weight) noexcept nogil:
    cdef double largest = 0
    cdef Py_ssize_t c
    r.class_weight, r.class_exponent = weight, 0
    if weight == NULL:
        return
    for c in range(r.C):
        if fabs(weight[c]) > largest and isfinite(weight[c]):
            largest = fabs(weight[c])
    frexp(largest, &r.class_exponent)
    r.class_exponent = max(-MOST_EXPONENT, min(r.class_exponent, MOST_EXPONENT))


cdef double class_unit(const Rows *r) noexcept nogil:
    return 1 if r.class_exponent == 0 else ldexp(1, -r.class_exponent)


cdef double class_weight_of(const Rows *r, const Scratch *s, Py_ssize_t n) noexcept nogil:
    """w_label, or for a row of targets the mean class weight Σ_c w_c t_c / Σ_c t_c, 1 if Σ_c t_c = 0"""
    cdef Sum weighted = Sum(0, 0), total = Sum(0, 0)
    cdef double t
    cdef int64_t label
    cdef Py_ssize_t c
    if r.t == NULL:
        label = fbp_label(r.labels, n)
        if <uint64_t>label < <uint64_t>r.C:
            return r.class_weight[label] * s.class_unit
        s.astray[0] = True
        return NAN
    for c in range(r.C):
        t = element_at(target(r, n), c, r.element)
        add(&weighted, r.class_weight[c] * s.class_unit * t)
        add(&total, t)
    return s.class_unit if value(total) == 0 else value(weighted) / value(total)


cdef inline double sample_weight_of(const Rows *r, Py_ssize_t n) noexcept nogil:
    """s_n; 0 for an ignored row."""
    if r.ignores and r.labels[n] == r.ignore_index:
        return 0
    return 1 if r.sample_weight == NULL else r.sample_weight[n]


cdef bint is_read(const Rows *r, Py_ssize_t n) noexcept nogil:
    return sample_weight_of(r, n) != 0


cdef bint may_be_weighted(const Rows *r) noexcept nogil:
    """Whether any row may have a weight other than 1"""
    cdef Py_ssize_t n, ignored = 0
    if r.sample_weight != NULL or r.class_weight != NULL:
        return True
    if r.ignores:
        for n in range(r.N):
            ignored += r.labels[n] == r.ignore_index
    return ignored > 0


cdef void weights_of_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    """errors_n = w_n = s_n times the class weight of row n's target"""
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        s.errors[n] = sample_weight_of(r, n)
        if r.class_weight != NULL and s.errors[n] != 0:
            s.errors[n] *= class_weight_of(r, s, n)


cdef void rows_of_zeros(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        zero_row(r, n)


# -- all rows --------------------------------------------------------------------------------------------------------------


cdef bint is_streamed(const Rows *r) noexcept nogil:
    """Whether to write the gradient by non-temporal stores: if it has long rows, is larger than the caches, and overwrites used
    memory, which ordinary stores would first load. New memory is in the caches, since the system has just cleared its pages."""
    return r.reused and times(r.C, r.element) >= LONG_ROW and times(r.N, times(r.C, r.element)) >= MUCH_MEMORY


cdef Py_ssize_t scratch_bytes(const Rows *r, int threads) noexcept nogil:
    cdef bint weighted = r.class_weight != NULL or r.pos_weight != NULL
    cdef Py_ssize_t rows = weighted + threads * ((r.softcap != 0) + is_streamed(r))
    return plus(plus(times(r.N, sizeof(double)), LINE), times(rows, row_bytes(r)))


cdef Scratch divided(const Rows *r, char *memory, int threads, bint *astray) noexcept nogil:
    """Divide `memory`, of scratch_bytes(), into its parts, and fill in the class weights."""
    cdef Scratch s
    cdef const double *weight = r.class_weight if r.class_weight != NULL else r.pos_weight
    cdef Py_ssize_t c, copies
    cdef double weight_c
    memset(&s, 0, sizeof(s))
    s.errors = <double *>memory
    s.astray = astray
    s.class_unit = class_unit(r)
    s.weighted = may_be_weighted(r)
    s.weight = line_start(<char *>(s.errors + r.N))
    s.slopes = s.weight
    if weight == NULL:
        s.weight = NULL
    else:
        s.slopes += row_bytes(r)
        for c in range(r.C):
            weight_c = weight[c] * s.class_unit
            set_element(s.weight, c, r.element, weight_c)
            if r.C == 1:  # for elementwise_error_column
                for copies in range(1, LINE // r.element):
                    set_element(s.weight, copies, r.element, weight_c)
            s.weight_of_0 = s.weight_of_0 or weight[c] == 0
            s.share_of_0 = s.share_of_0 or (r.smoothing != 0 and fabs(weight_c) * r.smoothing / r.C < SMALL)
            add(&s.weight_sum, element_at(s.weight, c, r.element))
    s.exponentials = s.slopes + threads * (r.softcap != 0) * row_bytes(r) if is_streamed(r) else NULL
    return s


cdef bint fits(const Rows *r, const Scratch *s, int threads) noexcept nogil:
    """Whether the parts of the scratch do not overlap, and end within scratch_bytes()"""
    cdef const char *end = <const char *>(s.errors + r.N)
    if s.weight != NULL:
        if s.weight < end:
            return False
        end = s.weight + r.C * r.element
    if r.softcap != 0:
        if s.slopes < end:
            return False
        end = s.slopes + threads * row_bytes(r)
    if s.exponentials != NULL:
        if s.exponentials < end:
            return False
        end = s.exponentials + threads * row_bytes(r)
    return end <= <const char *>s.errors + scratch_bytes(r, threads)


cdef double row_work(const Rows *r) noexcept nogil:
    return ELEMENT_WORK * (r.C + 16) * (1 if r.h == NULL else 2)


cdef double error_work(const Rows *r) noexcept nogil:
    return row_work(r) * r.N


# Rows from `start` up to `stop`, cut into pieces
cdef struct Slice:
    PieceWork work
    const Rows *r
    const Scratch *s
    double divisor
    Py_ssize_t start, stop, pieces


cdef void piece_of_slice(const void *slice, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Slice *all = <const Slice *>slice
    cdef Py_ssize_t rows = all.stop - all.start
    cdef Py_ssize_t start = all.start + rows * i // all.pieces, stop = all.start + rows * (i + 1) // all.pieces
    all.work(all.r, all.s, Piece(start, stop, all.divisor, thread))


cdef int over_rows(PieceWork work, const Rows *r, const Scratch *s, double divisor, fbp_team *team) except -1 nogil:
    """All rows, in slices, and a slice in pieces"""
    cdef Slice slice = Slice(work, r, s, divisor, 0, 0, 0)
    cdef Py_ssize_t step = (<Py_ssize_t>(SLICE / row_work(r)) + 1) * team.threads
    assert fits(r, s, team.threads) and r.z_row % r.element == 0 and r.d_row % r.element == 0
    while slice.start < r.N:
        slice.stop = min(slice.start + step, r.N)
        slice.pieces = 1 if team.threads == 1 else PIECES * team.threads
        slice.pieces = max(1, min(slice.pieces, <Py_ssize_t>((slice.stop - slice.start) * row_work(r) / PIECE_WORK)))
        fbp_team_share(team, piece_of_slice, &slice, slice.pieces)
        slice.start = slice.stop
        if slice.start < r.N:
            check_signals()
    return 0


cdef int over_errors(RowError error, const Rows *r, Scratch *s, double divisor, fbp_team *team) except -1 nogil:
    s.elementwise = fbp_error(error.kind, s.weight, r.smoothing, error.parameter)
    return over_rows(error.work, r, s, divisor, team)


cdef int add_rows(const Rows *r, const Scratch *s, Sum *total) except -1 nogil:
    cdef Py_ssize_t n, start = 0
    while start < r.N:
        for n in range(start, min(start + ADDED, r.N)):
            add(total, s.errors[n])
        start += ADDED
        if start < r.N:
            check_signals()
    return 0


cdef int weigh(const Rows *r, const Scratch *s, fbp_team *team, Sum *total) except -1 nogil:
    if not s.weighted:
        add(total, r.N)
        return 0
    over_rows(weights_of_rows, r, s, 1, team)
    return add_rows(r, s, total)


cdef int stayed(const Rows *r, bint astray) except -1 nogil:
    """Raise TargetIndexError if a label has gone astray."""
    if not astray:
        return 0
    with gil:
        from fastbp._errors import gone_astray
        raise gone_astray(r.C)


cdef int add_weights(const Rows *r, fbp_team *team, char *memory, Sum *total) except -1 nogil:
    cdef bint astray = False
    cdef Scratch s = divided(r, memory, team.threads, &astray)
    weigh(r, &s, team, total)
    return stayed(r, astray)


cdef int add_errors(const Rows *r, RowError error, double divisor, fbp_team *team, char *memory, Sum *total) except -1 nogil:
    cdef bint astray = False
    cdef Scratch s = divided(r, memory, team.threads, &astray)
    if s.weighted and r.t == NULL:  # the primitive for labels takes weights
        over_rows(weights_of_rows, r, &s, 1, team)
    over_errors(error, r, &s, divisor, team)
    add_rows(r, &s, total)
    return stayed(r, astray)


cdef double reduced(const Rows *r, RowError error, bint mean, fbp_team *team, char *memory, double *weight_sum,
                    bint *astray) except? -1 nogil:
    """The mean or sum of the errors. Sets d, weight_sum, astray, and the weighted errors at the start of `memory`."""
    cdef Scratch s = divided(r, memory, team.threads, astray)
    cdef Sum weights = Sum(0, 0), errors = Sum(0, 0)
    astray[0] = False
    weigh(r, &s, team, &weights)
    weight_sum[0] = value(weights) / s.class_unit
    if mean and weight_sum[0] == 0:
        over_rows(rows_of_zeros, r, &s, 1, team)
        return NAN
    over_errors(error, r, &s, value(weights) if mean else s.class_unit, team)
    add_rows(r, &s, &errors)
    return value(errors) / (value(weights) if mean else s.class_unit)
