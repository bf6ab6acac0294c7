# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sorts points into the order of a k-d tree whose leaves are full; see fastnw/methods/tree/kdtree.py."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

cdef struct Place:
    double x
    int64_t at


cdef inline void _swap(Place* a, Place* b) noexcept nogil:
    cdef Place t = a[0]
    a[0] = b[0]
    b[0] = t


cdef inline double _middle(double a, double b, double c) noexcept nogil:
    return max(min(a, b), min(max(a, b), c))


cdef void _select(Place* p, Py_ssize_t n, Py_ssize_t nth) noexcept nogil:
    """Hoare's selection: afterwards no place before `nth` is larger than it, and none after it is smaller. A pivot is the
    median of medians of nine places, which are drawn so that no pattern in the data can follow them."""
    cdef Py_ssize_t low = 0, high = n - 1, i, j, k
    cdef uint64_t state = 88172645463325252
    cdef double[9] x
    cdef double pivot
    while low < high:
        for k in range(9):
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            x[k] = p[low + <Py_ssize_t>(state % <uint64_t>(high - low + 1))].x
        pivot = _middle(_middle(x[0], x[1], x[2]), _middle(x[3], x[4], x[5]), _middle(x[6], x[7], x[8]))
        i, j = low, high
        while i <= j:
            while p[i].x < pivot:
                i += 1
            while p[j].x > pivot:
                j -= 1
            if i <= j:
                _swap(p + i, p + j)
                i += 1
                j -= 1
        if nth <= j:
            high = j
        elif nth >= i:
            low = i
        else:
            return


cdef Py_ssize_t _half(Py_ssize_t n, Py_ssize_t leaf) noexcept nogil:
    """The number of points that go left: whole leaves, as many as the largest power of two below their number."""
    cdef Py_ssize_t half = leaf
    while 2 * half < n:
        half *= 2
    return half


cdef Py_ssize_t _split(
    const double[:, ::1] points, const double[::1] inverse, int64_t* order, Py_ssize_t n, Py_ssize_t leaf, Place* room
) noexcept nogil:
    """Move the points with the smallest coordinates along the longest side of their box to the front; returns how many."""
    cdef Py_ssize_t i, j, axis = 0, half = _half(n, leaf)
    cdef double low, high, x, side, longest = -1
    for j in range(points.shape[1]):
        low, high = INFINITY, -INFINITY
        for i in range(n):
            x = points[order[i], j]
            low, high = min(low, x), max(high, x)
        side = (high * 0.5 - low * 0.5) * inverse[j]
        if side > longest:
            axis, longest = j, side
    for i in range(n):
        room[i].x, room[i].at = points[order[i], axis], order[i]
    _select(room, n, half)
    for i in range(n):
        order[i] = room[i].at
    return half


cdef void _sort(
    const double[:, ::1] points, const double[::1] inverse, int64_t* order, Py_ssize_t n, Py_ssize_t leaf, Place* room
) noexcept nogil:
    cdef Py_ssize_t half
    while n > leaf:
        half = _split(points, inverse, order, n, leaf, room)
        _sort(points, inverse, order, half, leaf, room)
        order += half
        n -= half


def left_size(Py_ssize_t n, Py_ssize_t leaf):
    """The number of points in the left half; all of them if they are one leaf."""
    return _half(n, leaf) if n > leaf else n


def extend_box(const double[:, ::1] points, const int64_t[::1] order, double[::1] low, double[::1] high):
    """Widen a box (d,) by the points at `order`."""
    cdef Py_ssize_t i, j, d = points.shape[1]
    cdef double x
    with nogil:
        for i in range(order.shape[0]):
            for j in range(d):
                x = points[order[i], j]
                low[j], high[j] = min(low[j], x), max(high[j], x)


def gather(const double[:, ::1] points, Py_ssize_t axis, const int64_t[::1] order, Place[::1] places):
    """Copy one coordinate and the positions of the points at `order`, for `halve`."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(order.shape[0]):
            places[i].x, places[i].at = points[order[i], axis], order[i]


def halve(Place[::1] places, int64_t[::1] order, Py_ssize_t half):
    """Move the `half` places with the smallest coordinates to the front, and write their positions into `order`."""
    cdef Py_ssize_t i
    with nogil:
        _select(&places[0], places.shape[0], half)
        for i in range(places.shape[0]):
            order[i] = places[i].at


def sort(const double[:, ::1] points, const double[::1] inverse, int64_t[::1] order, Py_ssize_t leaf):
    """Sort the points at `order` into a k-d tree with leaves of that size."""
    cdef Py_ssize_t n = order.shape[0]
    cdef Place* room = <Place*>malloc(max(n, 1) * sizeof(Place))
    if room == NULL:
        raise MemoryError("There is no memory to sort points.")
    with nogil:
        _sort(points, inverse, &order[0], n, leaf, room)
        free(room)
