# The body of every instruction set: sums and scores of one tile (query block x key block).
#
# A tile is walked strip by strip (some hundred keys, which stay in cache). Within a strip queries go in groups through the
# fused loop of _fused_body.h, where sums stay in registers. Those of a kernel that decays exponentially which have met no
# near key so far go in groups of their own, with a shift each. One by one, through the staged loops, go those that it cannot
# do: the first strip of such a kernel, inner products, strips that hold the query's own key or a key so much nearer than
# those before that sums overflow, strips' ends, processors without vectors.

from cython cimport floating as real
from libc.math cimport INFINITY, NAN, exp, sqrt
from libc.stdint cimport int32_t, int64_t
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
        SEVERAL
        GAUSSIAN, LAPLACIAN, MATERN32, MATERN52, LOGISTIC, DOT
        BOXCAR, TRIANGULAR, EPANECHNIKOV, BIWEIGHT, TRIWEIGHT, TRICUBE, COSINE
        CAUCHY, CONSTANT
    void fastnw_fused_f32(
        int, const float*, Py_ssize_t, Py_ssize_t, const float*, int, const float*, const float*, int, const float*, int,
        float, float*, Py_ssize_t, const float**, float*, int, Py_ssize_t, double (*)[3])
    void fastnw_fused_f64(
        int, const double*, Py_ssize_t, Py_ssize_t, const double*, int, const double*, const double*, int, const double*,
        int, double, double*, Py_ssize_t, const double**, double*, int, Py_ssize_t, double (*)[3])
    void fastnw_weigh_group_f32(
        const float*, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t)
    void fastnw_weigh_group_f64(
        const double*, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t)
    void fastnw_several_f32(
        const int*, const float*, int, const float*, Py_ssize_t, Py_ssize_t, const float*, const float*, const float*,
        const float*, float, const float**, int, Py_ssize_t, double (*)[3])
    void fastnw_several_f64(
        const int*, const double*, int, const double*, Py_ssize_t, Py_ssize_t, const double*, const double*, const double*,
        const double*, double, const double**, int, Py_ssize_t, double (*)[3])
    void fastnw_vector_exp2_f32(const float*, float*, Py_ssize_t)
    void fastnw_vector_exp2_f64(const double*, double*, Py_ssize_t)

cdef enum:
    FIRST = 128         # the first strip of a block, which many queries need to meet a near key
    STRIP = 1024        # longest strip, in keys
    STRIP_BYTES = 98304
    SUM_STRIP = 256     # longest strip whose keys are added one after another, where there are many values
    GROUP = 8           # at least twice FASTNW_GROUP
    LANES = 32          # a multiple of every level's vector, and a divisor of every full strip

cdef double NEAR = 2.0**-60  # a mass above this needs no shift: what exp's clamp adds or takes is far below it
cdef double MUCH = 2.0**20   # of kappa, in units of the shift: a key has come that asks for another

include "_flush.pxi"
include "_staged.pxi"


cdef inline bint _is_iso(const real* inv, Py_ssize_t d) noexcept nogil:
    """One bandwidth for all coordinates, of a size that leaves the squares of raw differences within range."""
    cdef Py_ssize_t j
    for j in range(1, d):
        if inv[j] != inv[0]:
            return False
    return 1e-10 < inv[0] < 1e10


cdef inline void _weigh_group_classes(
    const real* kappa, const real* w, const int32_t* codes, Py_ssize_t outputs, Py_ssize_t n, double** totals, int count
) noexcept nogil:
    """`_weigh_classes` of queries whose kernel values lie STRIP apart. Four at a time: where neighbouring keys have the
    same class, a total waits for its own last store, and the others' additions fill that time."""
    cdef Py_ssize_t i, k, code
    cdef double x
    cdef double* t0
    cdef double* t1
    cdef double* t2
    cdef double* t3
    cdef int a
    if count < 4:
        for a in range(count):
            _weigh_classes(kappa + a * STRIP, w, codes, outputs, n, totals[a])
        return
    t0, t1, t2, t3 = totals[0], totals[1], totals[2], totals[3]
    for i in range(n):
        x = w[i]
        for k in range(outputs):
            code = codes[i * outputs + k]
            t0[code] += x * <double>kappa[i]
            t1[code] += x * <double>kappa[STRIP + i]
            t2[code] += x * <double>kappa[2 * STRIP + i]
            t3[code] += x * <double>kappa[3 * STRIP + i]


