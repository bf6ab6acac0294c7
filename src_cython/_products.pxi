# The matrix-product form of every instruction set: exponents of kernels that are exp of a quadratic form (gaussian, dot)
# from BLAS products with rows of keys as the user keeps them, values weighed by a second product. No key is packed, which
# is what few queries need; in many coordinates, with many values, BLAS is as fast as arithmetic gets.

from libc.math cimport INFINITY, exp, isinf
from libc.stdint cimport int64_t
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

include "_flush.pxi"

cdef enum:
    VECTOR = 16  # a multiple of the longest vector
    FEW = 4      # queries up to which rows are gone through directly: faster than BLAS, and exact differences
    PANEL = 128  # coordinates a product adds up before it is rounded into the sum: bounds the error in hundreds of them

cdef double LOG2 = 0.6931471805599453


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
    char* side, int m, int n, int k, const real* a, int lda, const real* b, int ldb, real beta, real* c, int ldc
) noexcept nogil:
    cdef real one = 1
    if real is float:
        sgemm(side, b"N", &m, &n, &k, &one, <float*>a, &lda, <float*>b, &ldb, &beta, c, &ldc)
    else:
        dgemm(side, b"N", &m, &n, &k, &one, <double*>a, &lda, <double*>b, &ldb, &beta, c, &ldc)


cdef inline void _products(
    const real* q, Py_ssize_t m, const real* keys, Py_ssize_t stride, Py_ssize_t d, Py_ssize_t n, real* s
) noexcept nogil:
    """s (m, n) = q (m, d) keys^T (d, n)."""
    cdef Py_ssize_t j = 0, width
    while j < d:
        width = d - j if d - j < PANEL else PANEL
        _gemm(b"T", <int>n, <int>m, <int>width, keys + j, <int>stride, q + j, <int>d, <real>(j > 0), s, <int>n)
        j += width


cdef double _weights(
    real* s, const real* bias, real add, const real* weights, Py_ssize_t n, Py_ssize_t self_at, double* shift, double* mass,
    double* total, Py_ssize_t c,
) noexcept nogil:
    """One query's exponents (of 2) s + bias + add -> weights in units of exp(shift), in place; their sum, added to mass.

    The shift is the largest exponent so far; what was summed before is rescaled.
    """
    cdef Py_ssize_t k
    cdef real z
    cdef double factor, gained = 0
    if self_at >= 0:
        s[self_at] = <real>-INFINITY
    z = _largest_sum(s, bias, n) + add
    if z * LOG2 > shift[0]:
        if mass[0] != 0:
            factor = exp(shift[0] - z * LOG2)
            mass[0] *= factor
            for k in range(c):
                total[k] *= factor
        shift[0] = z * LOG2
    # a row that adds nothing must still be 0 for the product with the values
    if isinf(z) or z * LOG2 - shift[0] < (-80.0 if sizeof(real) == 4 else -690.0):
        for k in range(n):
            s[k] = 0
        return 0
    add = <real>(add - shift[0] / LOG2)
    if self_at < 0:
        gained = _powers(s, bias, add, weights, n)
    else:  # the keys before the one left out, and those after it: it never enters a sum, from which nothing would take it
        s[self_at] = 0
        gained = _powers(s, bias, add, weights, self_at)
        k = self_at + 1
        gained += _powers(s + k, bias + k, add, weights + k if weights != NULL else NULL, n - k)
    mass[0] += gained
    return gained


cdef void _add_values(
    const real* s, Py_ssize_t m, const real* values, Py_ssize_t stride, Py_ssize_t c, Py_ssize_t n, const double* gained,
    const double* centre, const double* factor, double* total, real* sums,
) noexcept nogil:
    """total (m, c) += s (m, n) (values - centre) factor: values are raw, states are not."""
    cdef Py_ssize_t i = 0, k
    cdef double less
    if m <= FEW or c % VECTOR == 0:
        while i + FASTNW_GROUP <= m and c % VECTOR == 0:
            if real is float:
                fastnw_weigh_group_f32(s + i * n, n, values, stride, c, n, sums + i * c, c)
            else:
                fastnw_weigh_group_f64(s + i * n, n, values, stride, c, n, sums + i * c, c)
            i += FASTNW_GROUP
        for i in range(i, m):
            _weigh_one(s + i * n, values, stride, c, n, sums + i * c)
    else:
        _gemm(b"N", <int>c, <int>m, <int>n, values, <int>stride, s, <int>n, <real>0, sums, <int>c)
    for i in range(m):
        less = gained[i]
        for k in range(c):
            total[i * c + k] += (<double>sums[i * c + k] - centre[k] * less) * factor[k]


