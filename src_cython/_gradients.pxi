# Gradients of radial kernels, one point (a query, or a key) against strips of the other side: the body that is compiled for
# every instruction set. Loops go over the buffers of a strip, which stay in L1, each of a kind that compilers vectorise.
# The sums are defined in fastnw/gradients/sums.py.

from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t

cdef extern from "kernels.h" nogil:
    enum:
        GAUSSIAN, LAPLACIAN, MATERN32, MATERN52, LOGISTIC
        BOXCAR, TRIANGULAR, EPANECHNIKOV, BIWEIGHT, TRIWEIGHT, TRICUBE, COSINE
        CAUCHY
        DECAYING_KERNELS
    bint IS_ONE_OF(unsigned, int)

cdef extern from "_gradients.h" nogil:
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
    STRIP = 512  # points; five buffers of that length and the points of some coordinates fill L1

# What all pairs share: the kernel, and (d,) 1/h_j.
cdef struct Metric:
    int kernel
    Py_ssize_t d
    const double* inverse

# Points of the other side: coordinates (d, size) and columns (c, size) of values or of their cotangents. The other arrays
# are NULL where there are none: scales of squared distances, logarithms to add to those of kappa, and what to subtract from
# the products of columns.
cdef struct Side:
    Py_ssize_t size, c
    const double* coords
    Py_ssize_t stride
    const double* columns
    Py_ssize_t column_stride
    const double* scale
    const double* logs
    const double* gamma

# One point and its part in each pair.
cdef struct Point:
    const double* coords  # (d,)
    const double* column  # (c,)
    double gamma, log, scale

# The pairs of a point and a strip.
cdef struct Pairs:
    double score[STRIP]  # u^2
    double logs[STRIP]
    double pull[STRIP]   # alpha . v - gamma
    double share[STRIP]  # w kappa / mass
    double force[STRIP]  # -2 d share/du^2, then times the pull and the scale


cdef inline void _fill_scores(Pairs* pairs, const Metric* metric, const Point* point, const Side* other) noexcept nogil:
    cdef Py_ssize_t a, i, n = other.size
    cdef double z, x0 = point.coords[0], v = metric.inverse[0], scale = point.scale
    cdef const double* k = other.coords
    cdef double* s = pairs.score
    for i in range(n):
        z = (x0 - k[i]) * v
        s[i] = z * z
    for a in range(1, metric.d):
        x0, v, k = point.coords[a], metric.inverse[a], other.coords + a * other.stride
        for i in range(n):
            z = (x0 - k[i]) * v
            s[i] += z * z
    if other.scale != NULL:
        for i in range(n):
            s[i] *= other.scale[i]
    elif scale != 1:
        for i in range(n):
            s[i] *= scale


cdef inline void _fill_pulls(Pairs* pairs, const Point* point, const Side* other) noexcept nogil:
    cdef Py_ssize_t k, i, n = other.size
    cdef double factor
    cdef const double* row
    cdef double* r = pairs.pull
    if other.gamma != NULL:
        for i in range(n):
            r[i] = -other.gamma[i]
    else:
        for i in range(n):
            r[i] = -point.gamma
    for k in range(other.c):
        factor, row = point.column[k], other.columns + k * other.column_stride
        for i in range(n):
            r[i] += factor * row[i]


cdef inline void _fill_logs(Pairs* pairs, const Point* point, const Side* other) noexcept nogil:
    cdef Py_ssize_t i
    cdef double own = point.log
    if other.logs != NULL:
        for i in range(other.size):
            pairs.logs[i] = own + other.logs[i]
    else:
        for i in range(other.size):
            pairs.logs[i] = own


cdef inline void _decaying(int kernel, Pairs* pairs, Py_ssize_t n) noexcept nogil:
    """Shares of decaying kernels and their derivatives: everything in one exponent, so that no tail underflows."""
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
    """Profiles of the other kernels and their derivatives; 0 beyond the support."""
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
    """Multiply the numbers of `_profile` by the exponentials of `logs`, which may be all the same."""
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


