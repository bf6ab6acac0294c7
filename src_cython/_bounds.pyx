# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Error bounds of sums in one pass over the queries. In NumPy each function is a dozen passes, which take 10 µs."""

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
    """Add the rounding errors of sums to the error bounds of masses and totals.

    Parameters
    ----------
    shift, mass, mass_error, total_error : (m,) float64
        The fields of the state.
    error : (m,) float64
        Bound on the relative error of κ.
    lost : (m,) or (1,) float64
        Bound on the sum of terms that underflow.
    relative : float
        Relative error of the sums and of the kernel's formula.
    clamped : float
        Error of the clamp of exp, divided by (1 + |shift|)²; 0 for kernels that are not computed from logarithms.
    absolute : float
        Absolute error of the mass from a user's formula; if negative, it applies only where the mass is positive.
    of_totals : float
        Error of totals in addition to that of the mass, divided by the mass.

    Returns
    -------
    mass_error, total_error : (m,) float64 arrays
    """
    cdef Py_ssize_t i, m = mass.shape[0], step = 1 if lost.shape[0] == m else 0
    cdef double each, depth
    if not (shift.shape[0] == mass_error.shape[0] == total_error.shape[0] == error.shape[0] == m):
        raise ValueError(f"all arrays must have length {m} like mass, got another length.")
    if lost.shape[0] != m and lost.shape[0] != 1:
        raise ValueError(f"lost must have length 1 or {m}, got {lost.shape[0]}.")
    new_mass_error, new_total_error = np.empty(m), np.empty(m)
    cdef double[::1] of_mass = new_mass_error, of_total = new_total_error
    with nogil:
        for i in range(m):
            each = relative + error[i]
            if clamped != 0:
                depth = 1 + fabs(shift[i])
                each = each + clamped * (depth * depth) / mass[i]
            each = mass_error[i] + each * mass[i] + lost[i * step]
            if absolute > 0 or (absolute < 0 and mass[i] > 0):
                each = each + fabs(absolute)
            of_mass[i] = each
            of_total[i] = each + of_totals * mass[i] + total_error[i]
    return new_mass_error, new_total_error


def errors(const double[:, :] total, const double[:] mass, const double[:] mass_error, const double[:] total_error):
    """Bound the relative error of the mass and the error of the means; see `Sums.errors`.

    Returns
    -------
    relative, bound : (m,) float64 arrays
    """
    cdef Py_ssize_t i, j, m = mass.shape[0], c = total.shape[1]
    cdef double largest, size, least_mass, each
    if not (total.shape[0] == mass_error.shape[0] == total_error.shape[0] == m):
        raise ValueError(f"all arrays must have length {m} like mass, got another length.")
    of_mass, of_means = np.empty(m), np.empty(m)
    cdef double[::1] relative = of_mass, bound = of_means
    with nogil:
        for i in range(m):
            least_mass = mass[i] - mass_error[i]
            if mass[i] > mass_error[i] and isfinite(mass[i]):
                relative[i] = mass_error[i] / least_mass
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
                if not size <= largest:  # also true for NaN
                    largest = size
                    if size != size:
                        break
            each = (largest / mass[i] * mass_error[i] + total_error[i]) / least_mass
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
    """Test, (m,), whether masses and means are within the tolerance, and windows of mass 0 are certainly empty.

    Parameters
    ----------
    relative, bound : (m,) float64
        The result of `errors`; NaN bounds, which empty windows have, are ignored.
    mass, mass_error : (m,) float64
    limit : (m,) or (1,) float64
        The tolerance.
    compact : bool
        Whether a window of mass 0 is empty if its mass has no error. Otherwise the mass may have underflowed.
    """
    cdef Py_ssize_t i, m = mass.shape[0], step = 1 if limit.shape[0] == m else 0
    if not (relative.shape[0] == bound.shape[0] == mass_error.shape[0] == m):
        raise ValueError(f"all arrays must have length {m} like mass, got another length.")
    if limit.shape[0] != m and limit.shape[0] != 1:
        raise ValueError(f"limit must have length 1 or {m}, got {limit.shape[0]}.")
    within = np.empty(m, np.bool_)
    cdef unsigned char[::1] flags = within.view(np.uint8)
    with nogil:
        for i in range(m):
            flags[i] = relative[i] <= limit[i * step] and not bound[i] / 2 > limit[i * step]
            if not mass[i] > 0 and not (compact and mass_error[i] <= 0):
                flags[i] = False
    return within
