# A tree of keys, seen by the boxes of its nodes: which leaves a block of queries needs. Included by _leaves.pxi. The arrays
# are those of fastnw/methods/tree/kdtree.py.

# The numbers of some leaves.
cdef extern from "blocks.h" nogil:
    ctypedef struct Leaves "fastnw_leaf_list":
        const int32_t* numbers
        Py_ssize_t count

cdef double ROUNDED_DOWN = 1 - 2.0**-40  # a distance of boxes times this is below those of their keys, rounding included

cdef struct Tree:
    Kernel kernel
    KeyBlock keys  # of float64
    const double* inverse
    bint one_bandwidth
    int power  # of a profile (1 - u^2)^power, where there are moments
    Py_ssize_t nodes, depth, terms, lowest
    double total_weight, least_weight
    double share  # of a query's mass that may be left out
    double most_pairs
    const double* low   # (d, nodes)
    const double* high
    const double* node_weights
    const double* node_scales  # or NULL
    const int64_t* levels  # where each level's nodes begin, and where the last one's end
    const double* moments  # (nodes, terms, 1 + c), used from level `lowest` on, or NULL
    double moment_error    # of sums from moments, per weight

cdef struct Query:
    const double* coords
    Py_ssize_t own
    double error
    double nats  # -log of a mass that the query has at least
    Sums sums

cdef struct Scratch:
    int32_t* leaves  # that a block of queries may need
    int32_t* spare
    int32_t* chosen  # of those, the leaves that one query needs
    double* low      # the leaves' boxes, (d, room), weights, scales, and squared distances from a query
    double* high
    double* weights
    double* scales
    double* squares
    int32_t* bins
    int32_t* whole   # nodes within all windows of the block
    double* lifted
    double* kappa
    double* row_sums
    double* query_low  # the box of the block's queries
    double* query_high
    Py_ssize_t count, whole_count, room
    double dropped  # bound on log kappa of the nodes that the block dropped


cdef inline void _box_squares(
    const Tree* tree, const double* low, const double* high, Py_ssize_t stride, const double* scales,
    const double* q_low, const double* q_high, Py_ssize_t n, double* out
) noexcept nogil:
    """out[i] = the least u^2 between a box of queries and box i < n of keys."""
    cdef Py_ssize_t i, j
    cdef double a, b, s, t, v
    cdef const double* lows
    cdef const double* highs
    for i in range(n):
        out[i] = 0
    for j in range(tree.keys.d):
        a, b, v, lows, highs = q_low[j], q_high[j], tree.inverse[j], low + j * stride, high + j * stride
        for i in range(n):
            s, t = lows[i] - b, a - highs[i]
            t = t if t > s else s
            t = t * v if t > 0 else <double>0
            out[i] += t * t
    if scales != NULL:
        for i in range(n):
            out[i] *= scales[i]


cdef Py_ssize_t _near_leaf(const Tree* tree, const double* q) noexcept nogil:
    """The leaf where a walk down ends that always takes the nearest box."""
    cdef double[CHILDREN_PER_NODE] squares
    cdef Py_ssize_t level, i, n, first = 0, best = 0, at
    for level in range(tree.depth - 1, -1, -1):
        at = tree.levels[level] + first
        n = min(<Py_ssize_t>CHILDREN_PER_NODE, <Py_ssize_t>tree.levels[level + 1] - at)
        _box_squares(tree, tree.low + at, tree.high + at, tree.nodes,
                     tree.node_scales + at if tree.node_scales != NULL else NULL, q, q, n, &squares[0])
        best = 0
        for i in range(1, n):
            if squares[i] < squares[best]:
                best = i
        best += first
        first = best * CHILDREN_PER_NODE
    return best


cdef inline bint _is_whole(
    const Tree* tree, Py_ssize_t level, Py_ssize_t first, const double* q_low, const double* q_high, double within,
    Py_ssize_t own_low, Py_ssize_t own_high
) noexcept nogil:
    """Whether all keys of a node lie within u^2 <= within of every query of a box, and none is a query's own."""
    cdef Py_ssize_t j, at = tree.levels[level] + first, size = KEYS_PER_LEAF
    cdef double s, t, square = 0
    for j in range(level):
        size *= CHILDREN_PER_NODE
    if own_low < (first + 1) * size and own_high >= first * size:
        return False
    for j in range(tree.keys.d):
        s, t = tree.high[j * tree.nodes + at] - q_low[j], q_high[j] - tree.low[j * tree.nodes + at]
        t = (t if t > s else s) * tree.inverse[j]
        square += t * t
    return square <= within * ROUNDED_DOWN


cdef int _walk(
    const Tree* tree, Scratch* scratch, double limit, double within, Py_ssize_t own_low, Py_ssize_t own_high
) noexcept nogil:
    """Find the leaves that may have keys within u^2 <= limit of the queries' box, in ascending order, and their boxes. Where
    there are moments, nodes that lie wholly within all windows are listed by themselves."""
    cdef const double* q_low = scratch.query_low
    cdef const double* q_high = scratch.query_high
    cdef double[CHILDREN_PER_NODE] squares
    cdef Py_ssize_t level, i, j, k, first, n, at, count = 1
    cdef int32_t* now = scratch.leaves if tree.depth % 2 == 0 else scratch.spare
    cdef int32_t* then
    scratch.whole_count = now[0] = 0  # a root above the highest level
    for level in range(tree.depth - 1, -1, -1):
        then, k = scratch.spare if now == scratch.leaves else scratch.leaves, 0
        for i in range(count):
            first = now[i] * CHILDREN_PER_NODE
            at = tree.levels[level] + first
            n = min(<Py_ssize_t>CHILDREN_PER_NODE, <Py_ssize_t>tree.levels[level + 1] - at)
            _box_squares(tree, tree.low + at, tree.high + at, tree.nodes,
                         tree.node_scales + at if tree.node_scales != NULL else NULL, q_low, q_high, n, &squares[0])
            for j in range(n):
                if squares[j] * ROUNDED_DOWN > limit:
                    continue
                if level >= tree.lowest and _is_whole(tree, level, first + j, q_low, q_high, within, own_low, own_high):
                    scratch.whole[scratch.whole_count] = <int32_t>(tree.levels[level] + first + j)
                    scratch.whole_count += 1
                else:
                    then[k] = <int32_t>(first + j)
                    k += 1
        now, count = then, k
    scratch.count = count
    if count > scratch.room:
        free(scratch.low)
        scratch.room = count + count // 2 + CHILDREN_PER_NODE
        scratch.low = <double*>malloc((2 * tree.keys.d + 4) * scratch.room * sizeof(double))
        if scratch.low == NULL:
            scratch.room = 0
            return -1
        scratch.high = scratch.low + tree.keys.d * scratch.room
        scratch.weights = scratch.high + tree.keys.d * scratch.room
        scratch.scales = scratch.weights + scratch.room
        scratch.squares = scratch.scales + scratch.room
        scratch.bins = <int32_t*>(scratch.squares + scratch.room)
    for j in range(tree.keys.d):
        for i in range(count):
            scratch.low[j * scratch.room + i] = tree.low[j * tree.nodes + now[i]]
            scratch.high[j * scratch.room + i] = tree.high[j * tree.nodes + now[i]]
    for i in range(count):
        scratch.weights[i] = tree.node_weights[now[i]]
        scratch.scales[i] = 1 if tree.node_scales == NULL else tree.node_scales[now[i]]
    return 0


