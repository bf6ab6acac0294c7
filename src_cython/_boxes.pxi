# A tree of keys, seen by its boxes: which leaves a block of queries needs. Included by _leaves.pxi; what the arrays are stands
# in fastnw/methods/tree/kdtree.py.

from libc.stdint cimport int32_t

cdef extern from "_fused.h" nogil:
    enum:
        LEAF

cdef enum:
    FAN = 16         # children of a node
    NEIGHBOURS = 32  # queries in a block: with 16 walks cost more, with 64 their lists are longer

leaf, fan = LEAF, FAN
cdef double SLACK = 1 - 2.0**-40  # a distance of boxes times this is below those of their keys, rounding included

cdef struct Tree:
    int kernel, power
    Py_ssize_t d, c, stride, value_stride, nodes, depth, terms, lowest
    bint iso
    double sensitivity, total_weight, least_weight, share
    const double* inverse
    const double* keys
    const double* scale
    const double* weights
    const double* values
    const int32_t* codes     # of the keys' classes, `outputs` a key, or NULL
    Py_ssize_t outputs
    const double* low
    const double* high
    const double* node_weights
    const double* node_scales
    const int64_t* levels
    const double* moments  # (nodes, terms, 1 + c), used from level `lowest` on, or NULL
    double moment_error    # of sums from moments, per weight

cdef struct Query:
    const double* at
    Py_ssize_t own
    double error, nats  # -log of a mass that it has at least
    double* shift
    double* mass
    double* total
    double* mass_error

cdef struct Scratch:
    int32_t* found  # leaves of the block
    int32_t* spare
    int32_t* mine   # leaves of a query
    double* low     # the found leaves' boxes, (d, room), weights, scales, and distances from a query
    double* high
    double* weights
    double* scales
    double* squares
    int32_t* bins
    int32_t* whole  # nodes within all windows of the block
    double* lifted
    double* kappa
    double* sums
    Py_ssize_t count, whole_count, room
    double dropped  # log kappa of the nodes that the block dropped, at most


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
    for j in range(tree.d):
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
    cdef double[FAN] squares
    cdef Py_ssize_t level, i, n, first = 0, best = 0, at
    for level in range(tree.depth - 1, -1, -1):
        at = tree.levels[level] + first
        n = min(<Py_ssize_t>FAN, <Py_ssize_t>tree.levels[level + 1] - at)
        _box_squares(tree, tree.low + at, tree.high + at, tree.nodes,
                     tree.node_scales + at if tree.node_scales != NULL else NULL, q, q, n, &squares[0])
        best = 0
        for i in range(1, n):
            if squares[i] < squares[best]:
                best = i
        best += first
        first = best * FAN
    return best


cdef inline bint _is_whole(
    const Tree* tree, Py_ssize_t level, Py_ssize_t first, const double* q_low, const double* q_high, double within,
    Py_ssize_t own_low, Py_ssize_t own_high
) noexcept nogil:
    """Whether all keys of a node lie within u^2 <= within of every query of a box, and none is a query's own."""
    cdef Py_ssize_t j, at = tree.levels[level] + first, size = LEAF
    cdef double s, t, square = 0
    for j in range(level):
        size *= FAN
    if own_low < (first + 1) * size and own_high >= first * size:
        return False
    for j in range(tree.d):
        s, t = tree.high[j * tree.nodes + at] - q_low[j], q_high[j] - tree.low[j * tree.nodes + at]
        t = (t if t > s else s) * tree.inverse[j]
        square += t * t
    return square <= within * SLACK


cdef int _walk(
    const Tree* tree, const double* q_low, const double* q_high, double limit, double within, Py_ssize_t own_low,
    Py_ssize_t own_high, Scratch* scratch
) noexcept nogil:
    """Find the leaves that may have keys within u^2 <= limit of the box, in ascending order, and their boxes; where there are
    moments, without the nodes that lie wholly within."""
    cdef double[FAN] squares
    cdef Py_ssize_t level, i, j, k, first, n, at, count = 1
    cdef int32_t* now = scratch.found if tree.depth % 2 == 0 else scratch.spare
    cdef int32_t* then
    scratch.whole_count = now[0] = 0  # a root above the highest level
    for level in range(tree.depth - 1, -1, -1):
        then, k = scratch.spare if now == scratch.found else scratch.found, 0
        for i in range(count):
            first = now[i] * FAN
            at = tree.levels[level] + first
            n = min(<Py_ssize_t>FAN, <Py_ssize_t>tree.levels[level + 1] - at)
            _box_squares(tree, tree.low + at, tree.high + at, tree.nodes,
                         tree.node_scales + at if tree.node_scales != NULL else NULL, q_low, q_high, n, &squares[0])
            for j in range(n):
                if squares[j] * SLACK > limit:
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
        scratch.room = count + count // 2 + FAN
        scratch.low = <double*>malloc((2 * tree.d + 4) * scratch.room * sizeof(double))
        if scratch.low == NULL:
            scratch.room = 0
            return -1
        scratch.high = scratch.low + tree.d * scratch.room
        scratch.weights = scratch.high + tree.d * scratch.room
        scratch.scales = scratch.weights + scratch.room
        scratch.squares = scratch.scales + scratch.room
        scratch.bins = <int32_t*>(scratch.squares + scratch.room)
    for j in range(tree.d):
        for i in range(count):
            scratch.low[j * scratch.room + i] = tree.low[j * tree.nodes + now[i]]
            scratch.high[j * scratch.room + i] = tree.high[j * tree.nodes + now[i]]
    for i in range(count):
        scratch.weights[i] = tree.node_weights[now[i]]
        scratch.scales[i] = 1 if tree.node_scales == NULL else tree.node_scales[now[i]]
    return 0


