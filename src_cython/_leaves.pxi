# Sums over a tree of keys, in float64: which leaves each query needs, and what they add up to. Included by _tiles.pxi.
#
# Queries come in blocks of neighbours. A block walks down the levels and drops nodes by the distance of boxes; each query
# then chooses among the leaves left by its own distance to their boxes. A compact kernel needs those that its window
# reaches. One that decays exponentially needs all but leaves that together weigh less than a share of the mass, however
# far the nearest key is.

from libc.math cimport log, log1p
from libc.stdint cimport INT64_MAX

include "_boxes.pxi"
include "_whole.pxi"

cdef extern from "_fused.h" nogil:
    void fastnw_leaves_f64(
        int, const double*, Py_ssize_t, Py_ssize_t, const double*, int, const double*, const double*, const double*, int,
        double, double*, const double*, double, const int32_t*, Py_ssize_t, double*)
    void fastnw_weigh_leaves_f64(
        const double*, const double*, Py_ssize_t, Py_ssize_t, const int32_t*, Py_ssize_t, double*)

cdef enum:
    BINS = 64   # of exponents, a nat each
    STORED = 8  # leaves whose kernel values are kept at a time, where there are many values

cdef double GROWN = 1.001  # what the rounding of exponents below 1e8 does to a bound
cdef double TIGHT = 1 + 2.0**-30
cdef double NEAREST = 3.5  # nats, log of LEAF: the first leaves, one of which has the mass that is known


cdef inline double _square_at(int kernel, double z) noexcept nogil:
    """u^2 where `_decay` is z."""
    if kernel == GAUSSIAN:
        return 2 * z
    if kernel == MATERN32:
        z *= 0.5773502691896258
    elif kernel == MATERN52:
        z *= 0.4472135954999579
    return z * z


cdef inline double _bound(int kernel, double z, double shift) noexcept nogil:
    """Bound on kappa / exp(shift) where `_decay` is z or larger."""
    cdef double polynomial = 1
    if kernel == MATERN32:
        polynomial = 1 + z
    elif kernel == MATERN52:
        polynomial = 1 + z + z * z / 3
    elif kernel == LOGISTIC:
        polynomial = 4
    return polynomial * exp(-z - shift)


cdef inline double _reach(int kernel, double nats) noexcept nogil:
    """u^2 beyond which kappa is below exp(-nats)."""
    cdef double z = nats if nats > 0 else <double>0
    cdef int i
    nats = z
    if kernel == LOGISTIC:
        z += 1.3862943611198906
    elif kernel == MATERN32 or kernel == MATERN52:
        z = 2 * z + 3  # above the root of z - log(polynomial) = nats, and the steps towards it stay above
        for i in range(6):
            z = nats + (log1p(z) if kernel == MATERN32 else log1p(z + z * z / 3))
    return _square_at(kernel, z)


