# Staged loops: one query against a strip of keys, in three plain loops over a strip buffer (squared distances, profile,
# weighted sums), with a running shift. Elementwise loops, or one of the named reductions of _simd.h, so each compiler
# vectorises them without a flag that reorders arithmetic. Included by _tiles.pxi.

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


cdef inline void _weigh_classes(
    const real* g, const real* w, const int32_t* codes, Py_ssize_t outputs, Py_ssize_t n, double* total
) noexcept nogil:
    """Add w g of each key to the totals of its classes, in float64: the products of float32 numbers are exact."""
    cdef Py_ssize_t i, k
    cdef double x
    for i in range(n):
        x = <double>g[i] * <double>w[i]
        for k in range(outputs):
            total[codes[i * outputs + k]] += x


cdef inline void _weigh(
    const real* g, const real* w, const real* values, Py_ssize_t value_stride, Py_ssize_t c, const int32_t* codes,
    Py_ssize_t outputs, Py_ssize_t n, real* sums, double* mass, double* total
) noexcept nogil:
    """Add mass and totals of the kernel values g (n,): of c values, or of c classes if there are codes."""
    cdef const real* one = values if c == 1 else NULL
    if real is float:
        fastnw_weigh_f32(g, w, one, n, mass, total)
        if codes == NULL and c > 1:
            fastnw_weigh_rows_f32(g, values, value_stride, c, n, sums, total)
    else:
        fastnw_weigh_f64(g, w, one, n, mass, total)
        if codes == NULL and c > 1:
            fastnw_weigh_rows_f64(g, values, value_stride, c, n, sums, total)
    if codes != NULL:
        _weigh_classes(g, w, codes, outputs, n, total)


cdef inline void _rescale(double factor, double* mass, double* total, Py_ssize_t c, double* mass_error) noexcept nogil:
    cdef Py_ssize_t j
    mass[0] *= factor
    mass_error[0] *= factor
    for j in range(c):
        total[j] *= factor


cdef inline void _settle(double* shift, double* mass, double* total, Py_ssize_t c, double* mass_error) noexcept nogil:
    """Do without a shift from where the mass no longer needs one."""
    if mass[0] * exp(shift[0]) >= NEAR:
        _rescale(exp(shift[0]), mass, total, c, mass_error)
        shift[0] = 0


cdef inline Py_ssize_t _strip(Py_ssize_t bytes_per_key, Py_ssize_t c) noexcept nogil:
    """Keys in a strip: what a tile passes over again and again fits L2 with room to spare (of 20, 40, 96 and 256 KiB, 96
    was best at d = 8 to 768), within what float32 may sum before it is folded to float64."""
    cdef Py_ssize_t n = STRIP_BYTES // bytes_per_key // 32 * 32, most = STRIP if c < 2 else SUM_STRIP
    return 64 if n < 64 else (most if n > most else n)


cdef inline void _staged(
    int kernel, const real* q, const real* inv, const real* scale, const real* keys, Py_ssize_t stride, Py_ssize_t d,
    const real* weights, const real* values, Py_ssize_t value_stride, Py_ssize_t c, const int32_t* codes,
    Py_ssize_t outputs, Py_ssize_t n, Py_ssize_t self_at, real* sums, double* shift, double* mass, double* total, double* mass_error, double error, double sensitivity,
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
    _weigh(&s[0], weights, values, value_stride, c, codes, outputs, n, sums, mass, total)
    if kernel < DOT and shift[0] != 0:
        _settle(shift, mass, total, c, mass_error)
