/* Arithmetic that Cython cannot express: exp and cos that every compiler vectorises, and sums whose order is free.
 *
 * No file is compiled with a flag that lets the compiler reorder arithmetic: that would undo the two-step reduction in exp.
 * Only the reductions below have that freedom, each by its own pragma (-fopenmp-simd, which links no runtime). The number
 * of lanes of an instruction set fixes the order, so results depend on the instruction set and never on threads. */
#ifndef FASTNW_SIMD_H
#define FASTNW_SIMD_H

#include "kernels.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_OPENMP) || defined(__GNUC__) || defined(__clang__)
#define SIMD_LOOP(clause) _Pragma(clause)
#else
#define SIMD_LOOP(clause)
#endif

/* e^x for x <= ~0: r = rint(x/ln 2), f = x - r ln 2 in two steps, 1 + f + f^2 q(f), with q interpolated at Chebyshev nodes
 * on |f| <= ln(2)/2 (relative error 1e-8 and 2e-17 before rounding). 2^r is assembled from the low bits of r + 1.5*2^p, which
 * needs no conversion to 64-bit integers (that is not vectorised before AVX-512DQ). Below the clamp the result stays at
 * 2e-35 (2e-300), which the error bound counts: products with values must stay normal, subnormal ones took 3 times as long
 * on v2. The comparison lets NaN pass through. */
static inline float fastnw_exp_f32(float x)
{
    x = x < -(float)EXP_CLAMP_NATS_F32 ? -(float)EXP_CLAMP_NATS_F32 : x;
    float r = rintf(x * 1.44269504f);
    float f = (x - r * 0.693359375f) - r * -2.12194440e-4f;
    float q = 1.3926183587713495e-3f;
    q = q * f + 8.3631790527225774e-3f;
    q = q * f + 4.1666554617204574e-2f;
    q = q * f + 1.6666576989698776e-1f;
    q = q * f + 0.5f;
    float p = (f * f) * q + f;
    float shifted = r + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power * p + power;
}

static inline double fastnw_exp_f64(double x)
{
    x = x < -(double)EXP_CLAMP_NATS_F64 ? -(double)EXP_CLAMP_NATS_F64 : x;
    double r = rint(x * 1.4426950408889634);
    double f = (x - r * 6.93145751953125e-1) - r * 1.42860682030941723212e-6;
    double q = 2.5100385495510319e-8;
    q = q * f + 2.7620088445409748e-7;
    q = q * f + 2.7557268459997065e-6;
    q = q * f + 2.4801521295954375e-5;
    q = q * f + 1.9841269863053617e-4;
    q = q * f + 1.3888888917213717e-3;
    q = q * f + 8.3333333333300618e-3;
    q = q * f + 4.1666666666624128e-2;
    q = q * f + 1.6666666666666667e-1;
    q = q * f + 0.5;
    double p = (f * f) * q + f;
    double shifted = r + 6755399441055744.0;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023u) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power * p + power;
}

/* 2^x for x <= ~0, for the Gaussian, whose factor log2(e)/2 costs nothing: one step of reduction, and the exponent added to
 * the bits of 1 + f p(f), |f| <= 1/2 (relative error 5e-9 and 8e-18 before rounding). It takes a quarter fewer
 * multiplications than e^x. */
static inline float fastnw_exp2_f32(float x)
{
    x = x < -115.0f ? -115.0f : x;
    float r = rintf(x);
    float f = x - r;
    float p = 1.5453162945120690e-4f;
    p = p * f + 1.3390863364671234e-3f;
    p = p * f + 9.6180825572778515e-3f;
    p = p * f + 5.5503571142190778e-2f;
    p = p * f + 2.4022650760568127e-1f;
    p = p * f + 6.9314718802622878e-1f;
    float shifted = r + 12582912.0f, power = p * f + 1.0f;
    uint32_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &power, sizeof bits);
    bits += exponent << 23;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline double fastnw_exp2_f64(double x)
{
    x = x < -995.0 ? -995.0 : x;
    double r = rint(x);
    double f = x - r;
    double p = 4.4549605981865184e-10;
    p = p * f + 7.0725859492692237e-9;
    p = p * f + 1.0178062445845774e-7;
    p = p * f + 1.3215442587921690e-6;
    p = p * f + 1.5252733829836118e-5;
    p = p * f + 1.5403530441736050e-4;
    p = p * f + 1.3333558146416935e-3;
    p = p * f + 9.6181291076068885e-3;
    p = p * f + 5.5504108664821594e-2;
    p = p * f + 2.4022650695910098e-1;
    p = p * f + 6.9314718055994531e-1;
    double shifted = r + 6755399441055744.0, power = p * f + 1.0;
    uint64_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &power, sizeof bits);
    bits += exponent << 52;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* cos(pi u / 2) = (1 - u^2) P(u^2) on u <= 1; the factor keeps the relative accuracy where the kernel goes to 0. */
