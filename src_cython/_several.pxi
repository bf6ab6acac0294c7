# Several profiles and bandwidths in one pass over the distances. Included by _tiles.pxi.

# The state of profile p and query i is row p m + i of `sums`.
cdef struct Profiles:
    int count
    const int* codes
    const double* sensitivities
    const void* ratios    # (count,) factors of the first profile's u^2
    const void* inverses  # (count, d) 1/h_j of each profile
    Sums sums


cdef void _fused_profiles(
    const Profiles* profiles, const KeyBlock* strip, const QueryBlock* queries, const Py_ssize_t* members, int count,
    const real* inverses
) noexcept nogil:
    """`_fused` for several profiles."""
    cdef double found[MAX_GROUP * MAX_PROFILES][3]
    cdef const real* q[MAX_GROUP]
    cdef real edge = 1
    cdef real[1] unused
    cdef const double* error = queries.error
    cdef Pairs pairs
    cdef Group group
    cdef KeyBlock rest
    cdef Sums row
    cdef Kernel kernel
    cdef int a, p
    cdef Py_ssize_t i, at, done, n = strip.size, c = strip.c, whole = n // LANES * LANES
    for a in range(count):
        q[a] = <const real*>queries.coords + members[a] * strip.d
        edge = max(edge, <real>(1 + 2 * error[members[a]]))
    if whole > 0:
        pairs.edge, pairs.inverse = edge, inverses
        group.size, group.queries = count, <const void**>&q[0]
        if real is float:
            fastnw_several_f32(profiles.codes, <const real*>profiles.ratios, profiles.count, &pairs, strip, &group, whole,
                               found)
        else:
            fastnw_several_f64(profiles.codes, <const real*>profiles.ratios, profiles.count, &pairs, strip, &group, whole,
                               found)
    for p in range(profiles.count):
        kernel.code, kernel.sensitivity = profiles.codes[p], profiles.sensitivities[p]
        for a in range(count):
            i, at, done = p * queries.size + members[a], p * FASTNW_GROUP + a, 0
            row = _sums_at(&profiles.sums, i, c)
            if whole > 0 and found[at][0] == found[at][0]:  # else NaN: the sums are void, see _fused_body.h
                done = whole
                row.mass[0] += found[at][0]
                row.mass_error[0] += kernel.sensitivity * error[members[a]] * found[at][2]
                if c == 1:
                    row.total[0] += found[at][1]
            if done < n:
                rest = _keys_from(strip, done, n - done)
                _staged(&kernel, &rest, q[a], inverses + p * strip.d, -1, error[members[a]], &unused[0], &row)


cdef void _sum_profiles(
    const Profiles* profiles, const KeyBlock* keys, const QueryBlock* queries, const real* inverses
) noexcept nogil:
    cdef Py_ssize_t members[MAX_GROUP]
    cdef Py_ssize_t i, start = 0, length, left_out, n = keys.size, m = queries.size
    cdef Py_ssize_t longest = _strip_length(sizeof(real) * (keys.d + 2), keys.c)
    cdef real[1] unused
    cdef int count, p
    cdef bint ready
    cdef KeyBlock strip
    cdef Sums row
    cdef Kernel kernel
    while start < n:
        length = FIRST_STRIP_KEYS if start == 0 else longest
        length = length if n - start > length else n - start
        strip = _keys_from(keys, start, length)
        count = 0
        for i in range(m):
            left_out = -1
            if queries.own != NULL and 0 <= queries.own[i] - start < length:
                left_out = queries.own[i] - start
            ready = FASTNW_GROUP > 0 and left_out < 0
            for p in range(profiles.count):
                ready = ready and not IS_ONE_OF(INNER_PRODUCT_KERNELS, profiles.codes[p])
                ready = ready and profiles.sums.shift[p * m + i] == 0
            if ready:
                members[count] = i
                count += 1
            else:
                for p in range(profiles.count):
                    kernel.code, kernel.sensitivity = profiles.codes[p], profiles.sensitivities[p]
                    row = _sums_at(&profiles.sums, p * m + i, keys.c)
                    _staged(&kernel, &strip, <const real*>queries.coords + i * keys.d, inverses + p * keys.d, left_out,
                            queries.error[i], &unused[0], &row)
            if count > 0 and (count == FASTNW_GROUP or i == m - 1):
                _fused_profiles(profiles, &strip, queries, &members[0], count, inverses)
                count = 0
        start += length


def sum_several(profiles, coords, inverses, keys, own, state, error):
    """Add the sums of a `KeyBlock` for several profiles to their states, one below the other, in place.

    `profiles`: their codes, sensitivities, and factors of the first one's u^2, as arrays.
    """
    cdef Arrays arrays
    cdef KeyBlock block
    cdef QueryBlock queries
    cdef Profiles of
    cdef Py_buffer* view
    cdef uint64_t before
    cdef Py_ssize_t itemsize = coords.itemsize, c
    arrays.count = 0
    codes, sensitivities, ratios = profiles
    try:
        view = _view(&arrays, inverses, FLOATS, itemsize, 2, PyBUF_C_CONTIGUOUS)
        of.count, of.inverses = <int>view.shape[0], view.buf
        of.codes = <const int*>_read(&arrays, codes, INTEGERS, sizeof(int), 1)
        of.sensitivities = <const double*>_read(&arrays, sensitivities, FLOATS, sizeof(double), 1)
        of.ratios = _read(&arrays, ratios, FLOATS, itemsize, 1)
        _fill_queries(&queries, &arrays, coords, inverses[0], own, error, itemsize)
        c = _fill_sums(&of.sums, &arrays, state)
        if of.count > MAX_PROFILES or c > 1:
            raise ValueError(f"Expected at most {MAX_PROFILES} profiles of one value, got {of.count} of {c}.")
        _fill_keys(&block, &arrays, keys, itemsize, c)
        if queries.size > 0 and block.size > 0:
            with nogil:
                if itemsize == sizeof(float):
                    before = _flush(
                        <const float*>of.inverses, of.count * block.d, <const float*>block.scale, block.size)
                    _sum_profiles(&of, &block, &queries, <const float*>of.inverses)
                else:
                    before = _flush(
                        <const double*>of.inverses, of.count * block.d, <const double*>block.scale, block.size)
                    _sum_profiles(&of, &block, &queries, <const double*>of.inverses)
                fastnw_restore(before)
    finally:
        _release(&arrays)
