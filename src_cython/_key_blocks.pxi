# Blocks of packed keys and of queries, filled from those of fastnw/core/pack.py. Included by _tiles.pxi after _blocks.pxi.

cdef int _fill_keys(KeyBlock* keys, Arrays* arrays, object block, Py_ssize_t itemsize, Py_ssize_t c) except -1:
    """Fill `keys` from a `KeyBlock` whose keys add to `c` totals."""
    cdef Py_buffer* coords = _view(arrays, block.coords, FLOATS, itemsize, 2, PyBUF_STRIDES)
    cdef Py_buffer* view
    keys.itemsize, keys.d, keys.size, keys.c = itemsize, coords.shape[0], coords.shape[1], c
    keys.coords, keys.stride = coords.buf, coords.strides[0] // itemsize
    if keys.size > 1 and coords.strides[1] != itemsize:
        raise ValueError("coordinates of keys must be in contiguous rows")
    keys.scale = _read(arrays, block.scale, FLOATS, itemsize, 1)
    keys.weights, keys.weighted = _read(arrays, block.weights, FLOATS, itemsize, 1), block.weighted
    # without values the loops read the weights instead: there are fewer loops that way
    keys.values, keys.value_stride, keys.codes, keys.outputs = keys.weights, 0, NULL, 0
    if c > 0 and block.codes is not None:
        view = _view(arrays, block.codes, INTEGERS, sizeof(int32_t), 2, PyBUF_C_CONTIGUOUS)
        if c < 2 or view.shape[0] != keys.size or view.shape[1] < 1:
            raise ValueError("there must be two classes at least, and every key must have one")
        keys.codes, keys.outputs = <const int32_t*>view.buf, view.shape[1]
    elif c > 0:
        view = _view(arrays, block.values, FLOATS, itemsize, 2, PyBUF_STRIDES)
        if keys.size > 1 and c == 1 and view.strides[1] != itemsize or c > 1 and view.strides[0] != itemsize:
            raise ValueError("a single value must be a contiguous row, several values must be contiguous columns")
        keys.values = view.buf
        if c > 1:
            keys.value_stride = view.strides[1] // itemsize
    return 0


cdef int _fill_queries(
    QueryBlock* queries, Arrays* arrays, object coords, object inverse, object own, object error, Py_ssize_t itemsize
) except -1:
    cdef Py_buffer* view = _view(arrays, coords, FLOATS, itemsize, 2, PyBUF_C_CONTIGUOUS)
    queries.size, queries.coords = view.shape[0], view.buf
    queries.inverse = _read(arrays, inverse, FLOATS, itemsize, 1)
    queries.own = <const int64_t*>_read(arrays, own, INTEGERS, sizeof(int64_t), 1)
    queries.error = <const double*>_read(arrays, error, FLOATS, sizeof(double), 1)
    if itemsize == sizeof(float):
        queries.one_bandwidth = _is_one_bandwidth(<const float*>queries.inverse, view.shape[1])
    else:
        queries.one_bandwidth = _is_one_bandwidth(<const double*>queries.inverse, view.shape[1])
    return 0


cdef inline bint _is_one_bandwidth(const real* inverse, Py_ssize_t d) noexcept nogil:
    """Whether all coordinates have one bandwidth, of a size that leaves the squares of raw differences within range."""
    cdef Py_ssize_t j
    for j in range(1, d):
        if inverse[j] != inverse[0]:
            return False
    return 1e-10 < inverse[0] < 1e10


cdef inline KeyBlock _keys_from(const KeyBlock* keys, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """So many keys of a block from `start` on."""
    cdef KeyBlock part = keys[0]
    part.size = size
    part.coords = <const char*>keys.coords + start * keys.itemsize
    part.weights = <const char*>keys.weights + start * keys.itemsize
    part.values = <const char*>keys.values + start * keys.itemsize * (keys.value_stride if keys.c > 1 else 1)
    if keys.scale != NULL:
        part.scale = <const char*>keys.scale + start * keys.itemsize
    if keys.codes != NULL:
        part.codes = keys.codes + start * keys.outputs
    return part