cdef double _product_tile(
    bint inner, const real* queries, const real* scaled, const real* half, Py_ssize_t m, const real* keys,
    Py_ssize_t key_stride, Py_ssize_t d, const real* values, Py_ssize_t value_stride, Py_ssize_t c, const real* weights,
    const real* inv2, Py_ssize_t n, Py_ssize_t strip, const int64_t* own, double* shift, double* mass, double* total,
    const double* centre, const double* factor,
) noexcept nogil:
    cdef bint few = m <= FEW and not inner
    cdef Py_ssize_t i, k, start = 0, length, self_at
    cdef real least = 0
    cdef real* s = <real*>malloc((m * strip + strip + m * c + d) * sizeof(real))
    cdef double* gained = <double*>malloc(m * sizeof(double))
    cdef real* bias = s + m * strip
    cdef real* sums = bias + strip
    cdef real* zeros = sums + m * c
    if s == NULL or gained == NULL:
        free(s)
        free(gained)
        return -1
    for k in range(strip):
        bias[k] = 0
    for k in range(d):
        zeros[k] = 0
    while start < n:
        length = strip if n - start > strip else n - start
        if few:
            for i in range(m):
                _row_squares(keys, key_stride, d, length, queries + i * d, inv2, <real>-0.7213475204444817, s + i * length)
        else:
            _products(scaled, m, keys, key_stride, d, length, s)
            _row_squares(keys, key_stride, d, length, zeros, inv2, <real>-0.7213475204444817, bias)
            for k in range(length):
                least = min(least, bias[k])
                if inner:
                    bias[k] = 0
        for i in range(m):
            self_at = -1
            if own != NULL and 0 <= own[i] - start < length:
                self_at = own[i] - start
            gained[i] = _weights(s + i * length, bias, <real>0 if few else half[i], weights, length, self_at,
                                 shift + i, mass + i, total + i * c, c)
        if c > 0:
            _add_values(s, m, values, value_stride, c, length, gained, centre, factor, total, sums)
        start += length
        keys += length * key_stride
        values += length * value_stride
        if weights != NULL:
            weights += length
    free(s)
    free(gained)
    return -<double>least / 0.7213475204444817


def product_tile(
    bint inner, const real[:, ::1] queries, const real[:, ::1] scaled, const real[::1] half, const real[:, :] keys,
    const real[:, :] values, const real[::1] weights, const real[::1] inv2, const int64_t[::1] own, double[::1] shift,
    double[::1] mass, double[:, ::1] total, const double[::1] centre, const double[::1] factor, Py_ssize_t strip,
):
    """Add the sums of rows of keys to the state of a query block, in place; see backends/compiled.py.

    Returns the largest of the keys' squared norms, or 0 where there are so few queries that no products were taken.
    """
    cdef Py_ssize_t m = queries.shape[0], d = queries.shape[1], n = keys.shape[0], c = total.shape[1]
    cdef double nothing = 0
    cdef real none = 0
    cdef const int64_t* owns = NULL
    cdef const real* w = NULL
    cdef double norm
    cdef uint64_t before
    if m == 0 or n == 0:
        return 0.0
    if keys.strides[1] != sizeof(real) and d > 1 or c > 1 and values.strides[1] != sizeof(real):
        raise ValueError("keys and values must have contiguous rows")
    if own is not None:
        owns = &own[0]
    if weights is not None:
        w = &weights[0]
    with nogil:
        before = _flush(&inv2[0], d, <const real*>NULL, 0)
        norm = _product_tile(
            inner, &queries[0, 0], &scaled[0, 0], &half[0], m, &keys[0, 0], keys.strides[0] // <Py_ssize_t>sizeof(real),
            d, &values[0, 0] if c > 0 else &none, values.strides[0] // <Py_ssize_t>sizeof(real) if c > 0 else 0, c, w,
            &inv2[0], n, strip, owns, &shift[0], &mass[0], &total[0, 0] if c > 0 else &nothing,
            &centre[0] if c > 0 else &nothing, &factor[0] if c > 0 else &nothing)
        fastnw_restore(before)
    if norm < 0:
        raise MemoryError("no memory for a tile of products")
    return norm
