# Nodes that lie wholly within the windows of a block of queries are summed from their moments, however many keys they hold,
# for kernels (1 - u^2)^power. Included by _leaves.pxi.
#
# With y the key and p the query from the node's centre, in bandwidths, 1 - u^2 = (1 - |p|^2) + 2 p·y - |y|^2: an inner
# product z·Y of one vector for the query and one for the key. Moments are the sums over keys of w [1, t] times the
# monomials of Y of degree `power`, each times its multinomial coefficient.

cdef void _add_whole(const Tree* tree, Query* queries, Py_ssize_t n, Scratch* scratch) noexcept nogil:
    """Add the sums of the block's whole nodes to the states of its n queries."""
    cdef double* z = scratch.lifted  # (d + 2, QUERIES_PER_WALK)
    cdef double* sums = z + (tree.keys.d + 2) * QUERIES_PER_WALK  # (1 + c, QUERIES_PER_WALK)
    cdef double[QUERIES_PER_WALK] ones
    cdef const double* moments
    cdef Py_ssize_t i, j, k, node, size = tree.keys.d + 2
    cdef double centre, t, weight = 0
    for i in range(QUERIES_PER_WALK):
        ones[i] = 1
    for i in range((tree.keys.c + 1) * QUERIES_PER_WALK):
        sums[i] = 0
    for i in range(size * QUERIES_PER_WALK):
        z[i] = 0 if i < (size - 1) * QUERIES_PER_WALK else -1
    for k in range(scratch.whole_count):
        node = scratch.whole[k]
        weight += tree.node_weights[node]
        moments = tree.moments + node * tree.terms * (1 + tree.keys.c)
        for i in range(QUERIES_PER_WALK):
            z[i] = 1
        for j in range(tree.keys.d):
            centre = tree.low[j * tree.nodes + node] * 0.5 + tree.high[j * tree.nodes + node] * 0.5
            for i in range(n):
                t = (queries[i].coords[j] - centre) * tree.inverse[j]
                z[i] -= t * t
                z[(j + 1) * QUERIES_PER_WALK + i] = 2 * t
        _add_monomials(&moments, tree.power, size, tree.keys.c + 1, z, &ones[0], sums)
    for i in range(n):
        queries[i].sums.mass[0] += sums[i]
        queries[i].sums.mass_error[0] += tree.moment_error * weight
        for k in range(tree.keys.c):
            queries[i].sums.total[k] += sums[(k + 1) * QUERIES_PER_WALK + i]


cdef void _add_monomials(
    const double** moments, int degree, Py_ssize_t size, Py_ssize_t columns, const double* z, const double* factor,
    double* sums
) noexcept nogil:
    """Add factor times the monomials of that degree in the first `size` rows of z, times their moments, in the order of
    combinations with replacement, the last row first."""
    cdef double[QUERIES_PER_WALK] product
    cdef Py_ssize_t i, k, v
    cdef double moment
    if degree == 0:
        for k in range(columns):
            moment = moments[0][k]
            for i in range(QUERIES_PER_WALK):
                sums[k * QUERIES_PER_WALK + i] += moment * factor[i]
        moments[0] += columns
        return
    for v in range(size - 1, -1, -1):
        for i in range(QUERIES_PER_WALK):
            product[i] = factor[i] * z[v * QUERIES_PER_WALK + i]
        _add_monomials(moments, degree - 1, v + 1, columns, z, &product[0], sums)
