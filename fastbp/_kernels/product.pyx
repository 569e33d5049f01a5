"""A matrix product with its epilogue, divided over threads.

C (M, N) is cut along its longer side into pieces, which the threads of a team take, each with its own scratch. An element of C
is the same sum in the same order for any cut, so the number of threads changes no bit. A product of seconds is cut along the
same side into slices, and a very long sum into parts, so that signals are polled.
"""

from libc.stdint cimport uintptr_t

from fastbp._kernels.dispatch cimport FBP_IDENTITY, FBP_STATES
from fastbp._kernels.memory cimport LINE, times, whole_lines
from fastbp._kernels.team cimport check_signals, fbp_team_share, poll

cdef double OPERATION_WORK = 0.02  # nanoseconds of one thread for a multiply-add, roughly; from pieces half of it
cdef double ELEMENT_WORK = 0.5     # nanoseconds of an activation of an element
cdef double PIECE_WORK = 8_000.0   # nanoseconds of the shortest piece that pays for handing it over
cdef double SMALL = 2 * PIECE_WORK / OPERATION_WORK  # multiply-adds of a product that is never cut
cdef Py_ssize_t LONG_PIECE = 1024  # rows or columns; longer pieces amortize packing the other operand, once for each piece
cdef double SLICE_PER_COLUMN = 1.2e8  # multiply-adds of a thread between two polls, for each column of a tile
cdef double MOVED = 100.0          # multiply-adds in the time of loading a number from memory, or storing it to a new page
cdef double ACTIVATED = 500.0      # multiply-adds in the time of the slowest activation of a number
cdef Py_ssize_t SUMMED = 8 * 1024**2  # elements of a column sum between two polls
cdef Py_ssize_t LONG_SUM = 256 * 1024  # terms between two polls; a multiple of the depth of all blocks


cdef double operations(const Product *p) noexcept nogil:
    """Multiply-adds; those of pieces, twice as fast, count half."""
    cdef double number = <double>p.M * p.N * p.K
    return number / 2 if p.epilogue.pieces else number


cdef double product_work(const Product *p) noexcept nogil:
    cdef double work = OPERATION_WORK * operations(p)
    return work if p.epilogue.activation == FBP_IDENTITY else work + ELEMENT_WORK * p.M * p.N


cdef inline bint by_rows(const Product *p) noexcept nogil:
    """Whether C is cut into rows, or into columns: along its longer side"""
    return p.M >= p.N


cdef inline Py_ssize_t longer_side(const Product *p) noexcept nogil:
    return max(p.M, p.N)


