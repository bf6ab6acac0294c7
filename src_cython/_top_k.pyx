# cython: language_level=3, boundscheck=False, wraparound=False
"""Top-k: the largest entries of rows that come block by block."""

from libc.stdint cimport int64_t
from libc.string cimport memmove


def merge_largest(const double[:, ::1] new, int64_t start, double[:, ::1] best, int64_t[:, ::1] at):
    """Insert entries of new (m, B), whose columns count from `start`, into best (m, k) where they are among the k largest.

    Rows of `best` descend, and `at` holds their columns; of equal entries the earlier column comes first. NaN and -inf are
    never inserted.
    """
    cdef Py_ssize_t row, column, low, high, middle, k = best.shape[1]
    cdef double x, least
    cdef double* found
    cdef int64_t* where
    if new.shape[0] != best.shape[0] or at.shape[0] != best.shape[0] or at.shape[1] != k:
        raise ValueError("shapes do not fit")
    if k == 0 or new.shape[0] == 0:
        return
    with nogil:
        for row in range(new.shape[0]):
            found, where = &best[row, 0], &at[row, 0]
            least = found[k - 1]
            for column in range(new.shape[1]):
                x = new[row, column]
                if not x > least:
                    continue
                low, high = 0, k - 1  # the first place whose entry is less than x
                while low < high:
                    middle = (low + high) // 2
                    if found[middle] >= x:
                        low = middle + 1
                    else:
                        high = middle
                memmove(found + low + 1, found + low, (k - 1 - low) * sizeof(double))
                memmove(where + low + 1, where + low, (k - 1 - low) * sizeof(int64_t))
                found[low], where[low] = x, start + column
                least = found[k - 1]
