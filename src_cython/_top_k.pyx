# cython: language_level=3, boundscheck=False, wraparound=False
"""Top-k selection: the largest entries of each row of a matrix that is computed in blocks of columns."""

from libc.stdint cimport int64_t
from libc.string cimport memmove


def merge_top_k(const double[:, ::1] new, int64_t start, double[:, ::1] top, int64_t[:, ::1] columns):
    """Merge a block of columns into the top-k entries of each row, in place.

    Of equal entries, the one in the earlier column comes first. NaN and -inf are never selected.

    Parameters
    ----------
    new : (m, B) float64
        The block.
    start : int
        Index of the first column of the block.
    top : (m, k) float64
        The largest entries of the previous blocks, in descending order in each row; -inf where there are fewer than k.
    columns : (m, k) int64
        Their column indices.

    Raises
    ------
    ValueError
        The shapes do not match.
    """
    cdef Py_ssize_t row, column, low, high, middle, k = top.shape[1]
    cdef double x, smallest
    cdef double* row_top
    cdef int64_t* row_columns
    if new.shape[0] != top.shape[0] or columns.shape[0] != top.shape[0] or columns.shape[1] != k:
        raise ValueError(
            "new, top and columns must have shapes (m, B), (m, k) and (m, k), got "
            f"({new.shape[0]}, {new.shape[1]}), ({top.shape[0]}, {k}) and ({columns.shape[0]}, {columns.shape[1]})."
        )
    if k == 0 or new.shape[0] == 0:
        return
    with nogil:
        for row in range(new.shape[0]):
            row_top, row_columns = &top[row, 0], &columns[row, 0]
            smallest = row_top[k - 1]
            for column in range(new.shape[1]):
                x = new[row, column]
                if not x > smallest:
                    continue
                low, high = 0, k - 1  # searches the first index whose entry is less than x
                while low < high:
                    middle = (low + high) // 2
                    if row_top[middle] >= x:
                        low = middle + 1
                    else:
                        high = middle
                memmove(row_top + low + 1, row_top + low, (k - 1 - low) * sizeof(double))
                memmove(row_columns + low + 1, row_columns + low, (k - 1 - low) * sizeof(int64_t))
                row_top[low], row_columns[low] = x, start + column
                smallest = row_top[k - 1]
