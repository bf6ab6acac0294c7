# The body of every instruction set: gradients of radial kernels, one point (a query, or a key) against strips of the other
# side. Loops over a strip's buffers, which stay in L1, each of a kind that compilers vectorise; see fastnw/gradients/sums.py
# for the sums.

from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t

cdef extern from "_gradients.h" nogil:
    enum:
        GAUSSIAN, LAPLACIAN, MATERN32, MATERN52, LOGISTIC
        BOXCAR, TRIANGULAR, EPANECHNIKOV, BIWEIGHT, TRIWEIGHT, TRICUBE, COSINE
        CAUCHY
    double fastnw_factor(double)
    double fastnw_unbounded_factor(double)
    double fastnw_exp_f64(double)
    double fastnw_cosine_f64(double)
    double fastnw_cosine_fall(double)
    double fastnw_logistic_fall(double, double)
    void fastnw_force(const double*, const double*, double, double, Py_ssize_t, double*)
    double fastnw_force_product(
        const double*, const double*, double, double, const double*, double, double, Py_ssize_t)
    double fastnw_dot(const double*, const double*, Py_ssize_t)
    double fastnw_dot_where(const double*, const double*, Py_ssize_t)

from cython cimport floating as real

include "_flush.pxi"

cdef enum:
    STRIP = 512  # five buffers of it and the points of some coordinates fill L1

# The other side: coordinates (d, n), columns (c, n) of values or of their cotangents, and where there are any (else NULL)
# scales of squared distances, logarithms to add to those of κ, and what to subtract from the columns' products.
cdef struct Side:
    const double* coords
    Py_ssize_t stride
    const double* columns
    Py_ssize_t column_stride
    const double* scale
    const double* logs
    const double* gamma

# What a strip's pairs come to.
cdef struct Pairs:
    double score[STRIP]  # u^2
    double logs[STRIP]
    double pull[STRIP]   # alpha . v - gamma
    double share[STRIP]  # w kappa / mass
    double force[STRIP]  # -2 d share/du^2, then times the pull and the scale


