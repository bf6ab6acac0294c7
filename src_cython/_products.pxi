# Sums of tiles by matrix products, for kernels that are exponentials of a quadratic form (gaussian, dot): the body that is
# compiled for every instruction set with vectors. BLAS multiplies queries with rows of keys as the user keeps them, and
# weights with rows of values. No key is packed, which pays where queries are few; in many coordinates, with many values,
# BLAS is as fast as arithmetic gets.

from libc.math cimport INFINITY, exp, isinf
from libc.stdlib cimport free, malloc
from cython cimport floating as real
from scipy.linalg.cython_blas cimport dgemm, sgemm

cdef extern from "_rows.h" nogil:
    enum:
        FASTNW_GROUP
    void fastnw_row_squares_f32(const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, const float*, float, float*)
    void fastnw_row_squares_f64(
        const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, const double*, double, double*)
    float fastnw_largest_sum_f32(const float*, const float*, Py_ssize_t)
    double fastnw_largest_sum_f64(const double*, const double*, Py_ssize_t)
    double fastnw_powers_f32(float*, const float*, float, const float*, Py_ssize_t)
    double fastnw_powers_f64(double*, const double*, double, const double*, Py_ssize_t)
    void fastnw_weigh_one_f32(const float*, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*)
    void fastnw_weigh_one_f64(const double*, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*)
    void fastnw_weigh_group_f32(
        const float*, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t)
    void fastnw_weigh_group_f64(
        const double*, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t)

include "_blocks.pxi"
include "_flush.pxi"

cdef double LOG_2 = 0.6931471805599453

# Rows of keys and values, and how raw values become normalised ones: (value - centre) factor.
cdef struct Rows:
    Py_ssize_t size, d, c
    const void* keys
    Py_ssize_t key_stride
    const void* values
    Py_ssize_t value_stride
    const void* weights  # or NULL
    const double* centre
    const double* factor

# Queries as they are, and as the products take them.
cdef struct ScaledQueries:
    Py_ssize_t size
    bint inner_product
    const void* coords
    const void* scaled
    const void* half
    const void* inverse_squared
    const int64_t* own

# A row-major matrix.
cdef struct Matrix:
    const void* data
    int stride

# The buffers of a tile: (m, strip), (strip,), (m, c), (d,), (m,).
cdef struct Buffers:
    void* exponents
    void* bias
    void* row_sums
    void* zeros
    double* gained


cdef inline void _row_squares(
    const real* rows, Py_ssize_t stride, Py_ssize_t d, Py_ssize_t n, const real* q, const real* v, real factor, real* out
) noexcept nogil:
    if real is float:
        fastnw_row_squares_f32(rows, stride, d, n, q, v, factor, out)
    else:
        fastnw_row_squares_f64(rows, stride, d, n, q, v, factor, out)


cdef inline real _largest_sum(const real* s, const real* bias, Py_ssize_t n) noexcept nogil:
    if real is float:
        return fastnw_largest_sum_f32(s, bias, n)
    else:
        return fastnw_largest_sum_f64(s, bias, n)


cdef inline double _powers(real* s, const real* bias, real add, const real* w, Py_ssize_t n) noexcept nogil:
    if real is float:
        return fastnw_powers_f32(s, bias, add, w, n)
    else:
        return fastnw_powers_f64(s, bias, add, w, n)


cdef inline void _weigh_one(
    const real* g, const real* rows, Py_ssize_t stride, Py_ssize_t c, Py_ssize_t n, real* out
) noexcept nogil:
    if real is float:
        fastnw_weigh_one_f32(g, rows, stride, c, n, out)
    else:
        fastnw_weigh_one_f64(g, rows, stride, c, n, out)


cdef inline void _gemm(
    char* transposed, int m, int n, int k, Matrix a, Matrix b, real beta, real* c, int c_stride
) noexcept nogil:
    """c = a b + beta c in BLAS's order of columns; `transposed` is b"T" for the transpose of a, else b"N"."""
    cdef real one = 1
    if real is float:
        sgemm(transposed, b"N", &m, &n, &k, &one, <float*>a.data, &a.stride, <float*>b.data, &b.stride, &beta, c, &c_stride)
    else:
        dgemm(
            transposed, b"N", &m, &n, &k, &one, <double*>a.data, &a.stride, <double*>b.data, &b.stride, &beta, c, &c_stride)


cdef inline void _products(const ScaledQueries* queries, const Rows* rows, real* s) noexcept nogil:
    """s (m, n) = q (m, d) keys^T (d, n)."""
    cdef Py_ssize_t j = 0, width, d = rows.d, n = rows.size
    cdef Matrix keys, q
    keys.stride, q.stride = <int>rows.key_stride, <int>d
    while j < d:
        width = d - j if d - j < COORDINATES_PER_PRODUCT else COORDINATES_PER_PRODUCT
        keys.data, q.data = <const real*>rows.keys + j, <const real*>queries.scaled + j
        _gemm(b"T", <int>n, <int>queries.size, <int>width, keys, q, <real>(j > 0), s, <int>n)
        j += width


