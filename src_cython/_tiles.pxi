# Sums and scores of one tile (query block x key block): the body that is compiled for every instruction set.
#
# A tile is walked strip by strip: some hundred keys, which stay in cache. Within a strip, groups of queries go through the
# vectorised loop of _fused_body.h, which keeps their sums in registers. Queries of a decaying kernel that have met no near
# key so far go in groups of their own, each with its shift. The staged loops take one query at a time where the vectorised
# loop cannot: in the first strip of a decaying kernel, for inner products, in strips that hold the query's own key or a key
# so much nearer than those before that sums overflow, at the ends of strips, and on processors without vectors.

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

include "_blocks.pxi"
include "_key_blocks.pxi"

cdef extern from "_fused.h" nogil:
    enum:
        FASTNW_GROUP
    void fastnw_fused_f32(const Pairs*, const KeyBlock*, Group*, Py_ssize_t, double (*)[3])
    void fastnw_fused_f64(const Pairs*, const KeyBlock*, Group*, Py_ssize_t, double (*)[3])
    void fastnw_weigh_group_f32(
        const float*, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t)
    void fastnw_weigh_group_f64(
        const double*, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t)
    void fastnw_several_f32(
        const int*, const float*, int, const Pairs*, const KeyBlock*, Group*, Py_ssize_t, double (*)[3])
    void fastnw_several_f64(
        const int*, const double*, int, const Pairs*, const KeyBlock*, Group*, Py_ssize_t, double (*)[3])
    void fastnw_vector_exp2_f32(const float*, float*, Py_ssize_t)
    void fastnw_vector_exp2_f64(const double*, double*, Py_ssize_t)

cdef enum:
    STRIP_BYTES = 98304
    MAX_GROUP = 8  # queries; at least twice FASTNW_GROUP
    LANES = 32  # elements; a multiple of every instruction set's vector, and a divisor of every full strip

cdef double MIN_UNSHIFTED_MASS = 2.0**LOG2_MIN_UNSHIFTED_MASS
cdef double NEARER_KEY = 1 << LOG2_NEARER_KEY

include "_flush.pxi"
include "_staged.pxi"


cdef inline void _weigh_group_classes(
    const KeyBlock* keys, const real* kappa, Py_ssize_t n, double** totals, int count
) noexcept nogil:
    """`_weigh_classes` of queries whose profiles lie MAX_STRIP_KEYS apart. Four go at a time: where neighbouring keys have the
    same class, a total waits for its own last store, and the additions for the other queries fill that time."""
    cdef const real* weights = <const real*>keys.weights
    cdef const int32_t* codes = keys.codes
    cdef Py_ssize_t i, k, code, outputs = keys.outputs
    cdef double x
    cdef double* t0
    cdef double* t1
    cdef double* t2
    cdef double* t3
    cdef int a
    if count < 4:
        for a in range(count):
            _weigh_classes(kappa + a * MAX_STRIP_KEYS, weights, codes, outputs, n, totals[a])
        return
    t0, t1, t2, t3 = totals[0], totals[1], totals[2], totals[3]
    for i in range(n):
        x = weights[i]
        for k in range(outputs):
            code = codes[i * outputs + k]
            t0[code] += x * <double>kappa[i]
            t1[code] += x * <double>kappa[MAX_STRIP_KEYS + i]
            t2[code] += x * <double>kappa[2 * MAX_STRIP_KEYS + i]
            t3[code] += x * <double>kappa[3 * MAX_STRIP_KEYS + i]


