/* Flushing of subnormal numbers to 0 for a while, in the calling thread alone.
 *
 * Some processors take 150 cycles instead of four for a sum or a product below the smallest normal number: a Gaussian tile
 * in float32 at h = 0.2 took 7 ns a pair, and takes 0.2 with these bits set. What is flushed is less than the bounds count
 * for the clamp of exp or for terms that vanish (fastnw/methods/exact.py). A higher clamp would not help: products with
 * weights and values become subnormal, too. */
#ifndef FASTNW_FLUSH_H
#define FASTNW_FLUSH_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
/* Flushes results and subnormal operands to 0; returns the state for `fastnw_restore`. */
static inline uint64_t fastnw_flush(int on)
{
    const unsigned before = _mm_getcsr();
    if (on)
        _mm_setcsr(before | 0x8040u);
    return before;
}
static inline void fastnw_restore(uint64_t before)
{
    /* the exception flags as well: the caller need not see what happened in between */
    _mm_setcsr((unsigned)before);
}
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
static inline uint64_t fastnw_flush(int on)
{
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before)::"memory");
    if (on)
        __asm__ volatile("msr fpcr, %0" ::"r"(before | (UINT64_C(1) << 24)) : "memory");
    return before;
}
static inline void fastnw_restore(uint64_t before) { __asm__ volatile("msr fpcr, %0" ::"r"(before) : "memory"); }
#else
static inline uint64_t fastnw_flush(int on) { return (void)on, 0; }
static inline void fastnw_restore(uint64_t before) { (void)before; }
#endif

/* Whether squared distances keep their digits when subnormal numbers are flushed. That is so where the factors of
 * differences and of squares (or NULL) are of a size at which a flushed number is less than the rounding of u^2. */
#define FLUSHABLE_MIN_F32 1e-25
#define FLUSHABLE_MAX_F32 1e25
#define FLUSHABLE_MIN_F64 1e-280
#define FLUSHABLE_MAX_F64 1e280
#define FASTNW_FLUSHABLE(T, SUFFIX, LOW, HIGH)                                                                         \
    static inline int fastnw_flushable_##SUFFIX(const T *inverse, ptrdiff_t d, const T *scale, ptrdiff_t n)            \
    {                                                                                                                  \
        int within = 1;                                                                                                \
        for (ptrdiff_t j = 0; j < d; j++)                                                                              \
            within &= inverse[j] > (T)LOW && inverse[j] < (T)HIGH;                                                     \
        if (scale)                                                                                                     \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                within &= scale[i] > (T)LOW && scale[i] < (T)HIGH;                                                     \
        return within;                                                                                                 \
    }

FASTNW_FLUSHABLE(float, f32, FLUSHABLE_MIN_F32, FLUSHABLE_MAX_F32)
FASTNW_FLUSHABLE(double, f64, FLUSHABLE_MIN_F64, FLUSHABLE_MAX_F64)

#endif