static inline float fastnw_cosine_f32(float s)
{
    float p = 2.3600689581301924e-5f;
    p = p * s - 8.9353550146327378e-4f;
    p = p * s + 1.9968606206800278e-2f;
    p = p * s - 2.3370050625459747e-1f;
    p = p * s + 1.0f;
    return (1.0f - s) * p;
}

static inline double fastnw_cosine_f64(double s)
{
    double p = 5.10846968542241e-13;
    p = p * s - 6.5105291567976846e-11;
    p = p * s + 6.3214409042583574e-9;
    p = p * s - 4.6476599159529777e-7;
    p = p * s + 2.4737276358836731e-5;
    p = p * s - 8.9452299847364443e-4;
    p = p * s + 1.9968957764878076e-2;
    p = p * s - 2.3370055013616982e-1;
    p = p * s + 1.0;
    return (1.0 - s) * p;
}

#define FASTNW_REDUCTIONS(T, SUFFIX)                                                                                   \
    /* mass += sum_i g_i w_i, and with values (v not NULL) total += sum_i g_i v_i */                                   \
    static inline void fastnw_weigh_##SUFFIX(const T *g, const T *w, const T *v, ptrdiff_t n, double *mass,            \
                                             double *total)                                                            \
    {                                                                                                                  \
        T a = 0, b = 0, c = 0, e = 0;                                                                                  \
        if (!v) {                                                                                                      \
            SIMD_LOOP("omp simd reduction(+ : a)")                                                                     \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                a += g[i] * w[i];                                                                                      \
            *mass += a;                                                                                                \
            return;                                                                                                    \
        }                                                                                                              \
        /* in two halves: one accumulator a row would wait for its own addition (4 cycles, 8 % of a Gaussian tile) */  \
        const ptrdiff_t half = n / 2;                                                                                  \
        const T *g2 = g + half, *w2 = w + half, *v2 = v + half;                                                        \
        SIMD_LOOP("omp simd reduction(+ : a, b, c, e)")                                                                \
        for (ptrdiff_t i = 0; i < half; i++) {                                                                         \
            a += g[i] * w[i];                                                                                          \
            b += g[i] * v[i];                                                                                          \
            c += g2[i] * w2[i];                                                                                        \
            e += g2[i] * v2[i];                                                                                        \
        }                                                                                                              \
        if (n % 2) {                                                                                                   \
            a += g[n - 1] * w[n - 1];                                                                                  \
            b += g[n - 1] * v[n - 1];                                                                                  \
        }                                                                                                              \
        *mass += a + c;                                                                                                \
        *total += b + e;                                                                                               \
    }                                                                                                                  \
    /* total[k] += sum_i g_i rows[i][k] for k < c, through `sums` (c,) */                                              \
    static inline void fastnw_weigh_rows_##SUFFIX(const T *g, const T *rows, ptrdiff_t stride, ptrdiff_t c,            \
                                                  ptrdiff_t n, T *sums, double *total)                                 \
    {                                                                                                                  \
        for (ptrdiff_t k = 0; k < c; k++)                                                                              \
            sums[k] = 0;                                                                                               \
        for (ptrdiff_t i = 0; i < n; i++, rows += stride)                                                              \
            for (ptrdiff_t k = 0; k < c; k++)                                                                          \
                sums[k] += g[i] * rows[k];                                                                             \
        for (ptrdiff_t k = 0; k < c; k++)                                                                              \
            total[k] += sums[k];                                                                                       \
    }                                                                                                                  \
    /* the weight of the keys that may lie within the support */                                                       \
    static inline T fastnw_within_##SUFFIX(const T *s, const T *w, ptrdiff_t n, T edge)                                \
    {                                                                                                                  \
        T sum = 0;                                                                                                     \
        /* as a product: gcc 12 keeps the sum of a selection in memory, five times slower */                           \
        SIMD_LOOP("omp simd reduction(+ : sum)")                                                                       \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            T inside = s[i] <= edge ? (T)1 : (T)0;                                                                     \
            sum += inside * w[i];                                                                                      \
        }                                                                                                              \
        return sum;                                                                                                    \
    }                                                                                                                  \
    static inline T fastnw_smallest_##SUFFIX(const T *s, ptrdiff_t n)                                                  \
    {                                                                                                                  \
        T least = (T)INFINITY;                                                                                         \
        SIMD_LOOP("omp simd reduction(min : least)")                                                                   \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            least = s[i] < least ? s[i] : least;                                                                       \
        return least;                                                                                                  \
    }

FASTNW_REDUCTIONS(float, f32)
FASTNW_REDUCTIONS(double, f64)

#endif