cdef void _fused(
    int kernel, const real* inv, bint iso, const real* scale, const real* keys, Py_ssize_t stride, Py_ssize_t d,
    const real* weights, bint weighted, const real* values, Py_ssize_t value_stride, Py_ssize_t c, const int32_t* codes,
    Py_ssize_t outputs, Py_ssize_t n, const real** q, const Py_ssize_t* member, int group, bint far, real* sums, real* kappa,
    double* shift, double* mass, double* total, double* mass_error, const double* error, double sensitivity,
) noexcept nogil:
    """Add the sums of n <= STRIP keys to the states of a group of queries, all near or all far; what fills no vector goes
    through `_staged`."""
    cdef double found[GROUP][3]
    cdef real[GROUP] lifts
    cdef real* lift = NULL
    cdef real edge = 1
    cdef double* totals[GROUP]
    cdef int a, first, use = 2 if c > 1 else <int>c
    cdef Py_ssize_t i, k, done, whole = n // LANES * LANES, width = (c + LANES - 1) // LANES * LANES
    for a in range(group):
        found[a][0] = 0
        edge = max(edge, <real>(1 + 2 * error[member[a]]))
        lifts[a] = <real>(-shift[member[a]])
    if far:
        lift = &lifts[0]
    if whole > 0:
        if real is float:
            fastnw_fused_f32(kernel, keys, stride, d, inv, iso, scale, weights, weighted, values, use, edge, kappa, STRIP, q,
                             lift, group, whole, found)
        else:
            fastnw_fused_f64(kernel, keys, stride, d, inv, iso, scale, weights, weighted, values, use, edge, kappa, STRIP, q,
                             lift, group, whole, found)
        if codes == NULL and c > 1:
            a = 0
            while a < group:
                if real is float:
                    fastnw_weigh_group_f32(kappa + a * STRIP, STRIP, values, value_stride, c, whole, sums + a * width, width)
                else:
                    fastnw_weigh_group_f64(kappa + a * STRIP, STRIP, values, value_stride, c, whole, sums + a * width, width)
                a += FASTNW_GROUP
    for a in range(group):
        i = member[a]
        # a light key that is much nearer adds little to the mass, but what is lost of its weight is multiplied with kappa
        if far and not found[a][2] < MUCH:
            found[a][0] = NAN
        done = whole if found[a][0] == found[a][0] else 0  # NaN: see _fused_body.h, too
        if done > 0:
            mass[i] += found[a][0]
            mass_error[i] += sensitivity * error[i] * found[a][2]
            if c == 1:
                total[i] += found[a][1]
            elif codes == NULL:
                for k in range(c):
                    total[i * c + k] += sums[a * width + k]
            if far and codes == NULL:
                _settle(shift + i, mass + i, total + i * c, c, mass_error + i)
    if codes != NULL and whole > 0:
        a = 0
        while a < group:  # runs of queries that the fused loop has summed, four at most
            first = a
            while a < group and a < first + 4 and found[a][0] == found[a][0]:
                totals[a - first] = total + member[a] * c
                a += 1
            _weigh_group_classes(kappa + first * STRIP, weights, codes, outputs, whole, &totals[0], a - first)
            if a == first:
                a += 1
        for a in range(group):
            i = member[a]
            if far and found[a][0] == found[a][0]:
                _settle(shift + i, mass + i, total + i * c, c, mass_error + i)
    for a in range(group):  # after the last use of the group's sums
        i = member[a]
        done = whole if found[a][0] == found[a][0] else 0
        if done < n:
            _staged(kernel, q[a], inv, scale + done if scale != NULL else NULL, keys + done, stride, d, weights + done,
                    values + done * (value_stride if c > 1 else 1), value_stride, c,
                    codes + done * outputs if codes != NULL else NULL, outputs, n - done, -1, sums,
                    shift + i, mass + i, total + i * c, mass_error + i, error[i], sensitivity)