cdef Py_ssize_t equal_parts(Py_ssize_t length, Py_ssize_t parts, Py_ssize_t unit) noexcept nogil:
    """The length of a part, in whole units; the last part may be shorter"""
    return ((length + parts - 1) // parts + unit - 1) // unit * unit


cdef Py_ssize_t piece_length(const Product *p, int threads) noexcept nogil:
    """Rows or columns of a piece: one to four pieces for each thread, depending on their length; none below PIECE_WORK"""
    cdef Py_ssize_t length = longer_side(p), unit = 8 if by_rows(p) else p.k.tile_columns()
    cdef Py_ssize_t for_each = max(1, min(4, length // (threads * LONG_PIECE)))
    cdef Py_ssize_t pieces = min(threads * for_each, <Py_ssize_t>(product_work(p) / PIECE_WORK))
    return length if threads == 1 or pieces <= 1 else equal_parts(length, pieces, unit)


cdef double moved(const Product *p) noexcept nogil:
    """The time of reading the operand that is cut, writing C, and an activation, in multiply-adds"""
    cdef double of_element = MOVED if p.epilogue.activation == FBP_IDENTITY else MOVED + ACTIVATED
    return MOVED * longer_side(p) * p.K + of_element * p.M * p.N


cdef Py_ssize_t slice_length(const Product *p, int threads) noexcept nogil:
    """The length of a slice of at most a tenth of a second, if speed is proportional to the columns of a tile"""
    cdef Py_ssize_t length = longer_side(p), unit = threads * (8 if by_rows(p) else p.k.tile_columns())
    cdef double slices = (operations(p) / threads + moved(p)) / (SLICE_PER_COLUMN * p.k.tile_columns())
    return equal_parts(length, <Py_ssize_t>min(slices, <double>length) + 1, unit)


cdef Product part_of(const Product *p, Py_ssize_t start, Py_ssize_t length) noexcept nogil:
    """The part of a product from `start` on along its longer side, of at most `length`"""
    cdef Product part = p[0]
    cdef int i
    cdef Py_ssize_t row = start if by_rows(p) else 0, column = 0 if by_rows(p) else start
    cdef Py_ssize_t at = (row * p.C_row + column) * p.element
    if by_rows(p):
        part.M = min(length, p.M - start)
    else:
        part.N = min(length, p.N - start)
    part.A = p.A + row * p.A_row * p.element
    part.B = p.B + column * p.B_column * p.element
    part.C = p.C + at
    if p.epilogue.bias != NULL:
        part.epilogue.bias = <const char *>p.epilogue.bias + column * p.element
    if p.epilogue.slope != NULL:
        part.epilogue.slope = <const char *>p.epilogue.slope + (row * p.epilogue.slope_row + column) * p.element
    for i in range(FBP_STATES):
        if p.epilogue.state[i] != NULL:
            part.epilogue.state[i] = <char *>p.epilogue.state[i] + at
    return part


cdef Py_ssize_t thread_scratch(const Product *p) noexcept nogil:
    """Bytes of scratch of each thread, enough for any piece"""
    return whole_lines(times(p.k.matrix_product_scratch(p.M, p.N, p.K, p.epilogue.pieces), p.element))


cdef Py_ssize_t product_scratch(const Product *p, int threads) noexcept nogil:
    return times(threads, thread_scratch(p))


# A product cut into pieces
cdef struct Pieces:
    const Product *p
    Py_ssize_t length
    char *scratch


cdef void multiply_piece(const void *pieces, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Pieces *all = <const Pieces *>pieces
    cdef const Product *p = all.p
    cdef Product piece = part_of(p, i * all.length, all.length)
    p.k.matrix_product(piece.M, piece.N, p.K, piece.A, p.A_row, p.A_column, piece.B, p.B_row, p.B_column, &piece.epilogue,
                       all.scratch + thread * thread_scratch(p), piece.C, p.C_row)


cdef void multiply_at_once(const Product *p, char *scratch, fbp_team *team) noexcept nogil:
    cdef Pieces pieces
    if <double>p.M * p.N * p.K < SMALL:
        p.k.matrix_product(p.M, p.N, p.K, p.A, p.A_row, p.A_column, p.B, p.B_row, p.B_column, &p.epilogue, scratch, p.C, p.C_row)
        return
    pieces = Pieces(p, piece_length(p, team.threads), scratch)
    fbp_team_share(team, multiply_piece, &pieces, (longer_side(p) + pieces.length - 1) // pieces.length)


cdef int multiply_slices(const Product *p, char *scratch, fbp_team *team) except -1 nogil:
    cdef Py_ssize_t start = 0, length = longer_side(p), step = slice_length(p, team.threads)
    cdef Product part
    if step >= length:
        multiply_at_once(p, scratch, team)
        return 0
    while start < length:
        part = part_of(p, start, step)
        multiply_at_once(&part, scratch, team)
        start += step
        if start < length:
            check_signals()
    return 0


cdef Product terms_of(const Product *p, Py_ssize_t start) noexcept nogil:
    """Up to LONG_SUM terms of each sum, from `start` on, added to the earlier ones in C; the activation comes with the last"""
    cdef Product part = p[0]
    part.K = min(LONG_SUM, p.K - start)
    part.A = p.A + start * p.A_column * p.element
    part.B = p.B + start * p.B_row * p.element
    part.epilogue.accumulate = p.epilogue.accumulate or start > 0
    if start + part.K < p.K:
        part.epilogue.activation, part.epilogue.slope = FBP_IDENTITY, NULL
    return part


cdef int multiply(const Product *p, char *scratch, fbp_team *team) except -1 nogil:
    cdef Py_ssize_t start = 0
    cdef double unpolled = 0
    cdef Product part
    assert <uintptr_t>scratch % LINE == 0
    if p.M == 0 or p.N == 0:
        return 0
    if p.K <= LONG_SUM:
        return multiply_slices(p, scratch, team)
    while start < p.K:
        part = terms_of(p, start)
        multiply_slices(&part, scratch, team)
        poll(&unpolled, OPERATION_WORK * (operations(&part) / team.threads + moved(&part)))
        start += LONG_SUM
    return 0


cdef double column_sums(const fbp_kernels *k, Py_ssize_t N, Py_ssize_t O, const char *x, Py_ssize_t x_row, Py_ssize_t element,
                        char *sums) except? -1 nogil:
    cdef Py_ssize_t start = 0, rows = SUMMED // (O + 16) + 1
    cdef double magnitude = 0, unpolled = 0
    while True:
        magnitude += k.column_sums(min(rows, N - start), O, x + start * x_row * element, x_row, start > 0, sums)
        start += rows
        if start >= N:
            return magnitude
        poll(&unpolled, MOVED * OPERATION_WORK * rows * (O + 16))
