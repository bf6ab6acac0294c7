# Staged loops: one query against a strip of keys, in three plain loops over a strip buffer (squared distances, profile,
# weighted sums), with a running shift. Each loop works element by element or is one of the named reductions of _simd.h, so
# that every compiler vectorises it without a flag that reorders arithmetic. Included by _tiles.pxi.

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


cdef inline void _scores(int kernel, const KeyBlock* keys, const real* q, const real* inverse, real* s) noexcept nogil:
    """u^2 of a query and all keys of a strip, or their negated inner products."""
    cdef Py_ssize_t i, n = keys.size
    cdef const real* coords = <const real*>keys.coords
    cdef const real* scale = <const real*>keys.scale
    if IS_ONE_OF(INNER_PRODUCT_KERNELS, kernel):
        _inner_products(s, q, inverse, coords, keys.stride, keys.d, n)
    else:
        _square_distances(s, q, inverse, coords, keys.stride, keys.d, n)
    if scale != NULL:
        for i in range(n):
            s[i] *= scale[i]


cdef inline real _decay(int kernel, real s) noexcept nogil:
    """z(s) of a logarithmic kernel: kappa = polynomial * exp(-z)."""
    if kernel == GAUSSIAN:
        return <real>0.5 * s
    if IS_ONE_OF(INNER_PRODUCT_KERNELS, kernel):
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
    cdef real z, g, e0, s0, last = z0 + <real>(EXP_CLAMP_NATS_F32 if real is float else EXP_CLAMP_NATS_F64)
    if kernel == GAUSSIAN:
        s0 = 2 * z0
        for i in range(n):
            s[i] = _exp2((s0 - s[i]) * <real>0.7213475204444817)  # log2(e)/2
    elif IS_ONE_OF(INNER_PRODUCT_KERNELS, kernel):
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
    const real* kappa, const real* weights, const int32_t* codes, Py_ssize_t outputs, Py_ssize_t n, double* total
) noexcept nogil:
    """Add w kappa of each key to the totals of its classes, in float64: products of float32 numbers are exact there."""
    cdef Py_ssize_t i, k
    cdef double x
    for i in range(n):
        x = <double>kappa[i] * <double>weights[i]
        for k in range(outputs):
            total[codes[i * outputs + k]] += x


cdef inline void _weigh(const KeyBlock* keys, const real* kappa, real* row_sums, const Sums* sums) noexcept nogil:
    """Add the mass and the totals that the profiles kappa (n,) of a strip give; several values go by way of `row_sums`."""
    cdef const real* weights = <const real*>keys.weights
    cdef const real* values = <const real*>keys.values
    cdef const real* single = values if keys.c == 1 else NULL
    cdef Py_ssize_t n = keys.size, c = keys.c, stride = keys.value_stride
    if real is float:
        fastnw_weigh_f32(kappa, weights, single, n, sums.mass, sums.total)
        if keys.codes == NULL and c > 1:
            fastnw_weigh_rows_f32(kappa, values, stride, c, n, row_sums, sums.total)
    else:
        fastnw_weigh_f64(kappa, weights, single, n, sums.mass, sums.total)
        if keys.codes == NULL and c > 1:
            fastnw_weigh_rows_f64(kappa, values, stride, c, n, row_sums, sums.total)
    if keys.codes != NULL:
        _weigh_classes(kappa, weights, keys.codes, keys.outputs, n, sums.total)


cdef inline void _rescale(const Sums* sums, Py_ssize_t c, double factor) noexcept nogil:
    """Multiply the sums of one query."""
    cdef Py_ssize_t k
    sums.mass[0] *= factor
    sums.mass_error[0] *= factor
    for k in range(c):
        sums.total[k] *= factor


cdef inline void _drop_shift(const Sums* sums, Py_ssize_t c) noexcept nogil:
    """Do without a shift from where the mass of a query no longer needs one."""
    if sums.mass[0] * exp(sums.shift[0]) >= MIN_UNSHIFTED_MASS:
        _rescale(sums, c, exp(sums.shift[0]))
        sums.shift[0] = 0


cdef inline Py_ssize_t _strip_length(Py_ssize_t bytes_per_key, Py_ssize_t c) noexcept nogil:
    """The number of keys in a strip. What a tile passes over again and again fits L2 (of 20, 40, 96 and 256 KiB, 96 was
    best at d = 8 to 768), and float32 may sum so many terms before they are added to float64."""
    cdef Py_ssize_t n = STRIP_BYTES // bytes_per_key // 32 * 32
    cdef Py_ssize_t longest = MAX_STRIP_KEYS if c < 2 else MAX_SEQUENTIAL_KEYS
    return 64 if n < 64 else (longest if n > longest else n)


cdef inline void _staged(
    const Kernel* kernel, const KeyBlock* keys, const real* q, const real* inverse, Py_ssize_t left_out, double error,
    real* row_sums, const Sums* sums
) noexcept nogil:
    """Add the sums of n <= MAX_STRIP_KEYS keys to those of one query; key `left_out`, if it is not negative, does not count."""
    cdef real s[MAX_STRIP_KEYS]
    cdef real z, z0, inside
    cdef int code = kernel.code
    cdef Py_ssize_t n = keys.size
    cdef double clamp = EXP_CLAMP_NATS_F64  # beyond so many nats a term is below the clamp of exp
    if real is float:
        clamp = EXP_CLAMP_NATS_F32
    _scores(code, keys, q, inverse, &s[0])
    if left_out >= 0:
        s[left_out] = <real>INFINITY
    if IS_ONE_OF(LOGARITHMIC_KERNELS, code):
        z = _decay(code, _smallest(&s[0], n))
        z0 = <real>(-sums.shift[0])
        if z < z0:
            if sums.mass[0] != 0:
                _rescale(sums, keys.c, exp(<double>z - <double>z0))
            z0 = z
            sums.shift[0] = -<double>z
        elif z == INFINITY or z - z0 > clamp:
            return
        _log_profile(code, &s[0], n, z0)
    else:
        if kernel.sensitivity > 0:
            inside = _within(&s[0], <const real*>keys.weights, n, <real>(1 + 2 * error))
            if inside == 0:
                return
            sums.mass_error[0] += kernel.sensitivity * error * inside
        _profile(code, &s[0], n)
    if left_out >= 0:
        s[left_out] = 0
    _weigh(keys, &s[0], row_sums, sums)
    if IS_ONE_OF(DECAYING_KERNELS, code) and sums.shift[0] != 0:
        _drop_shift(sums, keys.c)