cdef void _fused(
    const Kernel* kernel, const KeyBlock* strip, const QueryBlock* queries, const Sums* sums, const Py_ssize_t* members,
    int count, bint far, real* row_sums, real* kappa
) noexcept nogil:
    """Add the sums of n <= MAX_STRIP_KEYS keys to those of some queries (`members`), all near or all far. Keys at the end that
    fill no vector go through `_staged`."""
    cdef double found[MAX_GROUP][3]  # mass, total, and what bounds their errors: see _fused_body.h
    cdef const real* q[MAX_GROUP]
    cdef real[MAX_GROUP] lifts
    cdef real edge = 1
    cdef double* totals[MAX_GROUP]
    cdef double* mass = sums.mass
    cdef double* total = sums.total
    cdef const double* error = queries.error
    cdef Pairs pairs
    cdef Group group
    cdef Sums own_sums
    cdef KeyBlock rest
    cdef int a, first
    cdef Py_ssize_t i, k, done, n = strip.size, c = strip.c, whole = n // LANES * LANES
    cdef Py_ssize_t width = (c + LANES - 1) // LANES * LANES
    cdef bint classes = strip.codes != NULL
    for a in range(count):
        found[a][0] = 0
        q[a] = <const real*>queries.coords + members[a] * strip.d
        edge = max(edge, <real>(1 + 2 * error[members[a]]))
        lifts[a] = <real>(-sums.shift[members[a]])
    if whole > 0:
        pairs.kernel, pairs.one_bandwidth, pairs.inverse = kernel.code, queries.one_bandwidth, queries.inverse
        pairs.values, pairs.edge = 2 if c > 1 else <int>c, edge
        group.size, group.queries, group.lift = count, <const void**>&q[0], &lifts[0] if far else NULL
        group.out, group.out_stride = kappa, MAX_STRIP_KEYS
        if real is float:
            fastnw_fused_f32(&pairs, strip, &group, whole, found)
        else:
            fastnw_fused_f64(&pairs, strip, &group, whole, found)
        if not classes and c > 1:
            a = 0
            while a < count:
                if real is float:
                    fastnw_weigh_group_f32(kappa + a * MAX_STRIP_KEYS, MAX_STRIP_KEYS, <const real*>strip.values, strip.value_stride,
                                           c, whole, row_sums + a * width, width)
                else:
                    fastnw_weigh_group_f64(kappa + a * MAX_STRIP_KEYS, MAX_STRIP_KEYS, <const real*>strip.values, strip.value_stride,
                                           c, whole, row_sums + a * width, width)
                a += FASTNW_GROUP
    for a in range(count):
        i = members[a]
        # a light key that is much nearer adds little to the mass, but what is lost of its weight is multiplied with kappa
        if far and not found[a][2] < NEARER_KEY:
            found[a][0] = NAN
        done = whole if found[a][0] == found[a][0] else 0  # NaN: the sums are void, see _fused_body.h
        if done > 0:
            mass[i] += found[a][0]
            sums.mass_error[i] += kernel.sensitivity * error[i] * found[a][2]
            if c == 1:
                total[i] += found[a][1]
            elif not classes:
                for k in range(c):
                    total[i * c + k] += row_sums[a * width + k]
            if far and not classes:
                own_sums = _sums_at(sums, i, c)
                _drop_shift(&own_sums, c)
    if classes and whole > 0:
        a = 0
        while a < count:  # runs of queries that the vectorised loop has summed, four at most
            first = a
            while a < count and a < first + 4 and found[a][0] == found[a][0]:
                totals[a - first] = total + members[a] * c
                a += 1
            _weigh_group_classes(strip, kappa + first * MAX_STRIP_KEYS, whole, &totals[0], a - first)
            if a == first:
                a += 1
        for a in range(count):
            if far and found[a][0] == found[a][0]:
                own_sums = _sums_at(sums, members[a], c)
                _drop_shift(&own_sums, c)
    for a in range(count):  # after the last use of the group's sums
        i = members[a]
        done = whole if found[a][0] == found[a][0] else 0
        if done < n:
            rest, own_sums = _keys_from(strip, done, n - done), _sums_at(sums, i, c)
            _staged(kernel, &rest, q[a], <const real*>queries.inverse, -1, error[i], row_sums, &own_sums)


cdef int _sum_tile(
    const Kernel* kernel, const KeyBlock* keys, const QueryBlock* queries, const Sums* sums, const real* inverse
) noexcept nogil:
    """Add a key block's sums to those of a query block; -1 if there is no memory."""
    cdef Py_ssize_t members[2][MAX_GROUP]
    cdef int[2] count
    cdef Py_ssize_t i, start = 0, length, left_out, n = keys.size, m = queries.size, d = keys.d, c = keys.c
    cdef Py_ssize_t summed = c if keys.codes == NULL else 0  # values that are summed in the compute type
    cdef Py_ssize_t longest = _strip_length(sizeof(real) * (d + 1 + summed) + sizeof(int32_t) * keys.outputs, summed)
    cdef const int64_t* own = queries.own
    cdef int far
    cdef bint decays = IS_ONE_OF(DECAYING_KERNELS, kernel.code)
    cdef bint fusable = FASTNW_GROUP > 0 and not IS_ONE_OF(INNER_PRODUCT_KERNELS, kernel.code)
    cdef KeyBlock strip
    cdef Sums own_sums
    cdef real* kappa = <real*>malloc(MAX_GROUP * (MAX_STRIP_KEYS + summed + LANES) * sizeof(real))
    cdef real* row_sums = kappa + MAX_GROUP * MAX_STRIP_KEYS
    if kappa == NULL:
        return -1
    while start < n:
        length = FIRST_STRIP_KEYS if start == 0 and decays and longest > FIRST_STRIP_KEYS else longest
        length = length if n - start > length else n - start
        strip = _keys_from(keys, start, length)
        count[0] = count[1] = 0
        for i in range(m):
            left_out = -1
            if own != NULL and 0 <= own[i] - start < length:
                left_out = own[i] - start
            far = sums.shift[i] != 0
            if fusable and left_out < 0 and (not far or decays and sums.shift[i] > -INFINITY and sums.mass[i] > 0):
                members[far][count[far]] = i
                count[far] += 1
            else:
                own_sums = _sums_at(sums, i, c)
                _staged(kernel, &strip, <const real*>queries.coords + i * d, inverse, left_out, queries.error[i], row_sums,
                        &own_sums)
            for far in range(2):
                if count[far] > 0 and (count[far] == 2 * FASTNW_GROUP or i == m - 1):
                    _fused(kernel, &strip, queries, sums, &members[far][0], count[far], far, row_sums, kappa)
                    count[far] = 0
        start += length
    free(kappa)
    return 0


