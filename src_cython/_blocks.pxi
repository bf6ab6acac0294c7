# The structures of blocks.h, and how they are filled from Python's arrays. Included by _tiles.pxi and _products.pxi.
#
# Arrays are read through the buffer protocol without typed memoryviews: those took half of the time of a call with one
# query and few keys.

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport int32_t, int64_t

cdef extern from "kernels.h" nogil:
    enum:
        GAUSSIAN, LAPLACIAN, MATERN32, MATERN52, LOGISTIC, DOT
        BOXCAR, TRIANGULAR, EPANECHNIKOV, BIWEIGHT, TRIWEIGHT, TRICUBE, COSINE
        CAUCHY, CONSTANT
        DECAYING_KERNELS, INNER_PRODUCT_KERNELS, LOGARITHMIC_KERNELS
        MAX_PROFILES, KEYS_PER_LEAF, CHILDREN_PER_NODE, QUERIES_PER_WALK, MAX_VECTOR_ELEMENTS
        MAX_DIRECT_QUERIES, COORDINATES_PER_PRODUCT, LOG2_NEARER_KEY
        FIRST_STRIP_KEYS, MAX_STRIP_KEYS, MAX_SEQUENTIAL_KEYS, LOG2_MIN_UNSHIFTED_MASS
        EXP_CLAMP_NATS_F32, EXP_CLAMP_NATS_F64
    bint IS_ONE_OF(unsigned, int)

cdef extern from "blocks.h" nogil:
    ctypedef struct Kernel "fastnw_kernel":
        int code
        double sensitivity
    ctypedef struct KeyBlock "fastnw_keys":
        Py_ssize_t itemsize, size, d, c, stride, value_stride, outputs
        const void* coords
        const void* scale
        const void* weights
        bint weighted
        const void* values
        const int32_t* codes
    ctypedef struct QueryBlock "fastnw_queries":
        Py_ssize_t size
        const void* coords
        const void* inverse
        bint one_bandwidth
        const int64_t* own
        const double* error
    ctypedef struct Sums "fastnw_sums":
        double* shift
        double* mass
        double* total
        double* mass_error
    ctypedef struct Pairs "fastnw_pairs":
        int kernel, one_bandwidth, values
        double edge
        const void* inverse
    ctypedef struct Group "fastnw_group":
        int size
        const void** queries
        void* lift
        void* out
        Py_ssize_t out_stride

cdef enum:
    MAX_ARRAYS = 32

cdef enum ElementKind:
    FLOATS, INTEGERS

# The arrays of a call, which stay locked until it ends.
cdef struct Arrays:
    int count
    Py_buffer[MAX_ARRAYS] buffers


cdef Py_buffer* _view(
    Arrays* arrays, object array, ElementKind kind, Py_ssize_t itemsize, int ndim, int flags
) except NULL:
    cdef Py_buffer* view = &arrays.buffers[arrays.count]
    cdef bint floats
    PyObject_GetBuffer(array, view, flags | PyBUF_FORMAT)
    arrays.count += 1
    floats = view.format != NULL and view.format[1] == 0 and view.format[0] in b"fd"
    if view.ndim != ndim or view.itemsize != itemsize or floats != (kind == FLOATS):
        raise ValueError(f"Expected {ndim} dimensions of {itemsize} bytes an element, got {view.ndim} of {view.itemsize}.")
    return view


cdef void _release(Arrays* arrays) noexcept:
    cdef int i
    for i in range(arrays.count):
        PyBuffer_Release(&arrays.buffers[i])


cdef const void* _read(Arrays* arrays, object array, ElementKind kind, Py_ssize_t itemsize, int ndim) except? NULL:
    """The data of a contiguous array, or NULL for None."""
    if array is None:
        return NULL
    return _view(arrays, array, kind, itemsize, ndim, PyBUF_C_CONTIGUOUS).buf


cdef double* _write(Arrays* arrays, object array, int ndim) except NULL:
    """The data of a contiguous float64 array that is to be changed."""
    return <double*>_view(arrays, array, FLOATS, sizeof(double), ndim, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE).buf


cdef Py_ssize_t _fill_sums(Sums* sums, Arrays* arrays, object state) except -1:
    """Fill `sums` from a state; returns its number of totals a query."""
    cdef Py_buffer* total = _view(arrays, state.total, FLOATS, sizeof(double), 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    sums.shift, sums.mass, sums.total = _write(arrays, state.shift, 1), _write(arrays, state.mass, 1), <double*>total.buf
    sums.mass_error = _write(arrays, state.mass_error, 1)
    return total.shape[1]


cdef inline Sums _sums_at(const Sums* sums, Py_ssize_t row, Py_ssize_t c) noexcept nogil:
    """The sums from that row on, of `c` totals each."""
    cdef Sums at
    at.shift, at.mass = sums.shift + row, sums.mass + row
    at.total, at.mass_error = sums.total + row * c, sums.mass_error + row
    return at