cdef inline void _fill(Pairs* pairs, const Metric* metric, const Point* point, const Side* other) noexcept nogil:
    """Fill in everything about the pairs of one point and a strip of the other side."""
    cdef Py_ssize_t i, n = other.size
    cdef double scale = point.scale
    _fill_scores(pairs, metric, point, other)
    _fill_pulls(pairs, point, other)
    _fill_logs(pairs, point, other)
    if IS_ONE_OF(DECAYING_KERNELS, metric.kernel):
        _decaying(metric.kernel, pairs, n)
    else:
        _profile(metric.kernel, pairs, n)
        _weigh(pairs, other.logs == NULL, n)
    for i in range(n):
        pairs.force[i] *= pairs.pull[i]
    if other.scale != NULL:
        for i in range(n):
            pairs.force[i] *= other.scale[i]
    elif scale != 1:
        for i in range(n):
            pairs.force[i] *= scale


cdef inline Side _side_from(const Side* side, Py_ssize_t start) noexcept nogil:
    """At most STRIP points from `start` on."""
    cdef Side part = side[0]
    part.size = min(<Py_ssize_t>STRIP, side.size - start)
    part.coords += start
    part.columns += start
    if part.scale != NULL:
        part.scale += start
    if part.logs != NULL:
        part.logs += start
    if part.gamma != NULL:
        part.gamma += start
    return part


cdef const double* _pointer(const double[::1] array) noexcept:
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
    side.size, side.c = coords.shape[1], columns.shape[0]
    side.coords, side.stride = &coords[0, 0], coords.strides[0] // <Py_ssize_t>sizeof(double)
    side.columns = &columns[0, 0] if side.c > 0 else side.coords
    side.column_stride = columns.strides[0] // <Py_ssize_t>sizeof(double)
    side.scale, side.logs, side.gamma = _pointer(scale), _pointer(logs), _pointer(gamma)
    return side


cdef inline void _add_products(
    const Pairs* pairs, const Metric* metric, const Point* point, const Side* other, double* outer
) noexcept nogil:
    """Add force times the products of two coordinates' differences to (d, d) sums."""
    cdef Py_ssize_t a, b, d = metric.d
    cdef double sum
    for a in range(d):
        for b in range(a + 1):
            sum = fastnw_force_product(pairs.force, other.coords + a * other.stride, point.coords[a], metric.inverse[a],
                                       other.coords + b * other.stride, point.coords[b], metric.inverse[b], other.size)
            outer[a * d + b] += sum
            if a != b:
                outer[b * d + a] += sum


def add_to_queries(int kernel, const double[::1] inverse, points, queries, keys, const int64_t[::1] own, sums):
    """Add a block of keys to the sums of queries, in place.

    `queries` and `keys` are those of fastnw/backends/gradient_tiles.py; `points` are the queries' coordinates (p, d) and
    alpha (p, c); `own` are positions within the block; `sums` are moved (p, d), squares (p, d) and outer (d, d) or None.
    """
    cdef const double[:, ::1] coords, alpha
    cdef const double[::1] gamma = queries.gamma, log_mass = queries.log_mass
    cdef double[:, ::1] moved, squares, outer
    cdef Py_ssize_t i, a, start = 0
    cdef Pairs pairs
    cdef Metric metric
    cdef Point point
    cdef double[2] found
    cdef double nothing = 0
    cdef double* products = NULL
    cdef const int64_t* owns = NULL
    cdef Side side, strip
    cdef uint64_t before
    coords, alpha = points
    moved, squares, outer = sums
    if coords.shape[0] == 0 or keys.size == 0:
        return
    side = _side(keys.coords, keys.values, keys.scale, keys.log_weights, None)
    metric.kernel, metric.d, metric.inverse = kernel, coords.shape[1], &inverse[0]
    if own is not None:
        owns = &own[0]
    if outer is not None:
        products = &outer[0, 0]
    with nogil:
        before = _flush(&inverse[0], metric.d, side.scale, side.size)
        while start < side.size:
            strip = _side_from(&side, start)
            for i in range(coords.shape[0]):
                if log_mass[i] == INFINITY:
                    continue
                point.coords, point.column = &coords[i, 0], &alpha[i, 0] if side.c > 0 else &nothing
                point.gamma, point.log, point.scale = gamma[i], -log_mass[i], 1
                _fill(&pairs, &metric, &point, &strip)
                if owns != NULL and 0 <= owns[i] - start < strip.size:
                    pairs.force[owns[i] - start] = 0
                for a in range(metric.d):
                    found[0] = found[1] = 0
                    fastnw_force(
                        pairs.force, strip.coords + a * strip.stride, point.coords[a], inverse[a], strip.size, &found[0])
                    moved[i, a] += found[0]
                    squares[i, a] += found[1]
                if products != NULL:
                    _add_products(&pairs, &metric, &point, &strip, products)
            start += strip.size
        fastnw_restore(before)