cdef double _weights(
    real* s, const real* bias, real add, const real* weights, Py_ssize_t n, Py_ssize_t left_out, const Sums* sums,
    Py_ssize_t c
) noexcept nogil:
    """Turn one query's exponents (of 2) s + bias + add into weights divided by exp(shift), in place; returns their sum,
    which is added to the mass.

    The shift is the largest exponent so far; what was summed before is rescaled.
    """
    cdef Py_ssize_t k
    cdef real z
    cdef double factor, gained = 0, clamp = EXP_CLAMP_NATS_F32 if sizeof(real) == 4 else EXP_CLAMP_NATS_F64
    if left_out >= 0:
        s[left_out] = <real>-INFINITY
    z = _largest_sum(s, bias, n) + add
    if z * LOG_2 > sums.shift[0]:
        if sums.mass[0] != 0:
            factor = exp(sums.shift[0] - z * LOG_2)
            sums.mass[0] *= factor
            for k in range(c):
                sums.total[k] *= factor
        sums.shift[0] = z * LOG_2
    # a row that adds nothing must still be 0 for the product with the values
    if isinf(z) or z * LOG_2 - sums.shift[0] < -clamp:
        for k in range(n):
            s[k] = 0
        return 0
    add = <real>(add - sums.shift[0] / LOG_2)
    if left_out < 0:
        gained = _powers(s, bias, add, weights, n)
    else:  # the keys before the one left out, and those after it: nothing could take it out of a sum again
        s[left_out] = 0
        gained = _powers(s, bias, add, weights, left_out)
        k = left_out + 1
        gained += _powers(s + k, bias + k, add, weights + k if weights != NULL else NULL, n - k)
    sums.mass[0] += gained
    return gained


cdef void _add_values(
    const Rows* rows, const real* s, Py_ssize_t m, const double* gained, real* row_sums, double* total
) noexcept nogil:
    """total (m, c) += s (m, n) (values - centre) factor: values are raw, states are not."""
    cdef Py_ssize_t i = 0, k, n = rows.size, c = rows.c
    cdef const real* values = <const real*>rows.values
    cdef double less
    cdef Matrix of_values, of_weights
    if m <= MAX_DIRECT_QUERIES or c % MAX_VECTOR_ELEMENTS == 0:
        while i + FASTNW_GROUP <= m and c % MAX_VECTOR_ELEMENTS == 0:
            if real is float:
                fastnw_weigh_group_f32(s + i * n, n, values, rows.value_stride, c, n, row_sums + i * c, c)
            else:
                fastnw_weigh_group_f64(s + i * n, n, values, rows.value_stride, c, n, row_sums + i * c, c)
            i += FASTNW_GROUP
        for i in range(i, m):
            _weigh_one(s + i * n, values, rows.value_stride, c, n, row_sums + i * c)
    else:
        of_values.data, of_values.stride, of_weights.data, of_weights.stride = values, <int>rows.value_stride, s, <int>n
        _gemm(b"N", <int>c, <int>m, <int>n, of_values, of_weights, <real>0, row_sums, <int>c)
    for i in range(m):
        less = gained[i]
        for k in range(c):
            total[i * c + k] += (<double>row_sums[i * c + k] - rows.centre[k] * less) * rows.factor[k]


cdef Rows _rows_from(const Rows* rows, Py_ssize_t start, Py_ssize_t size, Py_ssize_t itemsize) noexcept nogil:
    """So many rows from `start` on."""
    cdef Rows part = rows[0]
    part.size = size
    part.keys = <const char*>rows.keys + start * rows.key_stride * itemsize
    part.values = <const char*>rows.values + start * rows.value_stride * itemsize
    if rows.weights != NULL:
        part.weights = <const char*>rows.weights + start * itemsize
    return part


cdef double _sum_strips(
    const ScaledQueries* queries, const Rows* rows, const Sums* sums, const Buffers* buffers, Py_ssize_t strip,
    const real* inverse_squared
) noexcept nogil:
    """Add the sums of all rows, `strip` at a time; returns the largest of the keys' squared norms in bandwidths."""
    cdef Py_ssize_t i, k, start = 0, length, left_out, m = queries.size, d = rows.d, c = rows.c
    cdef bint direct = m <= MAX_DIRECT_QUERIES and not queries.inner_product
    cdef real least = 0, half_log2_e = <real>-0.7213475204444817
    cdef real* s = <real*>buffers.exponents
    cdef real* bias = <real*>buffers.bias
    cdef real* zeros = <real*>buffers.zeros
    cdef const real* coords = <const real*>queries.coords
    cdef const real* half = <const real*>queries.half
    cdef const real* keys
    cdef Rows part
    cdef Sums row
    for k in range(strip):
        bias[k] = 0
    for k in range(d):
        zeros[k] = 0
    while start < rows.size:
        length = strip if rows.size - start > strip else rows.size - start
        part = _rows_from(rows, start, length, sizeof(real))
        keys = <const real*>part.keys
        if direct:
            for i in range(m):
                _row_squares(keys, part.key_stride, d, length, coords + i * d, inverse_squared, half_log2_e, s + i * length)
        else:
            _products(queries, &part, s)
            _row_squares(keys, part.key_stride, d, length, zeros, inverse_squared, half_log2_e, bias)
            for k in range(length):
                least = min(least, bias[k])
                if queries.inner_product:
                    bias[k] = 0
        for i in range(m):
            left_out = -1
            if queries.own != NULL and 0 <= queries.own[i] - start < length:
                left_out = queries.own[i] - start
            row = _sums_at(sums, i, c)
            buffers.gained[i] = _weights(s + i * length, bias, <real>0 if direct else half[i], <const real*>part.weights,
                                         length, left_out, &row, c)
        if c > 0:
            _add_values(&part, s, m, buffers.gained, <real*>buffers.row_sums, sums.total)
        start += length
    return -<double>least / 0.7213475204444817