cdef inline void _fill_scores(
    Pairs* pairs, const double* x, const double* inverse, Side other, double scale, Py_ssize_t d, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t a, i
    cdef double z, x0 = x[0], v = inverse[0]
    cdef const double* k = other.coords
    cdef double* s = pairs.score
    for i in range(n):
        z = (x0 - k[i]) * v
        s[i] = z * z
    for a in range(1, d):
        x0, v, k = x[a], inverse[a], other.coords + a * other.stride
        for i in range(n):
            z = (x0 - k[i]) * v
            s[i] += z * z
    if other.scale != NULL:
        for i in range(n):
            s[i] *= other.scale[i]
    elif scale != 1:
        for i in range(n):
            s[i] *= scale


cdef inline void _fill_pulls(
    Pairs* pairs, const double* column, double gamma, Side other, Py_ssize_t c, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t k, i
    cdef double factor
    cdef const double* row
    cdef double* r = pairs.pull
    if other.gamma != NULL:
        for i in range(n):
            r[i] = -other.gamma[i]
    else:
        for i in range(n):
            r[i] = -gamma
    for k in range(c):
        factor, row = column[k], other.columns + k * other.column_stride
        for i in range(n):
            r[i] += factor * row[i]


cdef inline void _fill_logs(Pairs* pairs, double own, Side other, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if other.logs != NULL:
        for i in range(n):
            pairs.logs[i] = own + other.logs[i]
    else:
        for i in range(n):
            pairs.logs[i] = own


cdef inline void _decaying(int kernel, Pairs* pairs, Py_ssize_t n) noexcept nogil:
    """Shares and their slopes of kernels that decay exponentially: all in one exponent, so that no tail underflows."""
    cdef Py_ssize_t i
    cdef double u, z, e, g
    cdef const double* s = pairs.score
    cdef const double* b = pairs.logs
    cdef double* share = pairs.share
    cdef double* force = pairs.force
    if kernel == GAUSSIAN:
        for i in range(n):
            e = fastnw_unbounded_factor(b[i] - 0.5 * s[i])
            share[i] = e
            force[i] = e
    elif kernel == LAPLACIAN:
        for i in range(n):
            u = sqrt(s[i])
            e = fastnw_unbounded_factor(b[i] - u)
            share[i] = e
            force[i] = e / u if u > 0 else 0.0
    elif kernel == MATERN32:
        for i in range(n):
            z = 1.7320508075688772 * sqrt(s[i])
            z = z if z < 1e150 else 1e150  # infinity times a factor of 0 is NaN
            e = fastnw_unbounded_factor(b[i] - z)
            share[i] = (1 + z) * e
            force[i] = 3 * e
    elif kernel == MATERN52:
        for i in range(n):
            z = 2.23606797749979 * sqrt(s[i])
            z = z if z < 1e150 else 1e150  # infinity times a factor of 0 is NaN
            e = fastnw_unbounded_factor(b[i] - z)
            share[i] = (1 + z + z * z * (1.0 / 3.0)) * e
            force[i] = (5.0 / 3.0) * (1 + z) * e
    else:
        for i in range(n):
            u = sqrt(s[i])
            g = fastnw_exp_f64(-u)
            e = 4 * fastnw_unbounded_factor(b[i] - u) / ((1 + g) * (1 + g))
            share[i] = e
            force[i] = e * fastnw_logistic_fall(u, g)


cdef inline void _profile(int kernel, Pairs* pairs, Py_ssize_t n) noexcept nogil:
    """Kernel values and their slopes of the others; 0 beyond the support."""
    cdef Py_ssize_t i
    cdef double u, y, inside
    cdef const double* s = pairs.score
    cdef double* share = pairs.share
    cdef double* force = pairs.force
    if kernel == TRIANGULAR:
        for i in range(n):
            u = sqrt(s[i])
            inside = 1.0 if s[i] <= 1 else 0.0
            share[i] = inside * (1 - u) if u < 1 else 0.0
            force[i] = inside / u if u > 0 else 0.0
    elif kernel == EPANECHNIKOV:
        for i in range(n):
            y = 1 - s[i]
            share[i] = y if y > 0 else 0.0
            force[i] = 2.0 if y >= 0 else 0.0
    elif kernel == BIWEIGHT:
        for i in range(n):
            y = 1 - s[i]
            y = y if y > 0 else 0.0
            share[i] = y * y
            force[i] = 4 * y
    elif kernel == TRIWEIGHT:
        for i in range(n):
            y = 1 - s[i]
            y = y if y > 0 else 0.0
            share[i] = y * y * y
            force[i] = 6 * y * y
    elif kernel == TRICUBE:
        for i in range(n):
            u = sqrt(s[i])
            y = 1 - s[i] * u
            y = y if y > 0 else 0.0
            share[i] = y * y * y
            force[i] = 9 * (u if u < 1 else 1.0) * y * y
    elif kernel == COSINE:
        for i in range(n):
            y = s[i] if s[i] < 1 else 1.0
            share[i] = fastnw_cosine_f64(y)
            force[i] = fastnw_cosine_fall(y) if s[i] <= 1 else 0.0
    elif kernel == CAUCHY:
        for i in range(n):
            y = 1 / (1 + s[i])
            share[i] = y
            force[i] = 2 * y * y
    else:
        for i in range(n):
            share[i] = 1.0 if kernel != BOXCAR or s[i] <= 1 else 0.0
            force[i] = 0


cdef inline void _weigh(Pairs* pairs, bint constant, Py_ssize_t n) noexcept nogil:
    """Multiply what `_profile` gave by the exponentials of `logs`, which may be all the same."""
    cdef Py_ssize_t i
    cdef double same
    cdef double* factor = pairs.logs
    cdef double* share = pairs.share
    cdef double* force = pairs.force
    if constant:
        same = fastnw_factor(factor[0])  # computed before both loops, gcc 12 would make branches of the second
        for i in range(n):
            share[i] *= same
            force[i] *= same
    else:
        for i in range(n):
            factor[i] = fastnw_factor(factor[i])
        for i in range(n):
            share[i] *= factor[i]
            force[i] *= factor[i]


cdef inline void _fill(
    int kernel, Pairs* pairs, const double* x, const double* inverse, const double* column, double gamma, double log,
    double scale, Side other, Py_ssize_t d, Py_ssize_t c, Py_ssize_t n
) noexcept nogil:
    """Everything about the pairs of one point, of scale `scale` and so on, and a strip of the other side."""
    cdef Py_ssize_t i
    _fill_scores(pairs, x, inverse, other, scale, d, n)
    _fill_pulls(pairs, column, gamma, other, c, n)
    _fill_logs(pairs, log, other, n)
    if kernel <= LOGISTIC:
        _decaying(kernel, pairs, n)
    else:
        _profile(kernel, pairs, n)
        _weigh(pairs, other.logs == NULL, n)
    for i in range(n):
        pairs.force[i] *= pairs.pull[i]
    if other.scale != NULL:
        for i in range(n):
            pairs.force[i] *= other.scale[i]
    elif scale != 1:
        for i in range(n):
            pairs.force[i] *= scale


cdef inline Side _from(Side side, Py_ssize_t start) noexcept nogil:
    """The points from `start` on."""
    side.coords += start
    side.columns += start
    if side.scale != NULL:
        side.scale += start
    if side.logs != NULL:
        side.logs += start
    if side.gamma != NULL:
        side.gamma += start
    return side


cdef const double* _at(const double[::1] array) noexcept:
    if array is None or array.shape[0] == 0:
        return NULL
    return &array[0]


cdef Side _side(
    const double[:, :] coords, const double[:, :] columns, const double[::1] scale, const double[::1] logs,
    const double[::1] gamma
) except *:
    cdef Side side
    if coords.shape[1] > 1 and (coords.strides[1] != sizeof(double) or columns.strides[1] != sizeof(double)):
        raise ValueError("coordinates and columns must be contiguous along points")
    side.coords, side.stride = &coords[0, 0], coords.strides[0] // <Py_ssize_t>sizeof(double)
    side.columns = &columns[0, 0] if columns.shape[0] > 0 else side.coords
    side.column_stride = columns.strides[0] // <Py_ssize_t>sizeof(double)
    side.scale, side.logs, side.gamma = _at(scale), _at(logs), _at(gamma)
    return side


def add_to_queries(
    int kernel, const double[::1] inverse, const double[:, ::1] queries, const int64_t[::1] own, const double[::1] log_mass,
    const double[:, ::1] alpha, const double[::1] gamma, const double[:, :] coords, const double[::1] scale,
    const double[::1] log_weights, const double[:, :] values, double[:, ::1] moved, double[:, ::1] squares,
    double[:, ::1] outer,
):
    """Add the key block's part of the sums, in place; shapes as in backends/gradients.py, but (p, d) queries and (p, c)
    alpha; `own` are positions within the block."""
    cdef Py_ssize_t p = queries.shape[0], d = queries.shape[1], n = coords.shape[1], c = values.shape[0], i, a, b, start = 0
    cdef Py_ssize_t length
    cdef Pairs pairs
    cdef double[2] sums
    cdef double nothing = 0
    cdef double* products = NULL
    cdef const int64_t* owns = NULL
    cdef const double* x
    cdef Side keys, strip
    cdef uint64_t before
    if p == 0 or n == 0:
        return
    keys = _side(coords, values, scale, log_weights, None)
    if own is not None:
        owns = &own[0]
    if outer is not None:
        products = &outer[0, 0]
    with nogil:
        before = _flush(&inverse[0], d, keys.scale, n)
        while start < n:
            length, strip = min(STRIP, n - start), _from(keys, start)
            for i in range(p):
                if log_mass[i] == INFINITY:
                    continue
                x = &queries[i, 0]
                _fill(kernel, &pairs, x, &inverse[0], &alpha[i, 0] if c > 0 else &nothing, gamma[i], -log_mass[i], 1, strip,
                      d, c, length)
                if owns != NULL and 0 <= owns[i] - start < length:
                    pairs.force[owns[i] - start] = 0
                for a in range(d):
                    sums[0] = sums[1] = 0
                    fastnw_force(pairs.force, strip.coords + a * strip.stride, x[a], inverse[a], length, &sums[0])
                    moved[i, a] += sums[0]
                    squares[i, a] += sums[1]
                if products != NULL:
                    _add_products(&pairs, x, &inverse[0], strip, d, length, products)
            start += length
        fastnw_restore(before)


cdef inline void _add_products(
    Pairs* pairs, const double* x, const double* inverse, Side other, Py_ssize_t d, Py_ssize_t n, double* outer
) noexcept nogil:
    cdef Py_ssize_t a, b
    cdef double sum
    for a in range(d):
        for b in range(a + 1):
            sum = fastnw_force_product(pairs.force, other.coords + a * other.stride, x[a], inverse[a],
                                       other.coords + b * other.stride, x[b], inverse[b], n)
            outer[a * d + b] += sum
            if a != b:
                outer[b * d + a] += sum


def add_to_keys(
    int kernel, const double[::1] inverse, const double[:, ::1] keys, const double[::1] scale,
    const double[::1] log_weights, const double[:, ::1] values, const double[:, :] coords, const int64_t[::1] own,
    const double[::1] minus_log_mass, const double[:, :] alpha, const double[::1] gamma, double[:, ::1] moved,
    double[:, ::1] value_sums, double[::1] weight_sums, double[::1] squares,
):
    """Add the queries' part of the sums, in place; shapes as in backends/gradients.py, but (B, d) keys and (B, c) values;
    `own` (p,) are positions within the block of keys."""
    cdef Py_ssize_t B = keys.shape[0], d = keys.shape[1], p = coords.shape[1], c = alpha.shape[0], j, a, k, start = 0
    cdef Py_ssize_t length
    cdef Pairs pairs
    cdef double[2] sums
    cdef double nothing = 0
    cdef const int64_t* owns = NULL
    cdef Side queries, strip
    cdef uint64_t before
    if B == 0 or p == 0:
        return
    queries = _side(coords, alpha, None, minus_log_mass, gamma)
    if own is not None:
        owns = &own[0]
    with nogil:
        before = _flush(&inverse[0], d, &scale[0] if scale is not None else <const double*>NULL, B)
        while start < p:
            length, strip = min(STRIP, p - start), _from(queries, start)
            for j in range(B):
                _fill(kernel, &pairs, &keys[j, 0], &inverse[0], &values[j, 0] if c > 0 else &nothing, 0,
                      log_weights[j] if log_weights is not None else 0, scale[j] if scale is not None else 1, strip, d, c,
                      length)
                if owns != NULL:
                    _leave_out(&pairs, owns + start, j, length)
                for a in range(d):
                    sums[0] = sums[1] = 0
                    fastnw_force(
                        pairs.force, strip.coords + a * strip.stride, keys[j, a], inverse[a], length, &sums[0])
                    moved[j, a] -= sums[0]
                    squares[j] += sums[1]
                for k in range(c):
                    value_sums[j, k] += fastnw_dot(pairs.share, strip.columns + k * strip.column_stride, length)
                weight_sums[j] += fastnw_dot_where(pairs.share, pairs.pull, length)
            start += length
        fastnw_restore(before)


cdef inline void _leave_out(Pairs* pairs, const int64_t* own, int64_t key, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        pairs.share[i] = pairs.share[i] if own[i] != key else 0.0
        pairs.force[i] = pairs.force[i] if own[i] != key else 0.0