cdef inline void _stage_keys(const Tree* tree, Query* q, Scratch* scratch, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Add n <= STRIP keys from `first` on by the staged loops."""
    cdef Py_ssize_t self_at = q.own - first if 0 <= q.own - first < n else -1
    _staged(tree.kernel, q.at, tree.inverse, tree.scale + first if tree.scale != NULL else NULL, tree.keys + first,
            tree.stride, tree.d, tree.weights + first,
            tree.values + first * (tree.value_stride if tree.c > 1 else 1), tree.value_stride, tree.c,
            tree.codes + first * tree.outputs if tree.codes != NULL else NULL, tree.outputs, n, self_at,
            scratch.sums, q.shift, q.mass, q.total, q.mass_error, q.error, tree.sensitivity)


cdef void _stage_leaves(const Tree* tree, Query* q, Scratch* scratch, const int32_t* leaves, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i = 0, stop
    while i < count:
        stop = i + 1
        while stop < count and leaves[stop] == leaves[stop - 1] + 1 and (stop - i) * LEAF < SUM_STRIP:
            stop += 1
        _stage_keys(tree, q, scratch, <Py_ssize_t>leaves[i] * LEAF, (stop - i) * LEAF)
        i = stop


cdef void _add_leaves(const Tree* tree, Query* q, Scratch* scratch, int32_t* leaves, Py_ssize_t count) noexcept nogil:
    """Add those leaves' sums to the query's state; the leaf of its own key goes first, and out of the list."""
    cdef double[3] found
    cdef Py_ssize_t i, k, n, first
    cdef int use = 2 if tree.c > 1 else 1
    if q.own >= 0:
        k = 0
        for i in range(count):
            if leaves[i] == q.own // LEAF:
                _stage_keys(tree, q, scratch, <Py_ssize_t>leaves[i] * LEAF, LEAF)
            else:
                leaves[k] = leaves[i]
                k += 1
        count = k
    if FASTNW_GROUP == 0:
        _stage_leaves(tree, q, scratch, leaves, count)
        return
    found[0] = found[1] = found[2] = 0
    first = n = 0
    while first + n < count:
        first += n
        n = min(count - first, <Py_ssize_t>STORED) if use == 2 else count
        fastnw_leaves_f64(tree.kernel, tree.keys, tree.stride, tree.d, tree.inverse, tree.iso, tree.scale, tree.weights,
                          tree.values if tree.c == 1 else tree.weights, use, 1 + 2 * q.error, scratch.kappa, q.at,
                          -q.shift[0], leaves + first, n, &found[0])
        if found[0] != found[0]:  # see _fused_body.h
            _stage_leaves(tree, q, scratch, leaves + first, n)
            continue
        q.mass[0] += found[0]
        q.mass_error[0] += tree.sensitivity * q.error * found[2]
        if tree.codes != NULL:
            for i in range(first, first + n):
                k = <Py_ssize_t>leaves[i] * LEAF
                _weigh_classes(scratch.kappa + (i - first) * LEAF, tree.weights + k, tree.codes + k * tree.outputs,
                               tree.outputs, LEAF, q.total)
        elif tree.c == 1:
            q.total[0] += found[1]
        elif use == 2:
            fastnw_weigh_leaves_f64(scratch.kappa, tree.values, tree.value_stride, tree.c, leaves + first, n, q.total)


cdef Py_ssize_t _pick(const Scratch* scratch, double above, double limit) noexcept nogil:
    """The found leaves with above < u^2 <= limit into `mine`; their number."""
    cdef Py_ssize_t i, k = 0
    for i in range(scratch.count):
        scratch.mine[k] = scratch.found[i]
        k += above < scratch.squares[i] * SLACK <= limit
    return k


cdef void _approach(const Tree* tree, Query* q, Scratch* scratch) noexcept nogil:
    """Shift the state of a far query to its nearest key, so that what counts does not underflow."""
    cdef double[LEAF] s
    cdef double nearest = _square_at(tree.kernel, -q.shift[0]) * TIGHT, z
    cdef Py_ssize_t i, first
    for i in range(scratch.count):
        if scratch.squares[i] * SLACK <= nearest:
            first = <Py_ssize_t>scratch.found[i] * LEAF
            _scores(tree.kernel, &s[0], q.at, tree.inverse, tree.scale + first if tree.scale != NULL else NULL,
                    tree.keys + first, tree.stride, tree.d, LEAF)
            if 0 <= q.own - first < LEAF:
                s[q.own - first] = INFINITY
            nearest = min(nearest, _smallest(&s[0], LEAF))
    if nearest == INFINITY:
        return
    z = _decay(tree.kernel, nearest)
    q.shift[0] = -z if z > 40 else <double>0
    q.nats = min(q.nats, z - log(tree.least_weight))


cdef void _fill_bins(int kernel, Scratch* scratch, double z0) noexcept nogil:
    """The nats of each found leaf beyond z0, as a number of a bin."""
    cdef double z, factor = _decay(kernel, <double>1)
    cdef Py_ssize_t i
    if kernel == GAUSSIAN:
        for i in range(scratch.count):
            z = factor * scratch.squares[i] - z0
            z = z if z > 0 else <double>0
            scratch.bins[i] = <int32_t>(z if z < BINS - 1 else <double>(BINS - 1))
    else:
        for i in range(scratch.count):
            z = factor * sqrt(scratch.squares[i]) - z0
            z = z if z > 0 else <double>0
            scratch.bins[i] = <int32_t>(z if z < BINS - 1 else <double>(BINS - 1))


cdef Py_ssize_t _decaying(const Tree* tree, Query* q, Scratch* scratch) noexcept nogil:
    """Sum what one query needs of the found leaves: first those whose keys count for sure, then as many as are needed
    for what is left to be a small share of their mass. The number of leaves summed."""
    cdef double[4][BINS] weights
    cdef double near, z0, bound, dropped = 0, budget
    cdef Py_ssize_t i, k, bin, count
    if q.shift[0] < 0:
        _approach(tree, q, scratch)
    near = _reach(tree.kernel, max(q.nats, <double>0) + NEAREST)
    count = _pick(scratch, -1, near)
    _add_leaves(tree, q, scratch, scratch.mine, count)
    z0 = _decay(tree.kernel, near)
    _fill_bins(tree.kernel, scratch, z0)
    for k in range(4):
        for bin in range(BINS):
            weights[k][bin] = 0
    for i in range(scratch.count):  # four in turns: one sum would wait for its own last store
        weights[i & 3][scratch.bins[i]] += scratch.weights[i] if scratch.squares[i] * SLACK > near else <double>0
    budget, bin = 0.875 * tree.share * q.mass[0], BINS - 1
    while bin >= 0:
        bound = weights[0][bin] + weights[1][bin] + weights[2][bin] + weights[3][bin]
        bound *= GROWN * _bound(tree.kernel, z0 + bin, q.shift[0])
        if not dropped + bound <= budget:
            break
        dropped += bound
        bin -= 1
    if bin >= 0:
        k = _pick(scratch, near, INFINITY if bin == BINS - 1 else _square_at(tree.kernel, z0 + bin + 1) * TIGHT)
        _add_leaves(tree, q, scratch, scratch.mine, k)
        count += k
    q.mass_error[0] += dropped + GROWN * tree.total_weight * exp(scratch.dropped - q.shift[0])
    return count


cdef void _begin(const Tree* tree, Query* q, Scratch* scratch, Py_ssize_t near_leaf) noexcept nogil:
    """From one near leaf: `nats`, and whether the query's shift is 0 or, until `_approach`, that of the leaf."""
    cdef double shift = -INFINITY, mass = 0, unused = 0
    cdef Query first
    cdef Tree bare = tree[0]
    if bare.codes != NULL:  # there is no room for totals of classes, nor any use
        bare.c, bare.codes = 0, NULL
    first.at, first.own, first.error = q.at, q.own, q.error
    first.shift, first.mass, first.mass_error, first.total = &shift, &mass, &unused, scratch.kappa
    _stage_keys(&bare, &first, scratch, near_leaf * LEAF, LEAF)
    q.shift[0] = shift
    q.nats = -(shift + log(mass)) if mass > 0 else <double>INFINITY


cdef Py_ssize_t _block(const Tree* tree, Query* queries, Py_ssize_t n, Scratch* scratch, double* q_low, double* q_high) noexcept nogil:
    """The sums of a block of queries: how many leaves they took, or -1 without memory."""
    cdef Py_ssize_t i, j, near_leaf, visited = 0
    cdef Py_ssize_t own_low = INT64_MAX, own_high = -1
    cdef double nats = 0, limit = 0, error = 0
    cdef bint decays = tree.kernel < DOT
    for j in range(tree.d):
        q_low[j] = q_high[j] = queries[0].at[j]
        for i in range(1, n):
            q_low[j], q_high[j] = min(q_low[j], queries[i].at[j]), max(q_high[j], queries[i].at[j])
    if decays:
        near_leaf = _near_leaf(tree, queries[n // 2].at)
        for i in range(n):
            _begin(tree, queries + i, scratch, near_leaf)
            nats = max(nats, queries[i].nats)
        nats += log(8 * tree.total_weight / tree.share)
        limit, scratch.dropped = _reach(tree.kernel, nats), -nats
    else:
        for i in range(n):
            error = max(error, queries[i].error)
            if queries[i].own >= 0:
                own_low, own_high = min(own_low, queries[i].own), max(own_high, queries[i].own)
        limit = 1 + 2 * error
    if _walk(tree, q_low, q_high, limit, 1 - 4 * error, own_low, own_high, scratch) < 0:
        return -1
    if scratch.whole_count:
        _add_whole(tree, queries, n, scratch)
    for i in range(n):
        _box_squares(tree, scratch.low, scratch.high, scratch.room, scratch.scales if tree.node_scales != NULL else NULL,
                     queries[i].at, queries[i].at, scratch.count, scratch.squares)
        if decays:
            visited += _decaying(tree, queries + i, scratch)
        else:
            j = _pick(scratch, -1, 1 + 2 * queries[i].error)
            _add_leaves(tree, queries + i, scratch, scratch.mine, j)
            visited += j
    return visited


def sum_leaves(
    int kernel, const double[:, ::1] queries, const double[::1] inv, const double[::1] scale, const double[:, :] keys,
    const double[::1] weights, const double[:, :] values, const int32_t[:, ::1] codes, const double[:, ::1] low, const double[:, ::1] high,
    const double[::1] node_weights, const double[::1] node_scales, const int64_t[::1] levels, const int64_t[::1] own,
    double[::1] shift, double[::1] mass, double[:, ::1] total, double[::1] mass_error, const double[::1] error,
    double sensitivity, double total_weight, double least_weight, double share, double most_pairs,
    const double[:, :, ::1] moments, int power, int lowest, double moment_error,
):
    """Add the sums of sorted queries, block by block, until `most_pairs` were summed: (queries done, pairs summed)."""
    cdef Tree tree
    cdef Scratch scratch
    cdef Query[NEIGHBOURS] block
    cdef Py_ssize_t m = queries.shape[0], i, n, visited, done = 0, leaves, width, summed
    cdef uint64_t before
    cdef double pairs = 0
    cdef double* boxes
    tree.kernel, tree.d, tree.c, tree.nodes, tree.depth = kernel, inv.shape[0], total.shape[1], low.shape[1], levels.shape[0] - 1
    if m == 0:
        return 0, 0.0
    tree.codes, tree.outputs, summed = NULL, 0, tree.c
    if codes is not None:
        if tree.c < 2 or codes.shape[0] != keys.shape[1] or codes.shape[1] < 1:
            raise ValueError("classes must be two at least, and every key must have one")
        tree.codes, tree.outputs, summed = &codes[0, 0], codes.shape[1], 0
    tree.stride, tree.value_stride = keys.strides[0] // 8, values.strides[1] // 8 if summed > 1 else 0
    if keys.strides[1] != 8 or keys.shape[1] % LEAF or summed == 1 and values.strides[1] != 8 or summed > 1 and values.strides[0] != 8:
        raise ValueError("keys and a single value must be in rows of whole leaves, several values in columns")
    tree.inverse, tree.keys, tree.weights, tree.low, tree.high = &inv[0], &keys[0, 0], &weights[0], &low[0, 0], &high[0, 0]
    tree.iso, tree.scale, tree.node_scales = _is_iso(&inv[0], tree.d), NULL, NULL
    if scale is not None:
        tree.scale, tree.node_scales = &scale[0], &node_scales[0]
    tree.values = &values[0, 0] if summed > 0 else &weights[0]
    tree.node_weights, tree.levels = &node_weights[0], &levels[0]
    tree.sensitivity, tree.total_weight, tree.least_weight, tree.share = sensitivity, total_weight, least_weight, share
    tree.moments, tree.power, tree.lowest, tree.moment_error = NULL, power, tree.depth, moment_error
    if moments is not None:
        tree.moments, tree.terms, tree.lowest = &moments[0, 0, 0], moments.shape[1], lowest
    leaves, width = levels[1], summed + LANES
    scratch.found = <int32_t*>malloc(4 * leaves * sizeof(int32_t))
    scratch.kappa = <double*>malloc(
        (STORED * LEAF + 2 * width + 2 * tree.d + (tree.d + summed + 3) * NEIGHBOURS) * sizeof(double))
    scratch.low, scratch.room = NULL, 0
    scratch.spare, scratch.mine, scratch.whole = scratch.found + leaves, scratch.found + 2 * leaves, scratch.found + 3 * leaves
    scratch.sums = scratch.kappa + STORED * LEAF + width
    boxes = scratch.sums + width
    scratch.lifted = boxes + 2 * tree.d
    with nogil:
        before = _flush(&inv[0], tree.d, tree.scale, keys.shape[1])
        visited = 0 if scratch.found != NULL and scratch.kappa != NULL else -1
        while visited >= 0 and done < m and pairs < most_pairs:
            n = min(m - done, <Py_ssize_t>NEIGHBOURS)
            for i in range(n):
                block[i].at, block[i].own, block[i].error = &queries[done + i, 0], -1, error[done + i]
                if own is not None:
                    block[i].own = own[done + i]
                block[i].shift, block[i].mass, block[i].mass_error = &shift[done + i], &mass[done + i], &mass_error[done + i]
                block[i].total = &total[done + i, 0] if tree.c > 0 else &mass[0]
            visited = _block(&tree, &block[0], n, &scratch, boxes, boxes + tree.d)
            pairs += <double>visited * LEAF + n
            done += n
        fastnw_restore(before)
        free(scratch.found)
        free(scratch.kappa)
        free(scratch.low)
    if visited < 0:
        raise MemoryError("no memory for a block of queries")
    return done, pairs