def sum_tile(int code, double sensitivity, coords, inverse, keys, own, state, error):
    """Add the sums of a `KeyBlock` to the state of a query block, in place; see fastnw/backends/backend.py."""
    cdef Arrays arrays
    cdef Kernel kernel
    cdef KeyBlock block
    cdef QueryBlock queries
    cdef Sums sums
    cdef int status = 0
    cdef uint64_t before
    cdef Py_ssize_t itemsize = coords.itemsize, c
    arrays.count = 0
    kernel.code, kernel.sensitivity = code, sensitivity
    try:
        _fill_queries(&queries, &arrays, coords, inverse, own, error, itemsize)
        c = _fill_sums(&sums, &arrays, state)
        _fill_keys(&block, &arrays, keys, itemsize, c)
        if queries.size > 0 and block.size > 0:
            with nogil:
                if itemsize == sizeof(float):
                    before = _flush(<const float*>queries.inverse, block.d, <const float*>block.scale, block.size)
                    status = _sum_tile(&kernel, &block, &queries, &sums, <const float*>queries.inverse)
                else:
                    before = _flush(<const double*>queries.inverse, block.d, <const double*>block.scale, block.size)
                    status = _sum_tile(&kernel, &block, &queries, &sums, <const double*>queries.inverse)
                fastnw_restore(before)
    finally:
        _release(&arrays)
    if status:
        raise MemoryError("There is no memory for the strip of a tile. Use a shorter query block or fewer values.")


include "_several.pxi"
include "_leaves.pxi"


cdef void _score_tile(
    int kernel, const KeyBlock* keys, const QueryBlock* queries, const real* inverse, real* out
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(queries.size):
        _scores(kernel, keys, <const real*>queries.coords + i * keys.d, inverse, out + i * keys.size)


def score_tile(int code, coords, inverse, keys, out):
    """out[i, k] = u^2 of query i and key k of a `KeyBlock`, or their negated scaled inner product."""
    cdef Arrays arrays
    cdef KeyBlock block
    cdef QueryBlock queries
    cdef void* scores
    cdef Py_ssize_t itemsize = coords.itemsize
    arrays.count = 0
    try:
        _fill_queries(&queries, &arrays, coords, inverse, None, None, itemsize)
        _fill_keys(&block, &arrays, keys, itemsize, 0)
        scores = _view(&arrays, out, FLOATS, itemsize, 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE).buf
        with nogil:
            if itemsize == sizeof(float):
                _score_tile(code, &block, &queries, <const float*>queries.inverse, <float*>scores)
            else:
                _score_tile(code, &block, &queries, <const double*>queries.inverse, <double*>scores)
    finally:
        _release(&arrays)


def exponential(const real[::1] x, real[::1] out, bint base_two):
    """Write e^x, or 2^x, as the staged loops compute them for x <= 0; tests measure their accuracy."""
    cdef Py_ssize_t i
    for i in range(x.shape[0]):
        out[i] = _exp2(x[i]) if base_two else _exp(x[i])


def vector_exp2(const real[::1] x, real[::1] out):
    """Write 2^x as the vectorised loops compute it for x <= 0; return False where there are no such loops."""
    if FASTNW_GROUP == 0:
        return False
    if real is float:
        fastnw_vector_exp2_f32(&x[0], &out[0], x.shape[0])
    else:
        fastnw_vector_exp2_f64(&x[0], &out[0], x.shape[0])
    return True
