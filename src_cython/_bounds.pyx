# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bounds on the errors of sums, one pass over the queries: in NumPy each of them is a dozen passes, and 10 µs a call."""

import numpy as np

from libc.math cimport INFINITY, NAN, fabs, isfinite


def certified(
    const double[:] shift,
    const double[:] mass,
    const double[:] mass_error,
    const double[:] total_error,
    const double[:] error,
    const double[:] lost,
    double relative,
    double clamped,
    double absolute,
    double of_totals,
):
    """Errors of mass and total with what rounding adds to them.

    Parameters
    ----------
    shift, mass, mass_error, total_error : (m,) float64
        Of the sums.
    error : (m,) float64
        Bound on the relative error of κ.
    lost : (m,) or (1,) float64
        Bound on terms that vanish.
    relative : float
        Of sums and formulas.
    clamped : float
        What exp adds below its clamp, over (1 + |shift|)²; 0 for kernels that do not work on logarithms.
    absolute : float
        Of the mass, from a user's formula; negative: only where there is a mass.
    of_totals : float
        What totals lose beyond the mass, over the mass.

    Returns
    -------
    mass_error, total_error : (m,) float64 arrays
    """
    cdef Py_ssize_t i, m = mass.shape[0], step = 1 if lost.shape[0] == m else 0
    cdef double each, far
    if not (shift.shape[0] == mass_error.shape[0] == total_error.shape[0] == error.shape[0] == m):
        raise ValueError("shapes do not fit")
    if lost.shape[0] != m and lost.shape[0] != 1:
        raise ValueError("shapes do not fit")
    new_mass_error, new_total_error = np.empty(m), np.empty(m)
    cdef double[::1] of_mass = new_mass_error, of_total = new_total_error
    with nogil:
        for i in range(m):
            each = relative + error[i]
            if clamped != 0:
                far = 1 + fabs(shift[i])
                each = each + clamped * (far * far) / mass[i]
            each = mass_error[i] + each * mass[i] + lost[i * step]
            if absolute > 0 or (absolute < 0 and mass[i] > 0):
                each = each + fabs(absolute)
            of_mass[i] = each
            of_total[i] = each + of_totals * mass[i] + total_error[i]
    return new_mass_error, new_total_error


def errors(const double[:, :] total, const double[:] mass, const double[:] mass_error, const double[:] total_error):
    """Bounds on the relative error of the mass and on the error of the means; see `PoolState`.

    Returns
    -------
    relative, bound : (m,) float64 arrays
    """
    cdef Py_ssize_t i, j, m = mass.shape[0], c = total.shape[1]
    cdef double largest, size, left, each
    if not (total.shape[0] == mass_error.shape[0] == total_error.shape[0] == m):
        raise ValueError("shapes do not fit")
    of_mass, of_means = np.empty(m), np.empty(m)
    cdef double[::1] relative = of_mass, bound = of_means
    with nogil:
        for i in range(m):
            left = mass[i] - mass_error[i]
            if mass[i] > mass_error[i] and isfinite(mass[i]):
                relative[i] = mass_error[i] / left
            else:
                relative[i] = 0.0 if mass[i] == 0 else INFINITY
            if not mass[i] > 0:
                bound[i] = NAN
                continue
            if not mass[i] > mass_error[i]:
                bound[i] = 2.0
                continue
            largest = 0.0
            for j in range(c):
                size = fabs(total[i, j])
                if not size <= largest:  # NaN, too
                    largest = size
                    if size != size:
                        break
            each = (largest / mass[i] * mass_error[i] + total_error[i]) / left
            bound[i] = 2.0 if each > 2.0 else each
    return of_mass, of_means


def accurate(
    const double[:] relative,
    const double[:] bound,
    const double[:] mass,
    const double[:] mass_error,
    const double[:] limit,
    bint compact,
):
    """(m,) Whether masses and means keep the limit, and no window counts as empty that may not be.

    Parameters
    ----------
    relative, bound : (m,) float64
        What `errors` returns; NaN bounds, of empty windows, do not count.
    mass, mass_error : (m,) float64
    limit : (m,) or (1,) float64
    compact : bool
        Whether a window without mass is empty if its mass has no error. Otherwise the mass has underflowed.
    """
    cdef Py_ssize_t i, m = mass.shape[0], step = 1 if limit.shape[0] == m else 0
    if not (relative.shape[0] == bound.shape[0] == mass_error.shape[0] == m):
        raise ValueError("shapes do not fit")
    if limit.shape[0] != m and limit.shape[0] != 1:
        raise ValueError("shapes do not fit")
    found = np.empty(m, np.bool_)
    cdef unsigned char[::1] kept = found.view(np.uint8)
    with nogil:
        for i in range(m):
            kept[i] = relative[i] <= limit[i * step] and not bound[i] / 2 > limit[i * step]
            if not mass[i] > 0 and not (compact and mass_error[i] <= 0):
                kept[i] = False
    return found