cdef double _product_tile(
    const ScaledQueries* queries, const Rows* rows, const Sums* sums, Py_ssize_t strip, const real* inverse_squared
) noexcept nogil:
    """`_sum_strips` with buffers of its own; -1 if there is no memory for them."""
    cdef Buffers buffers
    cdef double norm = -1
    cdef Py_ssize_t m = queries.size
    cdef real* s = <real*>malloc((m * strip + strip + m * rows.c + rows.d) * sizeof(real))
    buffers.gained = <double*>malloc(m * sizeof(double))
    if s != NULL and buffers.gained != NULL:
        buffers.exponents, buffers.bias, buffers.row_sums = s, s + m * strip, s + (m + 1) * strip
        buffers.zeros = s + (m + 1) * strip + m * rows.c
        norm = _sum_strips(queries, rows, sums, &buffers, strip, inverse_squared)
    free(s)
    free(buffers.gained)
    return norm


cdef int _fill_rows(Rows* rows, Arrays* arrays, object block, object factor, Py_ssize_t itemsize) except -1:
    """Fill `rows` from a `RowBlock`."""
    cdef Py_buffer* keys = _view(arrays, block.keys, FLOATS, itemsize, 2, PyBUF_STRIDES)
    cdef Py_buffer* values = _view(arrays, block.values, FLOATS, itemsize, 2, PyBUF_STRIDES)
    rows.size, rows.d, rows.c = keys.shape[0], keys.shape[1], values.shape[1]
    rows.keys, rows.key_stride = keys.buf, keys.strides[0] // itemsize
    rows.values, rows.value_stride = values.buf, values.strides[0] // itemsize
    if rows.d > 1 and keys.strides[1] != itemsize or rows.c > 1 and values.strides[1] != itemsize:
        raise ValueError("keys and values must be in contiguous rows")
    rows.weights = _read(arrays, block.weights, FLOATS, itemsize, 1)
    rows.centre = <const double*>_read(arrays, block.centre, FLOATS, sizeof(double), 1)
    rows.factor = <const double*>_read(arrays, factor, FLOATS, sizeof(double), 1)
    return 0


def product_tile(bint inner_product, queries, inverse_squared, keys, factor, own, state, Py_ssize_t strip):
    """Add the sums of a `RowBlock` to the state of a query block, in place; see fastnw/backends/backend.py.

    `queries` are their coordinates, these scaled for the products, and halves of their squared norms.

    Returns
    -------
    norm : float
        The largest of the keys' squared norms, or 0 where queries are so few that no products were taken.
    """
    cdef Arrays arrays
    cdef Rows rows
    cdef ScaledQueries of
    cdef Sums sums
    cdef double norm = 0
    cdef uint64_t before
    cdef Py_ssize_t itemsize
    arrays.count = 0
    coords, scaled, half = queries
    itemsize = coords.itemsize
    of.size, of.inner_product = len(coords), inner_product
    try:
        of.coords, of.scaled = _read(&arrays, coords, FLOATS, itemsize, 2), _read(&arrays, scaled, FLOATS, itemsize, 2)
        of.half = _read(&arrays, half, FLOATS, itemsize, 1)
        of.inverse_squared = _read(&arrays, inverse_squared, FLOATS, itemsize, 1)
        of.own = <const int64_t*>_read(&arrays, own, INTEGERS, sizeof(int64_t), 1)
        _fill_sums(&sums, &arrays, state)
        _fill_rows(&rows, &arrays, keys, factor, itemsize)
        if of.size > 0 and rows.size > 0:
            with nogil:
                if itemsize == sizeof(float):
                    before = _flush(<const float*>of.inverse_squared, rows.d, <const float*>NULL, 0)
                    norm = _product_tile(&of, &rows, &sums, strip, <const float*>of.inverse_squared)
                else:
                    before = _flush(<const double*>of.inverse_squared, rows.d, <const double*>NULL, 0)
                    norm = _product_tile(&of, &rows, &sums, strip, <const double*>of.inverse_squared)
                fastnw_restore(before)
    finally:
        _release(&arrays)
    if norm < 0:
        raise MemoryError("There is no memory for a tile of products. Use a shorter query block or fewer values.")
    return norm
