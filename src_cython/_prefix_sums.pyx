# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sums over sorted keys in one coordinate, from prefix sums at every BLOCK-th key; see fastnw/methods/prefix_sums.py.

A kernel is (1 - u^power)^exponent within u <= 1, or a polynomial of degree 2 at most times exp(-u): then it `decays`.
Keys lie in cells at most one unit of u wide; a moment is sum(w y^p t) with y the distance to the anchor of the cell,
times exp(y) (prefixes) or exp(-y) (suffixes) if it decays.
"""

cimport cython
from libc.math cimport INFINITY, exp, fabs, log
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

cdef enum:
    BLOCK = 16  # keys between two stored moments: 8 are summed one by one at each end of a window, on average
    MAX_TERMS = 10  # of a polynomial: tricube's is the longest
    MAX_SINGLE_KEYS = 2 * BLOCK  # in a window, that are summed one by one

block = BLOCK
cdef double UNIT_ROUNDOFF = 2.0**-53

include "_sorted.pxi"


def find_cells(const double[::1] x, double inverse, double edge, Py_ssize_t first, int64_t[::1] starts):
    """Write the starts of the cells from key `first` (a start itself) on, as many as fit: (written, first key of the next).

    A cell reaches as far as half a window: ((x - start) inverse)^2 <= edge.
    """
    cdef Py_ssize_t n = x.shape[0], count = 0
    with nogil:
        while first < n and count < starts.shape[0]:
            starts[count] = first
            count += 1
            first = _seek(NOT_BEYOND_WINDOW, &x[0], n, first, x[first], inverse, edge)
    return count, first


@cython.final
cdef class SortedSums:
    """Sorted keys x (n,), rows w [1, t] (n, 1 + c), cells (starts has one more, n), and the moments to be filled.

    `prefix`, `suffix` (blocks, terms, 1 + c): of the cell's keys before, or from, each BLOCK-th key on; if it decays,
    with all the keys of cells before (after), too. `before`, `after` (cells, terms, 1 + c), only if it decays: of the
    keys of all cells before (after). `up`, `down` (n,), only if it decays: exp(y), exp(-y).

    States are rows of shift, bound (infinite where it is not within the limit), mass and totals.
    """

    cdef const double[::1] x, anchors
    cdef const double[:, ::1] rows
    cdef const int64_t[::1] starts
    cdef double[:, :, ::1] prefix, suffix, before, after
    cdef double[::1] up, down
    cdef double polynomial[MAX_TERMS]
    cdef int power, exponent
    cdef double inverse, edge
    cdef Py_ssize_t n, cells, width, terms
    cdef bint decays, even

    def __init__(self, x, rows, cells, moments, factors, profile, window):
        """`cells`: starts and anchors. `profile`: polynomial, (power, exponent), decays. `window`: inverse, edge."""
        cdef Py_ssize_t i
        starts, anchors = cells
        polynomial, powers, decays = profile
        self.x, self.rows, self.starts, self.anchors = x, rows, starts, anchors
        self.prefix, self.suffix, self.before, self.after = moments
        self.up, self.down = factors
        (self.inverse, self.edge), self.decays = window, decays
        self.n, self.cells = self.x.shape[0], self.anchors.shape[0]
        self.width, self.terms = self.rows.shape[1], len(polynomial)
        if self.terms > MAX_TERMS or self.prefix.shape[1] != self.terms or self.prefix.shape[2] != self.width:
            raise ValueError("shapes do not fit")
        for i in range(self.terms):
            self.polynomial[i] = polynomial[i]
        for i in range(self.terms, MAX_TERMS):
            self.polynomial[i] = 0
        self.power, self.exponent = powers
        self.even = not decays and self.power % 2 == 0

    def fill_factors(self, Py_ssize_t first, Py_ssize_t stop):
        """Fill `up` and `down` for the cells from `first` to `stop`."""
        cdef Py_ssize_t k, i
        with nogil:
            for k in range(first, stop):
                for i in range(self.starts[k], self.starts[k + 1]):
                    self.up[i] = exp((self.x[i] - self.anchors[k]) * self.inverse)
                    self.down[i] = 1 / self.up[i]

    cdef void _add(self, double* part, Py_ssize_t i, Py_ssize_t k, bint forward) noexcept nogil:
        cdef double y = (self.x[i] - self.anchors[k]) * self.inverse, factor = 1
        cdef Py_ssize_t p, a
        if self.decays:
            factor = self.up[i] if forward else self.down[i]
        for p in range(self.terms):
            for a in range(self.width):
                part[p * self.width + a] += factor * self.rows[i, a]
            factor *= y

    cdef void _move(self, double* high, double* low, Py_ssize_t old, Py_ssize_t new) noexcept nogil:
        """Move moments to the anchor of another cell, farther from the keys: they become 0 unless the kernel decays."""
        cdef Py_ssize_t a, p, r, width = self.width
        cdef double step = (self.anchors[old] - self.anchors[new]) * self.inverse, decay = exp(-fabs(step))
        if not self.decays or decay == 0:
            for a in range(self.terms * width):
                high[a] = low[a] = 0
            return
        for a in range(width):
            for p in range(self.terms):
                high[p * width + a] += low[p * width + a]
                low[p * width + a] = 0
            if self.terms > 2:
                high[2 * width + a] += step * (2 * high[width + a] + step * high[a])
            if self.terms > 1:
                high[width + a] += step * high[a]
            for p in range(self.terms):
                high[p * width + a] *= decay

    def fill_prefix(self, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t k, double[:, ::1] sums):
        """Fill the blocks from `first` to `stop`; returns the cell of the last key.

        k : the cell of the key before. sums (3, terms (1 + c)) : the sums so far.
        """
        cdef Py_ssize_t j, i, size = self.terms * self.width
        cdef double *high = &sums[0, 0]
        cdef double *low = &sums[1, 0]
        cdef double *part = &sums[2, 0]
        with nogil:
            for j in range(first, stop):
                for i in range(j * BLOCK, min((j + 1) * BLOCK, self.n)):
                    if i == self.starts[k + 1]:
                        _fold(high, low, part, size)
                        k += 1
                        self._move(high, low, k - 1, k)
                        if self.decays:
                            _put(&self.before[k, 0, 0], high, low, size)
                    if i == j * BLOCK:
                        _put(&self.prefix[j, 0, 0], high, low, size)
                    self._add(part, i, k, True)
                _fold(high, low, part, size)
        return k

    def fill_suffix(self, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t k, double[:, ::1] sums):
        """Fill the blocks from `stop` - 1 down to `first`; k is the cell of the key after."""
        cdef Py_ssize_t j, i, size = self.terms * self.width
        cdef double *high = &sums[0, 0]
        cdef double *low = &sums[1, 0]
        cdef double *part = &sums[2, 0]
        with nogil:
            for j in range(stop - 1, first - 1, -1):
                for i in range(min((j + 1) * BLOCK, self.n) - 1, j * BLOCK - 1, -1):
                    if i < self.starts[k]:
                        _fold(high, low, part, size)
                        k -= 1
                        self._move(high, low, k + 1, k)
                        if self.decays:
                            _put(&self.after[k, 0, 0], high, low, size)
                    self._add(part, i, k, False)
                _fold(high, low, part, size)
                _put(&self.suffix[j, 0, 0], high, low, size)
        return k

    cdef Py_ssize_t _cell(self, Py_ssize_t k, Py_ssize_t i) noexcept nogil:
        """The cell of key i, which is k or a later one."""
        cdef Py_ssize_t step = 1, stop, middle
        while k + step < self.cells and self.starts[k + step] <= i:
            k += step
            step *= 2
        stop = min(k + step, self.cells)
        while k + 1 < stop:
            middle = k + (stop - k) // 2
            if self.starts[middle] <= i:
                k = middle
            else:
                stop = middle
        return k

    cdef inline double _kappa(self, double u) noexcept nogil:
        cdef double z
        if self.decays:
            return self.polynomial[0] + u * (self.polynomial[1] + u * self.polynomial[2])
        if self.exponent == 0:
            return 1
        z = max(1 - (u if self.power == 1 else u * u if self.power == 2 else u * u * u), 0)
        return z if self.exponent == 1 else z * z if self.exponent == 2 else z * z * z

    cdef inline double _slope(self, double u) noexcept nogil:
        """Derivative of kappa by 1 - u^power, at the steeper end of the interval that rounding leaves."""
        cdef double z = fabs(1 - (u if self.power == 1 else u * u if self.power == 2 else u * u * u)) + 16 * UNIT_ROUNDOFF
        return self.exponent * (1 if self.exponent < 2 else z if self.exponent == 2 else z * z)

    cdef double _few(self, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t own, double query, double* out) noexcept nogil:
        """Add the keys of a whole window but the own one; returns the bound on the error.

        Where all keys are near the edge of the window, this bound is far below the one that goes by weight: u^power has
        eleven roundings.
        """
        cdef Py_ssize_t i, a
        cdef double u, kappa, steep = 0
        for i in range(first, stop):
            if i != own:
                u = fabs(query - self.x[i]) * self.inverse
                kappa = self._kappa(u)
                steep += self._slope(u) * self.rows[i, 0]
                for a in range(self.width):
                    out[a] += kappa * self.rows[i, a]
        return UNIT_ROUNDOFF * (12 * steep + (MAX_SINGLE_KEYS + 8) * out[0])

    cdef void _one_by_one(
        self, Py_ssize_t first, Py_ssize_t stop, double query, const double* factors, double* out
    ) noexcept nogil:
        """Add the keys' sums to out (1 + c), and their weights to the place after."""
        cdef Py_ssize_t i, a, width = self.width
        cdef double kappa, mass = 0, total = 0, weight = 0
        cdef const double* row
        if first >= stop:
            return
        row = &self.rows[first, 0]
        for i in range(first, stop):
            kappa = self._kappa(fabs(query - self.x[i]) * self.inverse)
            if factors != NULL:
                kappa *= factors[i]
            weight += row[0]
            mass += kappa * row[0]
            if width == 2:  # the usual case, in registers
                total += kappa * row[1]
            else:
                for a in range(1, width):
                    out[a] += kappa * row[a]
            row += width
        out[0] += mass
        if width == 2:
            out[1] += total
        out[width] += weight

    cdef void _from_moments(
        self, const double* moments, Py_ssize_t k, double query, bint left, double* out
    ) noexcept nogil:
        """Add sums of keys left (right) of the query: the polynomial of u = ±(delta - y) in powers of y."""
        cdef double b[MAX_TERMS]
        cdef double delta = (query - self.anchors[k]) * self.inverse
        cdef Py_ssize_t i, p, a
        for p in range(self.terms):
            b[p] = self.polynomial[p] if left or p % 2 == 0 else -self.polynomial[p]
        for i in range(self.terms - 1):
            for p in range(self.terms - 2, i - 1, -1):
                b[p] += delta * b[p + 1]
        for p in range(self.terms):
            if p % 2:
                b[p] = -b[p]
            for a in range(self.width):
                out[a] += b[p] * moments[p * self.width + a]
        out[self.width] += moments[0]

    cdef void _prefix(self, Py_ssize_t k, Py_ssize_t stop, double query, bint left, double* out) noexcept nogil:
        """Add the cell's keys before `stop`, of which there are some; if the kernel decays, all keys before."""
        cdef Py_ssize_t first = self.starts[k], j = (stop - 1) // BLOCK
        cdef const double* factors = &self.up[0] if self.decays else NULL
        if j * BLOCK >= first:
            self._from_moments(&self.prefix[j, 0, 0], k, query, left, out)
            first = j * BLOCK
        elif self.decays:
            self._from_moments(&self.before[k, 0, 0], k, query, left, out)
        self._one_by_one(first, stop, query, factors, out)

    cdef void _suffix(self, Py_ssize_t k, Py_ssize_t first, double query, bint left, double* out) noexcept nogil:
        """Add the cell's keys from `first` on, of which there are some; if the kernel decays, all keys from there on."""
        cdef Py_ssize_t stop = self.starts[k + 1], j = (first + BLOCK - 1) // BLOCK
        cdef const double* factors = &self.down[0] if self.decays else NULL
        if j * BLOCK < stop:
            self._from_moments(&self.suffix[j, 0, 0], k, query, left, out)
            stop = j * BLOCK
        elif self.decays:
            self._from_moments(&self.after[k, 0, 0], k, query, left, out)
        self._one_by_one(first, stop, query, factors, out)

    cdef void _range(
        self, Py_ssize_t k, Py_ssize_t first, Py_ssize_t stop, double query, bint left, double* out
    ) noexcept nogil:
        """Add the keys from `first`, which is in cell k, to `stop`, cell by cell, of a kernel that does not decay.

        By the rule of `find_cells` no window begins and ends within a cell; such a window would be summed key by key.
        """
        cdef Py_ssize_t begin, end, last, j
        while first < stop:
            begin, end = self.starts[k], self.starts[k + 1]
            last, j = min(stop, end), (begin + BLOCK - 1) // BLOCK
            if first == begin and last == end and j * BLOCK < end:
                self._from_moments(&self.prefix[j, 0, 0], k, query, left, out)
                self._from_moments(&self.suffix[j, 0, 0], k, query, left, out)
            elif first == begin:
                self._prefix(k, last, query, left, out)
            elif last == end:
                self._suffix(k, first, query, left, out)
            else:
                self._one_by_one(first, last, query, NULL, out)
            first, k = last, k + 1

    def windows(
        self, const double[::1] queries, const int64_t[::1] own, double error, double lost,
        double limit, double[:, ::1] states,
    ):
        """Sums of a compact kernel for sorted queries, into the rows of states.

        own : positions of the keys to leave out (-1: none), or an empty array. error, lost : the bound is error times the
        weight in the window, plus lost. limit : the largest bound that is accepted, in units of the mass.
        """
        cdef Py_ssize_t i, a, lo = 0, hi = 0, split = 0, k = 0, p, before, after, width = self.width, count
        cdef const double* x = &self.x[0]
        cdef double q, kappa, bound
        cdef double* out = <double*>calloc(width + 1, sizeof(double))
        if out == NULL:
            raise MemoryError("There is no memory for the sums of a query.")
        with nogil:
            for i in range(queries.shape[0]):
                q = queries[i]
                lo = _seek(LEFT_OF_WINDOW, x, self.n, lo, q, self.inverse, self.edge)
                hi = _seek(NOT_BEYOND_WINDOW, x, self.n, max(lo, hi), q, self.inverse, self.edge)
                p = own[i] if own.shape[0] > 0 else -1
                if p < lo or p >= hi:
                    p = -1
                count = hi - lo - (p >= 0)
                for a in range(width + 1):
                    out[a] = 0
                bound = 0
                if count > 0 and hi - lo <= MAX_SINGLE_KEYS:
                    bound = self._few(lo, hi, p, q, out) + lost
                elif count > 0:
                    k = self._cell(k, lo)
                    if p < 0 and self.even:
                        self._range(k, lo, hi, q, True, out)
                    else:
                        split = before = after = _seek(NOT_RIGHT, x, self.n, max(split, lo), q, self.inverse, self.edge)
                        if p >= 0 and x[p] == q:
                            before, after = p, p + 1
                        self._range(k, lo, before, q, True, out)
                        if after < hi:
                            self._range(self._cell(k, after), after, hi, q, False, out)
                        if p >= 0 and x[p] != q:  # the bound tells what this loses
                            kappa = self._kappa(fabs(q - x[p]) * self.inverse)
                            for a in range(width):
                                out[a] -= kappa * self.rows[p, a]
                    bound = error * out[width] + lost
                if count > 0 and not (out[0] > 0 and bound <= limit * (out[0] - bound)):
                    bound = INFINITY
                states[i, 0], states[i, 1] = 0, bound
                for a in range(width):
                    states[i, 2 + a] = out[a]
        free(out)

    def decaying(
        self, const double[::1] queries, const int64_t[::1] own, double weight, double error,
        double slope, double limit, double[:, ::1] states,
    ):
        """Sums of a kernel that decays, for sorted queries, into rows of states; the shift is -u of the nearest key.

        weight : the weight of all keys. error + slope * nats : bound on the relative error, with nats counted from the
        nearest key down.
        """
        cdef Py_ssize_t i, a, split = 0, left, right, k = 0, p, width = self.width
        cdef const double* x = &self.x[0]
        cdef double q, apart, near, kappa, depth, bound, whole
        cdef double scale[2]
        cdef double *out = <double*>calloc(2 * (width + 1), sizeof(double))
        cdef double *other = out + width + 1
        if out == NULL:
            raise MemoryError("There is no memory for the sums of a query.")
        with nogil:
            for i in range(queries.shape[0]):
                q = queries[i]
                split = left = right = _seek(NOT_RIGHT, x, self.n, split, q, self.inverse, 0)
                p = own[i] if own.shape[0] > 0 else -1
                if p >= 0 and x[p] == q:
                    left, right = p, p + 1
                    p = -1
                for a in range(2 * (width + 1)):
                    out[a] = 0
                if left == 0 and right == self.n:
                    states[i, 0] = -INFINITY
                    for a in range(width + 1):
                        states[i, 1 + a] = 0
                    continue
                apart = _farther(q, x, left, right, self.n) * self.inverse
                near = (x[right] - q if left == 0 or apart > 0 else q - x[left - 1]) * self.inverse
                scale[0], scale[1] = exp(-max(apart, 0)), exp(min(apart, 0))
                if left > 0 and scale[0] > 0:
                    if k >= self.cells or self.starts[k] > left - 1:
                        k = 0
                    k = self._cell(k, left - 1)
                    self._prefix(k, left, q, True, out)
                    scale[0] *= self.down[left - 1]
                if right < self.n and scale[1] > 0:
                    self._suffix(self._cell(k, right), right, q, False, other)
                    scale[1] *= self.up[right]
                for a in range(width):
                    out[a] = out[a] * scale[0] + other[a] * scale[1]
                whole = out[0]
                if p >= 0:  # the own key is elsewhere: the bound tells what this loses
                    kappa = fabs(q - x[p]) * self.inverse
                    kappa = self._kappa(kappa) * exp(near - kappa)
                    for a in range(width):
                        out[a] -= kappa * self.rows[p, a]
                # the mean of u - near over the weights, by their divergence from w/W; see fastnw/methods/prefix_sums.py
                depth = max(log(weight * self._kappa(near) / whole), 0)
                # one for the shift, where exp(shift) is no zero, and one for exp(near - kappa) above
                bound = (error + slope * depth + UNIT_ROUNDOFF * 4 * min(near, 745) + (error * near if p >= 0 else 0)) * whole
                if not (bound <= limit * (out[0] - bound) and near < 1e100):
                    bound = INFINITY
                states[i, 0], states[i, 1] = -near, bound
                for a in range(width):
                    states[i, 2 + a] = out[a]
        free(out)
