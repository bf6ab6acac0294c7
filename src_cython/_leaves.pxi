# Sums over a tree of keys, in float64: which leaves each query needs, and what they add up to. Included by _tiles.pxi.
#
# Neighbouring queries walk down the levels together and drop nodes by the distance of boxes; each query then chooses among
# the leaves left by its own distance to their boxes. A compact kernel needs the leaves that its window overlaps. A decaying
# kernel needs all but leaves that together weigh less than a share of the mass, however far the nearest key is.

from libc.math cimport log, log1p
from libc.stdint cimport INT64_MAX

include "_boxes.pxi"
include "_whole.pxi"

cdef extern from "_fused.h" nogil:
    void fastnw_leaves_f64(const Pairs*, const KeyBlock*, const double*, double, const Leaves*, double*, double*)
    void fastnw_weigh_leaves_f64(const KeyBlock*, const double*, const Leaves*, double*)

cdef enum:
    BINS = 64  # of exponents, a nat each
    STORED_LEAVES = 8  # leaves whose profiles are stored at a time, where there are several values

cdef double BOUND_ROUNDING = 1.001  # how much the rounding of exponents below 1e8 may lessen a bound
cdef double ROUNDED_UP = 1 + 2.0**-30
cdef double LOG_KEYS_PER_LEAF = 3.5  # nats: one key of the first leaves has the mass that is known


cdef inline double _square_at(int kernel, double z) noexcept nogil:
    """The u^2 at which `_decay` is z."""
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


cdef inline double _square_of_nats(int kernel, double nats) noexcept nogil:
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


