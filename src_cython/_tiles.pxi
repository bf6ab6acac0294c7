# The body of every instruction set: sums and scores of one tile (query block x key block).
#
# A tile is walked strip by strip (a few hundred keys, whose rows stay in L1). Within a strip queries go in groups through
# the fused loop of _fused.h, where sums stay in registers. One by one, through the staged loops below (squared distances,
# profile, weighted sums over a strip buffer, with a running shift), go those that it cannot do: kernels that decay
# exponentially until a near key has been met, inner products, strips that hold the query's own key, strips' ends,
# processors without vectors. Staged loops are elementwise or one of the named reductions of _simd.h, so each compiler
# vectorises them without a flag that reorders arithmetic.

from cython cimport floating as real
from libc.math cimport INFINITY, exp, sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cdef extern from "<math.h>" nogil:
    float sqrtf(float)

cdef extern from "_simd.h" nogil:
    float fastnw_exp_f32(float)
    double fastnw_exp_f64(double)
    float fastnw_exp2_f32(float)
    double fastnw_exp2_f64(double)
    float fastnw_cosine_f32(float)
    double fastnw_cosine_f64(double)
    void fastnw_weigh_f32(const float*, const float*, const float*, Py_ssize_t, double*, double*)
    void fastnw_weigh_f64(const double*, const double*, const double*, Py_ssize_t, double*, double*)
    void fastnw_weigh_rows_f32(const float*, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, double*)
    void fastnw_weigh_rows_f64(const double*, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, double*)
    float fastnw_within_f32(const float*, const float*, Py_ssize_t, float)
    double fastnw_within_f64(const double*, const double*, Py_ssize_t, double)
    float fastnw_smallest_f32(const float*, Py_ssize_t)
    double fastnw_smallest_f64(const double*, Py_ssize_t)

cdef extern from "_fused.h" nogil:
    enum:
        FASTNW_GROUP
        GAUSSIAN, LAPLACIAN, MATERN32, MATERN52, LOGISTIC, DOT
        BOXCAR, TRIANGULAR, EPANECHNIKOV, BIWEIGHT, TRIWEIGHT, TRICUBE, COSINE
        CAUCHY, CONSTANT
    void fastnw_fused_f32(
        int, const float*, Py_ssize_t, Py_ssize_t, const float*, int, const float*, const float*, int, const float*, int,
        float, float*, Py_ssize_t, const float**, int, Py_ssize_t, double (*)[3])
    void fastnw_fused_f64(
        int, const double*, Py_ssize_t, Py_ssize_t, const double*, int, const double*, const double*, int, const double*,
        int, double, double*, Py_ssize_t, const double**, int, Py_ssize_t, double (*)[3])
    void fastnw_weigh_group_f32(
        const float*, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t)
    void fastnw_weigh_group_f64(
        const double*, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t)
    void fastnw_vector_exp2_f32(const float*, float*, Py_ssize_t)
    void fastnw_vector_exp2_f64(const double*, double*, Py_ssize_t)

cdef enum:
    FIRST = 128         # the first strip of a block, which many queries need to meet a near key
    STRIP = 1024        # longest strip, in keys
    STRIP_BYTES = 98304
    SUM_STRIP = 256     # longest strip whose keys are added one after another, where there are many values
    GROUP = 8           # at least twice FASTNW_GROUP
    LANES = 32          # two vectors at most, and a divisor of every full strip

cdef double NEAR = 2.0**-60  # a mass above this needs no shift: what exp's clamp adds or takes is far below it

cdef inline real _exp(real x) noexcept nogil:
    if real is float:
        return fastnw_exp_f32(x)
    else:
        return fastnw_exp_f64(x)


cdef inline real _exp2(real x) noexcept nogil:
    if real is float:
        return fastnw_exp2_f32(x)
    else:
        return fastnw_exp2_f64(x)