cdef inline void _leave_out(Pairs* pairs, const int64_t* own, int64_t key, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        pairs.share[i] = pairs.share[i] if own[i] != key else 0.0
        pairs.force[i] = pairs.force[i] if own[i] != key else 0.0


def add_to_keys(
    int kernel, const double[::1] inverse, points, keys, queries, const double[::1] minus_log_mass, const int64_t[::1] own,
    sums
):
    """Add queries to the sums of a block of keys, in place.

    `keys` and `queries` are those of fastnw/backends/gradient_tiles.py; `points` are the keys' coordinates (B, d) and
    values (B, c); `own` (p,) are positions within the block; `sums` are moved (B, d), values (B, c), weights and squares.
    """
    cdef const double[:, ::1] coords, values
    cdef const double[::1] scale = keys.scale, log_weights = keys.log_weights
    cdef double[:, ::1] moved, value_sums
    cdef double[::1] weight_sums, squares
    cdef Py_ssize_t j, a, k, start = 0
    cdef Pairs pairs
    cdef Metric metric
    cdef Point point
    cdef double[2] found
    cdef double nothing = 0
    cdef const int64_t* owns = NULL
    cdef Side side, strip
    cdef uint64_t before
    coords, values = points
    moved, value_sums, weight_sums, squares = sums
    if coords.shape[0] == 0 or queries.size == 0:
        return
    side = _side(queries.coords, queries.alpha, None, minus_log_mass, queries.gamma)
    metric.kernel, metric.d, metric.inverse = kernel, coords.shape[1], &inverse[0]
    if own is not None:
        owns = &own[0]
    with nogil:
        before = _flush(&inverse[0], metric.d, &scale[0] if scale is not None else <const double*>NULL, coords.shape[0])
        while start < side.size:
            strip = _side_from(&side, start)
            for j in range(coords.shape[0]):
                point.coords, point.column = &coords[j, 0], &values[j, 0] if side.c > 0 else &nothing
                point.gamma, point.log, point.scale = 0, 0, 1
                if log_weights is not None:
                    point.log = log_weights[j]
                if scale is not None:
                    point.scale = scale[j]
                _fill(&pairs, &metric, &point, &strip)
                if owns != NULL:
                    _leave_out(&pairs, owns + start, j, strip.size)
                for a in range(metric.d):
                    found[0] = found[1] = 0
                    fastnw_force(
                        pairs.force, strip.coords + a * strip.stride, point.coords[a], inverse[a], strip.size, &found[0])
                    moved[j, a] -= found[0]
                    squares[j] += found[1]
                for k in range(side.c):
                    value_sums[j, k] += fastnw_dot(pairs.share, strip.columns + k * strip.column_stride, strip.size)
                weight_sums[j] += fastnw_dot_where(pairs.share, pairs.pull, strip.size)
            start += strip.size
        fastnw_restore(before)
