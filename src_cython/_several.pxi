# Several profiles and bandwidths in one pass over the distances. Included by _tiles.pxi.

cdef void _several(
    const int* kernels, const real* ratios, int count, const real* inverses, const real* scale, const real* keys,
    Py_ssize_t stride, Py_ssize_t d, const real* weights, const real* values, Py_ssize_t c, Py_ssize_t n, Py_ssize_t m,
    const real** q, const Py_ssize_t* member, int group,
    double* shift, double* mass, double* total, double* mass_error, const double* error, const double* sensitivity,
) noexcept nogil:
    """`_fused` for several profiles: the state of profile p and query i is at p m + i."""
    cdef double found[GROUP * 16][3]
    cdef real edge = 1
    cdef real[1] unused
    cdef int a, p
    cdef Py_ssize_t i, at, done, whole = n // LANES * LANES
    for a in range(group):
        edge = max(edge, <real>(1 + 2 * error[member[a]]))
    if whole > 0:
        if real is float:
            fastnw_several_f32(kernels, ratios, count, keys, stride, d, inverses, scale, weights, values, edge, q, group,
                               whole, found)
        else:
            fastnw_several_f64(kernels, ratios, count, keys, stride, d, inverses, scale, weights, values, edge, q, group,
                               whole, found)
    for p in range(count):
        for a in range(group):
            i, at, done = p * m + member[a], p * FASTNW_GROUP + a, 0
            if whole > 0 and found[at][0] == found[at][0]:  # else NaN: see _fused_body.h
                done = whole
                mass[i] += found[at][0]
                mass_error[i] += sensitivity[p] * error[member[a]] * found[at][2]
                if c == 1:
                    total[i] += found[at][1]
            if done < n:
                _staged(kernels[p], q[a], inverses + p * d, scale + done if scale != NULL else NULL, keys + done, stride, d,
                        weights + done, values + done * c, 0, c, NULL, 0, n - done, -1, &unused[0], shift + i, mass + i,
                        total + i * c, mass_error + i, error[member[a]], sensitivity[p])


cdef void _sum_several(
    const int* kernels, const real* ratios, int count, const real* queries, Py_ssize_t m, const real* inverses,
    const real* scale, const real* keys, Py_ssize_t stride, Py_ssize_t d, const real* weights, const real* values,
    Py_ssize_t c, Py_ssize_t n, const int64_t* own,
    double* shift, double* mass, double* total, double* mass_error, const double* error, const double* sensitivity,
) noexcept nogil:
    cdef const real* q[GROUP]
    cdef const real* scales = NULL
    cdef Py_ssize_t member[GROUP]
    cdef Py_ssize_t i, start = 0, length, self_at, longest = _strip(sizeof(real) * (d + 2), c)
    cdef real[1] unused
    cdef int group, p
    cdef bint ready
    while start < n:
        length = FIRST if start == 0 else longest
        length = length if n - start > length else n - start
        if scale != NULL:
            scales = scale + start
        group = 0
        for i in range(m):
            self_at = own[i] - start if own != NULL and 0 <= own[i] - start < length else -1
            ready = FASTNW_GROUP > 0 and self_at < 0
            for p in range(count):
                ready = ready and kernels[p] != DOT and shift[p * m + i] == 0
            if ready:
                q[group], member[group] = queries + i * d, i
                group += 1
            else:
                for p in range(count):
                    _staged(kernels[p], queries + i * d, inverses + p * d, scales, keys + start, stride, d, weights + start,
                            values + start * c, 0, c, NULL, 0, length, self_at, &unused[0], shift + p * m + i, mass + p * m + i,
                            total + (p * m + i) * c, mass_error + p * m + i, error[i], sensitivity[p])
            if group > 0 and (group == FASTNW_GROUP or i == m - 1):
                _several(kernels, ratios, count, inverses, scales, keys + start, stride, d, weights + start,
                         values + start * c, c, length, m, &q[0], &member[0], group, shift, mass, total, mass_error, error,
                         sensitivity)
                group = 0
        start += length


def sum_several(
    const int[::1] kernels, const real[::1] ratios, const real[:, ::1] queries, const real[:, ::1] inverses,
    const real[::1] scale, const real[:, :] keys, const real[::1] weights, const real[:, :] values,
    const int64_t[::1] own, double[::1] shift, double[::1] mass, double[:, ::1] total, double[::1] mass_error,
    const double[::1] error, const double[::1] sensitivity,
):
    """Add a key block's sums for several profiles to their states, in place; see backends/compiled.py."""
    cdef Py_ssize_t m = queries.shape[0], d = queries.shape[1], n = keys.shape[1], c = total.shape[1], size = sizeof(real)
    cdef int count = <int>kernels.shape[0]
    cdef double nothing = 0
    cdef const real* scales = NULL
    cdef const int64_t* owns = NULL
    cdef uint64_t before
    if m == 0 or n == 0 or count == 0:
        return
    if count > SEVERAL or c > 1 or n > 1 and (keys.strides[1] != size or c == 1 and values.strides[1] != size):
        raise ValueError("too many profiles or values, or keys not in rows")
    if scale is not None:
        scales = &scale[0]
    if own is not None:
        owns = &own[0]
    with nogil:
        before = _flush(&inverses[0, 0], count * d, scales, n)
        _sum_several(&kernels[0], &ratios[0], count, &queries[0, 0], m, &inverses[0, 0], scales, &keys[0, 0],
                     keys.strides[0] // size, d, &weights[0], &values[0, 0] if c > 0 else &weights[0], c, n, owns, &shift[0],
                     &mass[0], &total[0, 0] if c > 0 else &nothing, &mass_error[0], &error[0], &sensitivity[0])
        fastnw_restore(before)
