# Flushes subnormal numbers while tiles are summed; see _flush.h. Included by the bodies of tiles, products and gradients.

from libc.stdint cimport uint64_t

cdef extern from "_flush.h" nogil:
    uint64_t fastnw_flush(int)
    void fastnw_restore(uint64_t)
    int fastnw_flushable_f32(const float*, Py_ssize_t, const float*, Py_ssize_t)
    int fastnw_flushable_f64(const double*, Py_ssize_t, const double*, Py_ssize_t)


cdef inline uint64_t _flush(const real* inverse, Py_ssize_t d, const real* scale, Py_ssize_t n) noexcept nogil:
    """Flush subnormal numbers from now on, if distances keep their digits; returns the state for `fastnw_restore`."""
    if real is float:
        return fastnw_flush(fastnw_flushable_f32(inverse, d, scale, n))
    else:
        return fastnw_flush(fastnw_flushable_f64(inverse, d, scale, n))