cdef inline real _sqrt(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline real _cosine(real s) noexcept nogil:
    if real is float:
        return fastnw_cosine_f32(s)
    else:
        return fastnw_cosine_f64(s)


cdef inline void _square_distances(
    real* s, const real* q, const real* inv, const real* keys, Py_ssize_t stride, Py_ssize_t d, Py_ssize_t n
) noexcept nogil:
    """s_i = sum_j ((q_j - k_ij) / h_j)^2, by differences of the raw coordinates: relative error (d/4 + 9) u."""
    cdef Py_ssize_t i, j = (d - 1) % 4 + 1
    cdef real q0 = q[0], q1, q2, q3, v0 = inv[0], v1, v2, v3, t0, t1, t2, t3
    cdef const real* k0 = keys
    cdef const real* k1
    cdef const real* k2
    cdef const real* k3
    if j == 1:
        for i in range(n):
            t0 = (q0 - k0[i]) * v0
            s[i] = t0 * t0
    elif j == 2:
        q1, v1, k1 = q[1], inv[1], keys + stride
        for i in range(n):
            t0 = (q0 - k0[i]) * v0
            t1 = (q1 - k1[i]) * v1
            s[i] = t0 * t0 + t1 * t1
    elif j == 3:
        q1, v1, k1 = q[1], inv[1], keys + stride
        q2, v2, k2 = q[2], inv[2], keys + 2 * stride
        for i in range(n):
            t0 = (q0 - k0[i]) * v0
            t1 = (q1 - k1[i]) * v1
            t2 = (q2 - k2[i]) * v2
            s[i] = t0 * t0 + t1 * t1 + t2 * t2
    else:
        j = 0
        for i in range(n):
            s[i] = 0
    while j < d:
        q0, v0, k0 = q[j], inv[j], keys + j * stride
        q1, v1, k1 = q[j + 1], inv[j + 1], keys + (j + 1) * stride
        q2, v2, k2 = q[j + 2], inv[j + 2], keys + (j + 2) * stride
        q3, v3, k3 = q[j + 3], inv[j + 3], keys + (j + 3) * stride
        for i in range(n):
            t0 = (q0 - k0[i]) * v0
            t1 = (q1 - k1[i]) * v1
            t2 = (q2 - k2[i]) * v2
            t3 = (q3 - k3[i]) * v3
            s[i] += (t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)
        j += 4


cdef inline void _inner_products(
    real* s, const real* q, const real* inv, const real* keys, Py_ssize_t stride, Py_ssize_t d, Py_ssize_t n
) noexcept nogil:
    """s_i = -sum_j q_j k_ij / h_j: negated, so that small s means large weight, as for distances."""
    cdef Py_ssize_t i, j
    cdef real a
    cdef const real* k
    for i in range(n):
        s[i] = 0
    for j in range(d):
        a, k = q[j] * inv[j], keys + j * stride
        for i in range(n):
            s[i] -= a * k[i]


cdef inline void _scores(
    int kernel, real* s, const real* q, const real* inv, const real* scale,
    const real* keys, Py_ssize_t stride, Py_ssize_t d, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    if kernel == DOT:
        _inner_products(s, q, inv, keys, stride, d, n)
    else:
        _square_distances(s, q, inv, keys, stride, d, n)
    if scale != NULL:
        for i in range(n):
            s[i] *= scale[i]


cdef inline real _decay(int kernel, real s) noexcept nogil:
    """z(s) of a kernel that works on logs: kappa = polynomial * exp(-z)."""
    if kernel == GAUSSIAN:
        return <real>0.5 * s
    if kernel == DOT:
        return s
    if kernel == MATERN32:
        return <real>1.7320508075688772 * _sqrt(s)
    if kernel == MATERN52:
        return <real>2.23606797749979 * _sqrt(s)
    return _sqrt(s)


cdef inline void _log_profile(int kernel, real* s, Py_ssize_t n, real z0) noexcept nogil:
    """s -> kappa(s) exp(z0), in place.

    The polynomials stop growing where exp is clamped: a key at 1e17 bandwidths would otherwise count z^2 e^-80.
    """
    cdef Py_ssize_t i
    cdef real z, g, e0, s0, last = z0 + <real>(80 if real is float else 690)
    if kernel == GAUSSIAN:
        s0 = 2 * z0
        for i in range(n):
            s[i] = _exp2((s0 - s[i]) * <real>0.7213475204444817)  # log2(e)/2
    elif kernel == DOT:
        for i in range(n):
            s[i] = _exp(z0 - s[i])
    elif kernel == LAPLACIAN:
        for i in range(n):
            s[i] = _exp(z0 - _sqrt(s[i]))
    elif kernel == MATERN32:
        for i in range(n):
            z = <real>1.7320508075688772 * _sqrt(s[i])
            z = z if z < last else last
            s[i] = (1 + z) * _exp(z0 - z)
    elif kernel == MATERN52:
        for i in range(n):
            z = <real>2.23606797749979 * _sqrt(s[i])
            z = z if z < last else last
            s[i] = (1 + z + z * z * <real>(1.0 / 3.0)) * _exp(z0 - z)
    else:
        e0 = <real>exp(-<double>z0)
        for i in range(n):
            g = _exp(z0 - _sqrt(s[i]))
            s[i] = 4 * g / ((1 + g * e0) * (1 + g * e0))


cdef inline void _profile(int kernel, real* s, Py_ssize_t n) noexcept nogil:
    """s -> kappa(s) for kernels that need no shift, in place; 0 beyond the support."""
    cdef Py_ssize_t i
    cdef real y
    if kernel == BOXCAR:
        for i in range(n):
            s[i] = <real>1 if s[i] <= 1 else <real>0
    elif kernel == TRIANGULAR:
        for i in range(n):
            y = 1 - _sqrt(s[i])
            s[i] = y if y > 0 else <real>0
    elif kernel == EPANECHNIKOV:
        for i in range(n):
            y = 1 - s[i]
            s[i] = y if y > 0 else <real>0
    elif kernel == BIWEIGHT:
        for i in range(n):
            y = 1 - s[i]
            y = y if y > 0 else <real>0
            s[i] = y * y
    elif kernel == TRIWEIGHT:
        for i in range(n):
            y = 1 - s[i]
            y = y if y > 0 else <real>0
            s[i] = y * y * y
    elif kernel == TRICUBE:
        for i in range(n):
            y = 1 - s[i] * _sqrt(s[i])
            y = y if y > 0 else <real>0
            s[i] = y * y * y
    elif kernel == COSINE:
        for i in range(n):
            y = _cosine(s[i] if s[i] < 1 else <real>1)
            s[i] = y
    elif kernel == CAUCHY:
        for i in range(n):
            s[i] = 1 / (1 + s[i])
    else:
        for i in range(n):
            s[i] = 1


cdef inline real _smallest(const real* s, Py_ssize_t n) noexcept nogil:
    if real is float:
        return fastnw_smallest_f32(s, n)
    else:
        return fastnw_smallest_f64(s, n)


cdef inline real _within(const real* s, const real* w, Py_ssize_t n, real edge) noexcept nogil:
    if real is float:
        return fastnw_within_f32(s, w, n, edge)
    else:
        return fastnw_within_f64(s, w, n, edge)


cdef inline void _weigh(
    const real* g, const real* w, const real* values, Py_ssize_t value_stride, Py_ssize_t c, Py_ssize_t n, real* sums,
    double* mass, double* total
) noexcept nogil:
    """Add mass and totals of the kernel values g (n,)."""
    cdef const real* one = values if c == 1 else NULL
    if real is float:
        fastnw_weigh_f32(g, w, one, n, mass, total)
        if c > 1:
            fastnw_weigh_rows_f32(g, values, value_stride, c, n, sums, total)
    else:
        fastnw_weigh_f64(g, w, one, n, mass, total)
        if c > 1:
            fastnw_weigh_rows_f64(g, values, value_stride, c, n, sums, total)


cdef inline void _rescale(double factor, double* mass, double* total, Py_ssize_t c, double* mass_error) noexcept nogil:
    cdef Py_ssize_t j
    mass[0] *= factor
    mass_error[0] *= factor
    for j in range(c):
        total[j] *= factor


cdef inline Py_ssize_t _strip(Py_ssize_t bytes_per_key, Py_ssize_t c) noexcept nogil:
    """Keys in a strip: what a tile passes over again and again fits L2 with room to spare (of 20, 40, 96 and 256 KiB, 96
    was best at d = 8 to 768), within what float32 may sum before it is folded to float64."""
    cdef Py_ssize_t n = STRIP_BYTES // bytes_per_key // 32 * 32, most = STRIP if c < 2 else SUM_STRIP
    return 64 if n < 64 else (most if n > most else n)


cdef inline void _staged(
    int kernel, const real* q, const real* inv, const real* scale, const real* keys, Py_ssize_t stride, Py_ssize_t d,
    const real* weights, const real* values, Py_ssize_t value_stride, Py_ssize_t c, Py_ssize_t n, Py_ssize_t self_at,
    real* sums, double* shift, double* mass, double* total, double* mass_error, double error, double sensitivity,
) noexcept nogil:
    """Add the sums of n <= STRIP keys to one query's state; key `self_at`, if any, is left out."""
    cdef real s[STRIP]
    cdef real z, z0, inside
    cdef double reach = 690.0  # beyond this many nats a term is below the clamp of exp
    if real is float:
        reach = 80.0
    _scores(kernel, &s[0], q, inv, scale, keys, stride, d, n)
    if self_at >= 0:
        s[self_at] = <real>INFINITY
    if kernel <= DOT:
        z = _decay(kernel, _smallest(&s[0], n))
        z0 = <real>(-shift[0])
        if z < z0:
            if mass[0] != 0:
                _rescale(exp(<double>z - <double>z0), mass, total, c, mass_error)
            z0 = z
            shift[0] = -<double>z
        elif z == INFINITY or z - z0 > reach:
            return
        _log_profile(kernel, &s[0], n, z0)
    else:
        if sensitivity > 0:
            inside = _within(&s[0], weights, n, <real>(1 + 2 * error))
            if inside == 0:
                return
            mass_error[0] += sensitivity * error * inside
        _profile(kernel, &s[0], n)
    if self_at >= 0:
        s[self_at] = 0
    _weigh(&s[0], weights, values, value_stride, c, n, sums, mass, total)
    if kernel < DOT and shift[0] != 0 and mass[0] * exp(shift[0]) >= NEAR:
        _rescale(exp(shift[0]), mass, total, c, mass_error)
        shift[0] = 0


cdef inline bint _is_iso(const real* inv, Py_ssize_t d) noexcept nogil:
    """One bandwidth for all coordinates, of a size that leaves the squares of raw differences within range."""
    cdef Py_ssize_t j
    for j in range(1, d):
        if inv[j] != inv[0]:
            return False
    return 1e-10 < inv[0] < 1e10


cdef void _fused(
    int kernel, const real* inv, bint iso, const real* scale, const real* keys, Py_ssize_t stride, Py_ssize_t d,
    const real* weights, bint weighted, const real* values, Py_ssize_t value_stride, Py_ssize_t c, Py_ssize_t n,
    const real** q, const Py_ssize_t* member, int group, real* sums, real* kappa,
    double* shift, double* mass, double* total, double* mass_error, const double* error, double sensitivity,
) noexcept nogil:
    """Add the sums of n <= STRIP keys to the states of a group of queries; what fills no vector goes through `_staged`."""
    cdef double found[GROUP][3]
    cdef real edge = 1
    cdef int a, use = 2 if c > 1 else <int>c
    cdef Py_ssize_t i, k, done, whole = n // LANES * LANES, width = (c + LANES - 1) // LANES * LANES
    for a in range(group):
        found[a][0] = 0
        edge = max(edge, <real>(1 + 2 * error[member[a]]))
    if whole > 0:
        if real is float:
            fastnw_fused_f32(kernel, keys, stride, d, inv, iso, scale, weights, weighted, values, use, edge, kappa, STRIP, q,
                             group, whole, found)
        else:
            fastnw_fused_f64(kernel, keys, stride, d, inv, iso, scale, weights, weighted, values, use, edge, kappa, STRIP, q,
                             group, whole, found)
        if c > 1:
            a = 0
            while a < group:
                if real is float:
                    fastnw_weigh_group_f32(kappa + a * STRIP, STRIP, values, value_stride, c, whole, sums + a * width, width)
                else:
                    fastnw_weigh_group_f64(kappa + a * STRIP, STRIP, values, value_stride, c, whole, sums + a * width, width)
                a += FASTNW_GROUP
    for a in range(group):
        i = member[a]
        done = whole if found[a][0] == found[a][0] else 0  # NaN: see _fused_body.h
        if done > 0:
            mass[i] += found[a][0]
            mass_error[i] += sensitivity * error[i] * found[a][2]
            if c == 1:
                total[i] += found[a][1]
            elif c > 1:
                for k in range(c):
                    total[i * c + k] += sums[a * width + k]
    for a in range(group):  # after the last use of the group's sums
        i = member[a]
        done = whole if found[a][0] == found[a][0] else 0
        if done < n:
            _staged(kernel, q[a], inv, scale + done if scale != NULL else NULL, keys + done, stride, d, weights + done,
                    values + done * (value_stride if c > 1 else 1), value_stride, c, n - done, -1, sums,
                    shift + i, mass + i, total + i * c, mass_error + i, error[i], sensitivity)


cdef int _sum_tile(
    int kernel, const real* queries, Py_ssize_t m, const real* inv, const real* scale, const real* keys,
    Py_ssize_t stride, Py_ssize_t d, const real* weights, bint weighted, const real* values, Py_ssize_t value_stride,
    Py_ssize_t c, Py_ssize_t n, const int64_t* own,
    double* shift, double* mass, double* total, double* mass_error, const double* error, double sensitivity,
) noexcept nogil:
    cdef const real* q[GROUP]
    cdef Py_ssize_t member[GROUP]
    cdef Py_ssize_t i, start = 0, length, self_at
    cdef Py_ssize_t longest = _strip(sizeof(real) * (d + 1 + c), c)
    cdef int group
    cdef bint iso = _is_iso(inv, d), fusable = FASTNW_GROUP > 0 and kernel != DOT
    cdef const real* scales = NULL
    cdef real* kappa = <real*>malloc(GROUP * (STRIP + c + LANES) * sizeof(real))
    cdef real* sums = kappa + GROUP * STRIP
    if kappa == NULL:
        return -1
    while start < n:
        length = FIRST if start == 0 and kernel < DOT and longest > FIRST else longest
        length = length if n - start > length else n - start
        if scale != NULL:
            scales = scale + start
        group = 0
        for i in range(m):
            self_at = -1
            if own != NULL and 0 <= own[i] - start < length:
                self_at = own[i] - start
            if fusable and self_at < 0 and shift[i] == 0:
                q[group], member[group] = queries + i * d, i
                group += 1
            else:
                _staged(kernel, queries + i * d, inv, scales, keys + start, stride, d, weights + start, values, value_stride,
                        c, length, self_at, sums, shift + i, mass + i, total + i * c, mass_error + i, error[i], sensitivity)
            if group > 0 and (group == 2 * FASTNW_GROUP or i == m - 1):
                _fused(kernel, inv, iso, scales, keys + start, stride, d, weights + start, weighted, values, value_stride, c,
                       length, &q[0], &member[0], group, sums, kappa, shift, mass, total, mass_error, error, sensitivity)
                group = 0
        start += length
        values += length * (value_stride if c > 1 else c)
    free(kappa)
    return 0


def sum_tile(
    int kernel, const real[:, ::1] queries, const real[::1] inv, const real[::1] scale, const real[:, :] keys,
    const real[::1] weights, bint weighted, const real[:, :] values, const int64_t[::1] own, double[::1] shift,
    double[::1] mass, double[:, ::1] total, double[::1] mass_error, const double[::1] error, double sensitivity,
):
    """Add the key block's sums to the state of a query block, in place; shapes as in backends/compiled.py."""
    cdef Py_ssize_t m = queries.shape[0], d = queries.shape[1], n = keys.shape[1], c = total.shape[1], size = sizeof(real)
    cdef double nothing = 0
    cdef real none = 0
    cdef const real* scales = NULL
    cdef const int64_t* owns = NULL
    cdef int status
    if m == 0 or n == 0:
        return
    if n > 1 and (keys.strides[1] != size or c == 1 and values.strides[1] != size) or c > 1 and values.strides[0] != size:
        raise ValueError("keys and a single value must be in rows, several values in columns")
    if scale is not None:
        scales = &scale[0]
    if own is not None:
        owns = &own[0]
    with nogil:
        status = _sum_tile(
            kernel, &queries[0, 0], m, &inv[0], scales, &keys[0, 0], keys.strides[0] // size, d, &weights[0], weighted,
            &values[0, 0] if c > 0 else &none, values.strides[1] // size if c > 1 else 0, c, n, owns, &shift[0], &mass[0],
            &total[0, 0] if c > 0 else &nothing, &mass_error[0], &error[0], sensitivity)
    if status:
        raise MemoryError("no memory for a tile")


def score_tile(
    int kernel, const real[:, ::1] queries, const real[::1] inv, const real[::1] scale, const real[:, :] keys,
    real[:, ::1] out,
):
    """out[i, k] = u^2 of query i and key k of the block (for `dot`, the negated scaled inner product)."""
    cdef Py_ssize_t i, m = queries.shape[0], d = queries.shape[1], n = keys.shape[1]
    cdef Py_ssize_t stride = keys.strides[0] // <Py_ssize_t>sizeof(real)
    cdef const real* scales = NULL
    if m == 0 or n == 0:
        return
    if n > 1 and keys.strides[1] != sizeof(real):
        raise ValueError("keys must have contiguous rows")
    if scale is not None:
        scales = &scale[0]
    with nogil:
        for i in range(m):
            _scores(kernel, &out[i, 0], &queries[i, 0], &inv[0], scales, &keys[0, 0], stride, d, n)


def exponential(const real[::1] x, real[::1] out, bint base_two):
    """out = e^x, or 2^x, as the tiles compute them for x <= 0: for tests of their accuracy."""
    cdef Py_ssize_t i
    for i in range(x.shape[0]):
        out[i] = _exp2(x[i]) if base_two else _exp(x[i])


def vector_exp2(const real[::1] x, real[::1] out):
    """out = 2^x as the fused loops compute it for x <= 0: for tests of their accuracy. False where there are none."""
    if FASTNW_GROUP == 0:
        return False
    if real is float:
        fastnw_vector_exp2_f32(&x[0], &out[0], x.shape[0])
    else:
        fastnw_vector_exp2_f64(&x[0], &out[0], x.shape[0])
    return True
