# Positions among sorted keys, compensated sums and exact differences. Included by _prefix_sums.pyx.

cdef enum Where:  # a key lies, seen from a query
    LEFT_OF_WINDOW, NOT_BEYOND_WINDOW, NOT_RIGHT


cdef inline bint _is(Where where, double key, double query, double inverse, double edge) noexcept nogil:
    """Whether a key lies there. Along sorted keys the answer changes once at most, rounding included."""
    cdef double u = (query - key) * inverse
    if where == NOT_RIGHT:
        return key <= query
    if where == LEFT_OF_WINDOW:
        return key < query and u * u > edge
    return key <= query or u * u <= edge


cdef inline Py_ssize_t _seek(
    Where where, const double* x, Py_ssize_t n, Py_ssize_t first, double query, double inverse, double edge
) noexcept nogil:
    """The first key from `first` on that does not lie there. Steps double: queries are sorted, so that key is near."""
    cdef Py_ssize_t step = 1, stop, middle
    if first >= n or not _is(where, x[first], query, inverse, edge):
        return first
    while first + step < n and _is(where, x[first + step], query, inverse, edge):
        first += step
        step *= 2
    stop = min(first + step, n)
    while first + 1 < stop:
        middle = first + (stop - first) // 2
        if _is(where, x[middle], query, inverse, edge):
            first = middle
        else:
            stop = middle
    return stop


cdef inline void _fold(double* high, double* low, double* part, Py_ssize_t size) noexcept nogil:
    """Add `part` to high + low and clear it. Only low is rounded: a cell may hold all of 1e8 keys."""
    cdef Py_ssize_t i
    cdef double total, back
    for i in range(size):
        total = high[i] + part[i]
        back = total - high[i]
        low[i] += (high[i] - (total - back)) + (part[i] - back)
        high[i] = total
        part[i] = 0


cdef inline void _put(double* row, const double* high, const double* low, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        row[i] = high[i] + low[i]


cdef inline double _farther(double q, const double* x, Py_ssize_t left, Py_ssize_t right, Py_ssize_t n) noexcept nogil:
    """How much farther the nearest key on the left is than that on the right. The roundings of both distances count:
    each alone may be 1e9 bandwidths."""
    cdef double a, b, back, lost
    if left == 0:
        return INFINITY
    if right == n:
        return -INFINITY
    a, b = q - x[left - 1], x[right] - q
    back = q - a
    lost = (q - (a + back)) + (back - x[left - 1])
    back = x[right] - b
    lost -= (x[right] - (b + back)) + (back - q)
    return (a - b) + lost