cdef int _sum_tile(
    int kernel, const real* queries, Py_ssize_t m, const real* inv, const real* scale, const real* keys,
    Py_ssize_t stride, Py_ssize_t d, const real* weights, bint weighted, const real* values, Py_ssize_t value_stride,
    Py_ssize_t c, const int32_t* codes, Py_ssize_t outputs, Py_ssize_t n, const int64_t* own,
    double* shift, double* mass, double* total, double* mass_error, const double* error, double sensitivity,
) noexcept nogil:
    cdef const real* q[2][GROUP]
    cdef Py_ssize_t member[2][GROUP]
    cdef Py_ssize_t i, start = 0, length, self_at
    cdef Py_ssize_t summed = c if codes == NULL else 0  # values that are summed in the compute type
    cdef Py_ssize_t longest = _strip(sizeof(real) * (d + 1 + summed) + sizeof(int32_t) * outputs, summed)
    cdef int far
    cdef int[2] group
    cdef bint iso = _is_iso(inv, d), fusable = FASTNW_GROUP > 0 and kernel != DOT
    cdef const real* scales = NULL
    cdef real* kappa = <real*>malloc(GROUP * (STRIP + summed + LANES) * sizeof(real))
    cdef real* sums = kappa + GROUP * STRIP
    if kappa == NULL:
        return -1
    while start < n:
        length = FIRST if start == 0 and kernel < DOT and longest > FIRST else longest
        length = length if n - start > length else n - start
        if scale != NULL:
            scales = scale + start
        group[0] = group[1] = 0
        for i in range(m):
            self_at = -1
            if own != NULL and 0 <= own[i] - start < length:
                self_at = own[i] - start
            far = shift[i] != 0
            if fusable and self_at < 0 and (not far or kernel < DOT and shift[i] > -INFINITY and mass[i] > 0):
                q[far][group[far]], member[far][group[far]] = queries + i * d, i
                group[far] += 1
            else:
                _staged(kernel, queries + i * d, inv, scales, keys + start, stride, d, weights + start, values, value_stride,
                        c, codes, outputs, length, self_at, sums, shift + i, mass + i, total + i * c, mass_error + i, error[i], sensitivity)
            for far in range(2):
                if group[far] > 0 and (group[far] == 2 * FASTNW_GROUP or i == m - 1):
                    _fused(kernel, inv, iso, scales, keys + start, stride, d, weights + start, weighted, values,
                           value_stride, c, codes, outputs, length, &q[far][0], &member[far][0], group[far], far, sums, kappa,
                           shift, mass, total, mass_error, error, sensitivity)
                    group[far] = 0
        start += length
        values += length * (value_stride if c > 1 else c)
        if codes != NULL:
            codes += length * outputs
    free(kappa)
    return 0


def sum_tile(
    int kernel, const real[:, ::1] queries, const real[::1] inv, const real[::1] scale, const real[:, :] keys,
    const real[::1] weights, bint weighted, const real[:, :] values, const int32_t[:, ::1] codes, const int64_t[::1] own,
    double[::1] shift, double[::1] mass, double[:, ::1] total, double[::1] mass_error, const double[::1] error, double sensitivity,
):
    """Add the key block's sums to the state of a query block, in place; shapes as in backends/compiled.py."""
    cdef Py_ssize_t m = queries.shape[0], d = queries.shape[1], n = keys.shape[1], c = total.shape[1], size = sizeof(real)
    cdef double nothing = 0
    cdef const real* scales = NULL
    cdef const int64_t* owns = NULL
    cdef const int32_t* classes = NULL
    cdef Py_ssize_t outputs = 0, summed = c
    cdef int status
    cdef uint64_t before
    if m == 0 or n == 0:
        return
    if codes is not None:
        if c < 2 or codes.shape[0] != n or codes.shape[1] < 1:
            raise ValueError("classes must be two at least, and every key must have one")
        classes, outputs, summed = &codes[0, 0], codes.shape[1], 0
    # without values the fused loops read something of their length instead: there are fewer of them that way
    if n > 1 and (keys.strides[1] != size or c == 1 and values.strides[1] != size) or summed > 1 and values.strides[0] != size:
        raise ValueError("keys and a single value must be in rows, several values in columns")
    if scale is not None:
        scales = &scale[0]
    if own is not None:
        owns = &own[0]
    with nogil:
        before = _flush(&inv[0], d, scales, n)
        status = _sum_tile(
            kernel, &queries[0, 0], m, &inv[0], scales, &keys[0, 0], keys.strides[0] // size, d, &weights[0], weighted,
            &values[0, 0] if summed > 0 else &weights[0], values.strides[1] // size if summed > 1 else 0, c, classes, outputs, n,
            owns, &shift[0], &mass[0], &total[0, 0] if c > 0 else &nothing, &mass_error[0], &error[0], sensitivity)
        fastnw_restore(before)
    if status:
        raise MemoryError("no memory for a tile")


include "_several.pxi"
include "_leaves.pxi"


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