cdef inline void _stage_keys(
    const Tree* tree, const Query* q, Scratch* scratch, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """Add n <= MAX_STRIP_KEYS keys from `first` on by the staged loops."""
    cdef Py_ssize_t left_out = q.own - first if 0 <= q.own - first < n else -1
    cdef KeyBlock strip = _keys_from(&tree.keys, first, n)
    _staged(&tree.kernel, &strip, q.coords, tree.inverse, left_out, q.error, scratch.row_sums, &q.sums)


cdef void _stage_leaves(
    const Tree* tree, const Query* q, Scratch* scratch, const int32_t* leaves, Py_ssize_t count
) noexcept nogil:
    """Add leaves by the staged loops, neighbouring ones together."""
    cdef Py_ssize_t i = 0, stop
    while i < count:
        stop = i + 1
        while stop < count and leaves[stop] == leaves[stop - 1] + 1 and (stop - i) * KEYS_PER_LEAF < MAX_SEQUENTIAL_KEYS:
            stop += 1
        _stage_keys(tree, q, scratch, <Py_ssize_t>leaves[i] * KEYS_PER_LEAF, (stop - i) * KEYS_PER_LEAF)
        i = stop


cdef void _add_leaves(const Tree* tree, const Query* q, Scratch* scratch, int32_t* leaves, Py_ssize_t count) noexcept nogil:
    """Add those leaves' sums to the query's; the leaf of its own key goes first, and out of the list."""
    cdef double[3] found
    cdef Py_ssize_t i, k, n, first
    cdef Pairs pairs
    cdef Leaves part
    cdef const KeyBlock* keys = &tree.keys
    cdef const double* weights = <const double*>keys.weights
    if q.own >= 0:
        k = 0
        for i in range(count):
            if leaves[i] == q.own // KEYS_PER_LEAF:
                _stage_keys(tree, q, scratch, <Py_ssize_t>leaves[i] * KEYS_PER_LEAF, KEYS_PER_LEAF)
            else:
                leaves[k] = leaves[i]
                k += 1
        count = k
    if FASTNW_GROUP == 0:
        _stage_leaves(tree, q, scratch, leaves, count)
        return
    pairs.kernel, pairs.one_bandwidth, pairs.inverse = tree.kernel.code, tree.one_bandwidth, tree.inverse
    pairs.values, pairs.edge = 2 if keys.c > 1 else 1, 1 + 2 * q.error
    found[0] = found[1] = found[2] = 0
    first = n = 0
    while first + n < count:
        first += n
        n = min(count - first, <Py_ssize_t>STORED_LEAVES) if pairs.values == 2 else count
        part.numbers, part.count = leaves + first, n
        fastnw_leaves_f64(&pairs, keys, q.coords, -q.sums.shift[0], &part, scratch.kappa, &found[0])
        if found[0] != found[0]:  # NaN: the sums are void, see _fused_body.h
            _stage_leaves(tree, q, scratch, leaves + first, n)
            continue
        q.sums.mass[0] += found[0]
        q.sums.mass_error[0] += tree.kernel.sensitivity * q.error * found[2]
        if keys.codes != NULL:
            for i in range(first, first + n):
                k = <Py_ssize_t>leaves[i] * KEYS_PER_LEAF
                _weigh_classes(scratch.kappa + (i - first) * KEYS_PER_LEAF, weights + k, keys.codes + k * keys.outputs,
                               keys.outputs, KEYS_PER_LEAF, q.sums.total)
        elif keys.c == 1:
            q.sums.total[0] += found[1]
        elif pairs.values == 2:
            fastnw_weigh_leaves_f64(keys, scratch.kappa, &part, q.sums.total)


cdef Py_ssize_t _pick(const Scratch* scratch, double above, double limit) noexcept nogil:
    """Write the leaves with above < u^2 <= limit into `chosen`; returns their number."""
    cdef Py_ssize_t i, k = 0
    for i in range(scratch.count):
        scratch.chosen[k] = scratch.leaves[i]
        k += above < scratch.squares[i] * ROUNDED_DOWN <= limit
    return k


cdef void _approach(const Tree* tree, Query* q, Scratch* scratch) noexcept nogil:
    """Shift the state of a far query to its nearest key, so that what counts does not underflow."""
    cdef double[KEYS_PER_LEAF] s
    cdef double nearest = _square_at(tree.kernel.code, -q.sums.shift[0]) * ROUNDED_UP, z
    cdef KeyBlock leaf
    cdef Py_ssize_t i, first
    for i in range(scratch.count):
        if scratch.squares[i] * ROUNDED_DOWN <= nearest:
            first = <Py_ssize_t>scratch.leaves[i] * KEYS_PER_LEAF
            leaf = _keys_from(&tree.keys, first, KEYS_PER_LEAF)
            _scores(tree.kernel.code, &leaf, q.coords, tree.inverse, &s[0])
            if 0 <= q.own - first < KEYS_PER_LEAF:
                s[q.own - first] = INFINITY
            nearest = min(nearest, _smallest(&s[0], KEYS_PER_LEAF))
    if nearest == INFINITY:
        return
    z = _decay(tree.kernel.code, nearest)
    q.sums.shift[0] = -z if z > 40 else <double>0
    q.nats = min(q.nats, z - log(tree.least_weight))


cdef void _fill_bins(int kernel, Scratch* scratch, double z0) noexcept nogil:
    """Sort the leaves into bins of one nat, counted from z0."""
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


cdef Py_ssize_t _sum_decaying(const Tree* tree, Query* q, Scratch* scratch) noexcept nogil:
    """Sum the leaves that one query needs: first those whose keys count for sure, then as many more as leave out only a
    small share of the mass. Returns the number of leaves summed."""
    cdef double[4][BINS] weights
    cdef double near, z0, bound, dropped = 0, budget
    cdef Py_ssize_t i, k, bin, count
    if q.sums.shift[0] < 0:
        _approach(tree, q, scratch)
    near = _square_of_nats(tree.kernel.code, max(q.nats, <double>0) + LOG_KEYS_PER_LEAF)
    count = _pick(scratch, -1, near)
    _add_leaves(tree, q, scratch, scratch.chosen, count)
    z0 = _decay(tree.kernel.code, near)
    _fill_bins(tree.kernel.code, scratch, z0)
    for k in range(4):
        for bin in range(BINS):
            weights[k][bin] = 0
    for i in range(scratch.count):  # four in turns: one sum would wait for its own last store
        weights[i & 3][scratch.bins[i]] += scratch.weights[i] if scratch.squares[i] * ROUNDED_DOWN > near else <double>0
    budget, bin = 0.875 * tree.share * q.sums.mass[0], BINS - 1
    while bin >= 0:
        bound = weights[0][bin] + weights[1][bin] + weights[2][bin] + weights[3][bin]
        bound *= BOUND_ROUNDING * _bound(tree.kernel.code, z0 + bin, q.sums.shift[0])
        if not dropped + bound <= budget:
            break
        dropped += bound
        bin -= 1
    if bin >= 0:
        k = _pick(scratch, near, INFINITY if bin == BINS - 1 else _square_at(tree.kernel.code, z0 + bin + 1) * ROUNDED_UP)
        _add_leaves(tree, q, scratch, scratch.chosen, k)
        count += k
    q.sums.mass_error[0] += dropped + BOUND_ROUNDING * tree.total_weight * exp(scratch.dropped - q.sums.shift[0])
    return count


cdef void _begin(const Tree* tree, Query* q, Scratch* scratch, Py_ssize_t near_leaf) noexcept nogil:
    """Find from one near leaf the query's `nats`, and whether its shift is 0 or, until `_approach`, that of the leaf."""
    cdef double shift = -INFINITY, mass = 0, unused = 0
    cdef Query first
    cdef Tree masses = tree[0]
    if masses.keys.codes != NULL:  # there is no room for totals of classes, nor any use
        masses.keys.c, masses.keys.codes = 0, NULL
    first.coords, first.own, first.error = q.coords, q.own, q.error
    first.sums.shift, first.sums.mass, first.sums.mass_error, first.sums.total = &shift, &mass, &unused, scratch.kappa
    _stage_keys(&masses, &first, scratch, near_leaf * KEYS_PER_LEAF, KEYS_PER_LEAF)
    q.sums.shift[0] = shift
    q.nats = -(shift + log(mass)) if mass > 0 else <double>INFINITY


cdef Py_ssize_t _block(const Tree* tree, Query* queries, Py_ssize_t n, Scratch* scratch) noexcept nogil:
    """Sum a block of neighbouring queries; returns how many leaves they took, or -1 without memory."""
    cdef double* q_low = scratch.query_low
    cdef double* q_high = scratch.query_high
    cdef Py_ssize_t i, j, near_leaf, visited = 0
    cdef Py_ssize_t own_low = INT64_MAX, own_high = -1
    cdef double nats = 0, limit = 0, error = 0
    cdef bint decays = IS_ONE_OF(DECAYING_KERNELS, tree.kernel.code)
    for j in range(tree.keys.d):
        q_low[j] = q_high[j] = queries[0].coords[j]
        for i in range(1, n):
            q_low[j], q_high[j] = min(q_low[j], queries[i].coords[j]), max(q_high[j], queries[i].coords[j])
    if decays:
        near_leaf = _near_leaf(tree, queries[n // 2].coords)
        for i in range(n):
            _begin(tree, queries + i, scratch, near_leaf)
            nats = max(nats, queries[i].nats)
        nats += log(8 * tree.total_weight / tree.share)
        limit, scratch.dropped = _square_of_nats(tree.kernel.code, nats), -nats
    else:
        for i in range(n):
            error = max(error, queries[i].error)
            if queries[i].own >= 0:
                own_low, own_high = min(own_low, queries[i].own), max(own_high, queries[i].own)
        limit = 1 + 2 * error
    if _walk(tree, scratch, limit, 1 - 4 * error, own_low, own_high) < 0:
        return -1
    if scratch.whole_count:
        _add_whole(tree, queries, n, scratch)
    for i in range(n):
        _box_squares(tree, scratch.low, scratch.high, scratch.room, scratch.scales if tree.node_scales != NULL else NULL,
                     queries[i].coords, queries[i].coords, scratch.count, scratch.squares)
        if decays:
            visited += _sum_decaying(tree, queries + i, scratch)
        else:
            j = _pick(scratch, -1, 1 + 2 * queries[i].error)
            _add_leaves(tree, queries + i, scratch, scratch.chosen, j)
            visited += j
    return visited


cdef int _fill_tree(Tree* tree, Arrays* arrays, object source, object weighing, object moments) except -1:
    """Fill in the nodes of a `Tree` of fastnw/methods/tree/kdtree.py, and what decides which of them are summed."""
    cdef Py_buffer* view = _view(arrays, source.low, FLOATS, sizeof(double), 2, PyBUF_C_CONTIGUOUS)
    tree.low, tree.nodes = <const double*>view.buf, view.shape[1]
    tree.high = <const double*>_read(arrays, source.high, FLOATS, sizeof(double), 2)
    tree.node_weights = <const double*>_read(arrays, source.node_weights, FLOATS, sizeof(double), 1)
    tree.node_scales = NULL
    if tree.keys.scale != NULL:
        tree.node_scales = <const double*>_read(arrays, source.node_scales, FLOATS, sizeof(double), 1)
    view = _view(arrays, source.levels, INTEGERS, sizeof(int64_t), 1, PyBUF_C_CONTIGUOUS)
    tree.levels, tree.depth = <const int64_t*>view.buf, view.shape[0] - 1
    tree.total_weight, tree.least_weight, tree.share, tree.most_pairs = weighing
    of_nodes, tree.power, tree.lowest, tree.moment_error = moments
    tree.moments = NULL
    if of_nodes is None:
        tree.lowest = tree.depth
    else:
        view = _view(arrays, of_nodes, FLOATS, sizeof(double), 3, PyBUF_C_CONTIGUOUS)
        tree.moments, tree.terms = <const double*>view.buf, view.shape[1]
    return 0


cdef int _reserve(Scratch* scratch, const Tree* tree) noexcept nogil:
    """Allocate the buffers of a call; -1 if there is no memory. `_free` frees them."""
    cdef Py_ssize_t leaves = tree.levels[1], d = tree.keys.d
    cdef Py_ssize_t summed = 0 if tree.keys.codes != NULL else tree.keys.c
    cdef Py_ssize_t width = summed + LANES
    scratch.leaves = <int32_t*>malloc(4 * leaves * sizeof(int32_t))
    scratch.kappa = <double*>malloc(
        (STORED_LEAVES * KEYS_PER_LEAF + 2 * width + 2 * d + (d + summed + 3) * QUERIES_PER_WALK) * sizeof(double))
    scratch.low, scratch.room = NULL, 0
    if scratch.leaves == NULL or scratch.kappa == NULL:
        return -1
    scratch.spare, scratch.chosen = scratch.leaves + leaves, scratch.leaves + 2 * leaves
    scratch.whole = scratch.leaves + 3 * leaves
    scratch.row_sums = scratch.kappa + STORED_LEAVES * KEYS_PER_LEAF + width
    scratch.query_low = scratch.row_sums + width
    scratch.query_high = scratch.query_low + d
    scratch.lifted = scratch.query_high + d
    return 0


cdef void _free(Scratch* scratch) noexcept nogil:
    free(scratch.leaves)
    free(scratch.kappa)
    free(scratch.low)


cdef Py_ssize_t _sum_leaves(
    const Tree* tree, const QueryBlock* queries, const Sums* sums, Scratch* scratch, double* pairs
) noexcept nogil:
    """Sum blocks of neighbouring queries until there are enough pairs; returns the queries done, or -1 without memory."""
    cdef Query[QUERIES_PER_WALK] block
    cdef Py_ssize_t i, n, visited, done = 0
    while done < queries.size and pairs[0] < tree.most_pairs:
        n = min(queries.size - done, <Py_ssize_t>QUERIES_PER_WALK)
        for i in range(n):
            block[i].coords, block[i].own = <const double*>queries.coords + (done + i) * tree.keys.d, -1
            block[i].error, block[i].sums = queries.error[done + i], _sums_at(sums, done + i, tree.keys.c)
            if queries.own != NULL:
                block[i].own = queries.own[done + i]
        visited = _block(tree, &block[0], n, scratch)
        if visited < 0:
            return -1
        pairs[0] += <double>visited * KEYS_PER_LEAF + n
        done += n
    return done


def sum_leaves(int code, double sensitivity, coords, inverse, tree, own, state, error, weighing, moments):
    """Add the sums of sorted queries, block by block, until there are enough pairs; the arguments are those of
    `sum_leaves` in fastnw/backends/backend.py.

    Returns
    -------
    done : int
        The number of queries that are done, counted from the first.
    pairs : float
        How many pairs they took.
    """
    cdef Arrays arrays
    cdef Tree nodes
    cdef QueryBlock queries
    cdef Sums sums
    cdef Scratch scratch
    cdef Py_ssize_t c, done = 0
    cdef uint64_t before
    cdef double pairs = 0
    arrays.count = 0
    nodes.kernel.code, nodes.kernel.sensitivity = code, sensitivity
    try:
        _fill_queries(&queries, &arrays, coords, inverse, own, error, sizeof(double))
        if queries.size == 0:
            return 0, 0.0
        c = _fill_sums(&sums, &arrays, state)
        _fill_keys(&nodes.keys, &arrays, tree.block, sizeof(double), c)
        if nodes.keys.size % KEYS_PER_LEAF:
            raise ValueError(f"Expected whole leaves of {KEYS_PER_LEAF} keys, got {nodes.keys.size} keys.")
        nodes.inverse, nodes.one_bandwidth = <const double*>queries.inverse, queries.one_bandwidth
        _fill_tree(&nodes, &arrays, tree, weighing, moments)
        with nogil:
            done = _reserve(&scratch, &nodes)
            if done == 0:
                before = _flush(nodes.inverse, nodes.keys.d, <const double*>nodes.keys.scale, nodes.keys.size)
                done = _sum_leaves(&nodes, &queries, &sums, &scratch, &pairs)
                fastnw_restore(before)
            _free(&scratch)
    finally:
        _release(&arrays)
    if done < 0:
        raise MemoryError("There is no memory for the leaves of a query block. Use fewer keys or fewer values.")
    return done, pairs
