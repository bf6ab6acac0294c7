# cython: language_level=3
"""The instruction sets of the processor, and how it treats subnormal numbers."""

from libc.stdint cimport uint64_t

cdef extern from "_flush.h":
    uint64_t fastnw_flush(int)
    void fastnw_restore(uint64_t)


cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(__amd64__)) && (defined(__GNUC__) || defined(__clang__))
    static int fastnw_x86_level(void)
    {
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt")))
            return 1;
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")))
            return 2;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl")))
            return 3;
        return 4;
    }
    static int fastnw_x86_vendor(void)
    {
        __builtin_cpu_init();
        return __builtin_cpu_is("amd") ? 1 : __builtin_cpu_is("intel") ? 2 : 0;
    }
    #else
    static int fastnw_x86_level(void) { return 0; }
    static int fastnw_x86_vendor(void) { return 0; }
    #endif
    """
    int fastnw_x86_level()
    int fastnw_x86_vendor()


def x86_level():
    """The highest x86-64 micro-architecture level, 1 to 4, that processor and system support; 0 elsewhere."""
    return fastnw_x86_level()


def x86_vendor():
    """The maker of the processor: "amd", "intel" or "other"."""
    return ("other", "amd", "intel")[fastnw_x86_vendor()]


def flush_subnormals():
    """Flush subnormal numbers to 0 in this thread from now on; returns the state for `restore_subnormals`."""
    return fastnw_flush(1)


def restore_subnormals(uint64_t before):
    """Treat subnormal numbers in this thread as before `flush_subnormals`."""
    fastnw_restore(before)
