/* Vectors of the instruction set that is compiled for, and the operations on them that C has no operator for. The compiler
 * knows + - * on vectors, and contracts a*b + c where the processor can. Each function exists for float (_f32) and for double
 * (_f64).
 *
 * FASTNW_VECTORS is defined where there are vectors; elsewhere the staged loops of _tiles.pxi do all the work. */
#ifndef FASTNW_VECTOR_H
#define FASTNW_VECTOR_H

#if defined(__GNUC__) && defined(__SSE4_1__)
#define FASTNW_VECTORS
#include <immintrin.h>
#include <stdint.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define FASTNW_GROUP 4 /* queries side by side: 32 registers */
typedef __m512 vec_f32;
typedef __m512d vec_f64;
#define X86(name) _mm512_##name
#elif defined(__AVX2__) && defined(__FMA__)
#define FASTNW_GROUP 2 /* 16 registers */
typedef __m256 vec_f32;
typedef __m256d vec_f64;
typedef __m256i vec_bits;
#define X86(name) _mm256_##name
#else
#define FASTNW_GROUP 2
typedef __m128 vec_f32;
typedef __m128d vec_f64;
typedef __m128i vec_bits;
#define X86(name) _mm_##name
#endif

#define ADD_BITS(size) X86(add_##size)
#define SHIFT_BITS(size) X86(slli_##size)
#define INLINE static inline __attribute__((always_inline))
#define EACH(a) for (int a = 0; a < FASTNW_GROUP; a++)
#define ALL(a) for (int a = 0; a < queries; a++)

#define FASTNW_VECTOR_BASICS(T, S, P)                                                                                  \
    INLINE vec_##S load_##S(const T *p) { return X86(loadu_##P)(p); }                                                  \
    INLINE void store_##S(T *p, vec_##S a) { X86(storeu_##P)(p, a); }                                                  \
    INLINE vec_##S set_##S(T x) { return X86(set1_##P)(x); }                                                           \
    INLINE vec_##S larger_##S(vec_##S a, vec_##S b) { return X86(max_##P)(a, b); }                                     \
    INLINE vec_##S smaller_##S(vec_##S a, vec_##S b) { return X86(min_##P)(a, b); }                                    \
    INLINE vec_##S root_##S(vec_##S a) { return X86(sqrt_##P)(a); }

FASTNW_VECTOR_BASICS(float, f32, ps)
FASTNW_VECTOR_BASICS(double, f64, pd)

/* add_within returns sum + (s <= edge ? x : 0); sum adds up the lanes pairwise. */
#if defined(__AVX512F__) && defined(__AVX512DQ__)
INLINE float sum_f32(vec_f32 a) { return _mm512_reduce_add_ps(a); }
INLINE double sum_f64(vec_f64 a) { return _mm512_reduce_add_pd(a); }
INLINE vec_f32 add_within_f32(vec_f32 sum, vec_f32 s, vec_f32 edge, vec_f32 x)
{
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(s, edge, _CMP_LE_OQ), sum, x);
}
INLINE vec_f64 add_within_f64(vec_f64 sum, vec_f64 s, vec_f64 edge, vec_f64 x)
{
    return _mm512_mask_add_pd(sum, _mm512_cmp_pd_mask(s, edge, _CMP_LE_OQ), sum, x);
}
#else
INLINE float sum_four(__m128 a)
{
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
INLINE double sum_two(__m128d a) { return _mm_cvtsd_f64(_mm_add_sd(a, _mm_unpackhi_pd(a, a))); }
#if defined(__AVX2__) && defined(__FMA__)
INLINE float sum_f32(vec_f32 a) { return sum_four(_mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1)); }
INLINE double sum_f64(vec_f64 a) { return sum_two(_mm256_castpd256_pd128(a) + _mm256_extractf128_pd(a, 1)); }
INLINE vec_f32 add_within_f32(vec_f32 sum, vec_f32 s, vec_f32 edge, vec_f32 x)
{
    return sum + _mm256_and_ps(_mm256_cmp_ps(s, edge, _CMP_LE_OQ), x);
}
INLINE vec_f64 add_within_f64(vec_f64 sum, vec_f64 s, vec_f64 edge, vec_f64 x)
{
    return sum + _mm256_and_pd(_mm256_cmp_pd(s, edge, _CMP_LE_OQ), x);
}
#else
INLINE float sum_f32(vec_f32 a) { return sum_four(a); }
INLINE double sum_f64(vec_f64 a) { return sum_two(a); }
INLINE vec_f32 add_within_f32(vec_f32 sum, vec_f32 s, vec_f32 edge, vec_f32 x)
{
    return sum + _mm_and_ps(_mm_cmple_ps(s, edge), x);
}
INLINE vec_f64 add_within_f64(vec_f64 sum, vec_f64 s, vec_f64 edge, vec_f64 x)
{
    return sum + _mm_and_pd(_mm_cmple_pd(s, edge), x);
}
#endif
#endif

/* Turns x[a] into 2^(factor x[a]) for factor x <= ~0, a group at a time and step by step, so that four chains of dependent
 * instructions run side by side (7 % faster at d = 3: the processor's own window is too short).
 *
 * On v4, factor x = r + f with r a multiple of 1/32 (1/16), found by adding a large number whose last bit is worth that. The
 * low bits of the sum choose 2^(r mod 1) from a table in two registers; 1 + f p(f) is interpolated at Chebyshev nodes
 * (relative error 5e-8 and 7e-18 before rounding); vscalef takes floor(r) from r itself and underflows gradually, so there is
 * no clamp. The result is NaN for x beyond 1e19 (2e140), which callers look for in the sum. A polynomial on |f| <= 1/2, with
 * five multiplications more in float64 and three in float32, took 20 % longer at d = 3; assembling the exponent by integer
 * shift and addition was no faster. */
#if defined(__AVX512F__) && defined(__AVX512DQ__)
static const float TABLE_F32[32] = {
    1.00000000f, 1.02189715f, 1.04427378f, 1.06714040f, 1.09050773f, 1.11438674f, 1.13878863f, 1.16372486f,
    1.18920712f, 1.21524736f, 1.24185781f, 1.26905096f, 1.29683955f, 1.32523664f, 1.35425555f, 1.38390988f,
    1.41421356f, 1.44518081f, 1.47682615f, 1.50916443f, 1.54221083f, 1.57598085f, 1.61049033f, 1.64575548f,
    1.68179283f, 1.71861930f, 1.75625216f, 1.79470908f, 1.83400809f, 1.87416763f, 1.91520656f, 1.95714412f,
};
static const double TABLE_F64[16] = {
    1.0000000000000000, 1.0442737824274138, 1.0905077326652577, 1.1387886347566917,
    1.1892071150027211, 1.2418578120734840, 1.2968395546510097, 1.3542555469368927,
    1.4142135623730950, 1.4768261459394993, 1.5422108254079408, 1.6104903319492543,
    1.6817928305074291, 1.7562521603732995, 1.8340080864093425, 1.9152065613971473,
};

INLINE void exp2_f32(vec_f32 *x, vec_f32 factor)
{
    const vec_f32 low = _mm512_loadu_ps(TABLE_F32), high = _mm512_loadu_ps(TABLE_F32 + 16);
    const vec_f32 large = set_f32(393216.0f); /* 1.5 * 2^18: the last bit is worth 1/32 */
    vec_f32 sum[FASTNW_GROUP], r[FASTNW_GROUP], t[FASTNW_GROUP], p[FASTNW_GROUP];
    EACH(a) sum[a] = _mm512_fmadd_ps(x[a], factor, large);
    EACH(a) r[a] = sum[a] - large;
    EACH(a) x[a] = _mm512_fmsub_ps(x[a], factor, r[a]);
    EACH(a) t[a] = _mm512_permutex2var_ps(low, _mm512_castps_si512(sum[a]), high);
    EACH(a) p[a] = x[a] * set_f32(2.40228268e-1f) + set_f32(6.93157344e-1f);
    EACH(a) t[a] = _mm512_scalef_ps(t[a], r[a]);
    EACH(a) p[a] = x[a] * p[a];
    EACH(a) x[a] = p[a] * t[a] + t[a]; /* not (1 + p) t: one rounding less */
}

INLINE void exp2_f64(vec_f64 *x, vec_f64 factor)
{
    const vec_f64 low = _mm512_loadu_pd(TABLE_F64), high = _mm512_loadu_pd(TABLE_F64 + 8);
    const vec_f64 large = set_f64(422212465065984.0); /* 1.5 * 2^48: the last bit is worth 1/16 */
    vec_f64 sum[FASTNW_GROUP], r[FASTNW_GROUP], t[FASTNW_GROUP], p[FASTNW_GROUP];
    EACH(a) sum[a] = _mm512_fmadd_pd(x[a], factor, large);
    EACH(a) r[a] = sum[a] - large;
    EACH(a) x[a] = _mm512_fmsub_pd(x[a], factor, r[a]);
    EACH(a) t[a] = _mm512_permutex2var_pd(low, _mm512_castpd_si512(sum[a]), high);
    EACH(a) p[a] = x[a] * set_f64(1.54037562454577087e-4) + set_f64(1.33338188153892393e-3);
    EACH(a) t[a] = _mm512_scalef_pd(t[a], r[a]);
    EACH(a) p[a] = x[a] * p[a] + set_f64(9.61812910652568167e-3);
    EACH(a) p[a] = x[a] * p[a] + set_f64(5.55041086520935722e-2);
    EACH(a) p[a] = x[a] * p[a] + set_f64(2.40226506959100847e-1);
    EACH(a) p[a] = x[a] * p[a] + set_f64(6.93147180559946863e-1);
    EACH(a) p[a] = x[a] * p[a];
    EACH(a) x[a] = p[a] * t[a] + t[a];
}
/* 2^x also for x above 0: infinity where it is too large. */
INLINE void exp2_below_f32(vec_f32 *x) { exp2_f32(x, set_f32(1)); }
INLINE void exp2_below_f64(vec_f64 *x) { exp2_f64(x, set_f64(1)); }
#else
/* On v2 and v3, |f| <= 1/2 and the exponent is added to the bits of 1 + f p(f), with the polynomials of _simd.h. Below the
 * clamp the result stays at 3e-36 (1e-300): products with values must stay normal, subnormal ones took 3 times as long on
 * v2. */
INLINE void exp2_f32(vec_f32 *x, vec_f32 factor)
{
    vec_f32 sum[FASTNW_GROUP], p[FASTNW_GROUP];
    EACH(a) x[a] = larger_f32(x[a] * factor, set_f32(-118.0f));
    EACH(a) sum[a] = x[a] + set_f32(12582912.0f);
    EACH(a) x[a] = x[a] - (sum[a] - set_f32(12582912.0f));
    EACH(a) p[a] = x[a] * set_f32(1.5453162945120690e-4f) + set_f32(1.3390863364671234e-3f);
    EACH(a) p[a] = x[a] * p[a] + set_f32(9.6180825572778515e-3f);
    EACH(a) p[a] = x[a] * p[a] + set_f32(5.5503571142190778e-2f);
    EACH(a) p[a] = x[a] * p[a] + set_f32(2.4022650760568127e-1f);
    EACH(a) p[a] = x[a] * p[a] + set_f32(6.9314718802622878e-1f);
    EACH(a) p[a] = x[a] * p[a] + set_f32(1.0f);
    EACH(a) x[a] = (vec_f32)ADD_BITS(epi32)((vec_bits)p[a], SHIFT_BITS(epi32)((vec_bits)sum[a], 23));
}

INLINE void exp2_f64(vec_f64 *x, vec_f64 factor)
{
    static const double c[] = {4.4549605981865184e-10, 7.0725859492692237e-9, 1.0178062445845774e-7,
                               1.3215442587921690e-6,  1.5252733829836118e-5, 1.5403530441736050e-4,
                               1.3333558146416935e-3,  9.6181291076068885e-3, 5.5504108664821594e-2,
                               2.4022650695910098e-1,  6.9314718055994531e-1, 1.0};
    vec_f64 sum[FASTNW_GROUP], p[FASTNW_GROUP];
    EACH(a) x[a] = larger_f64(x[a] * factor, set_f64(-996.0));
    EACH(a) sum[a] = x[a] + set_f64(6755399441055744.0);
    EACH(a) x[a] = x[a] - (sum[a] - set_f64(6755399441055744.0));
    EACH(a) p[a] = x[a] * set_f64(c[0]) + set_f64(c[1]);
    for (int k = 2; k < 12; k++)
        EACH(a) p[a] = x[a] * p[a] + set_f64(c[k]);
    EACH(a) x[a] = (vec_f64)ADD_BITS(epi64)((vec_bits)p[a], SHIFT_BITS(epi64)((vec_bits)sum[a], 52));
}

/* 2^x also for x above 0: at least 2^125 (2^1021) where it is too large. */
INLINE void exp2_below_f32(vec_f32 *x)
{
    EACH(a) x[a] = smaller_f32(x[a], set_f32(126.0f));
    exp2_f32(x, set_f32(1));
}
INLINE void exp2_below_f64(vec_f64 *x)
{
    EACH(a) x[a] = smaller_f64(x[a], set_f64(1022.0));
    exp2_f64(x, set_f64(1));
}
#endif

/* Square roots, in place. On v4 every second one comes from vrsqrt14 and Newton's iteration: vsqrt takes 10 cycles (float64:
 * 16) for a vector in a unit of its own, and five (eight) multiplications take as many in another. The error is within an
 * ulp; the root of infinity is NaN. */
#if defined(__AVX512F__) && defined(__AVX512DQ__)
INLINE void roots_f32(vec_f32 *s)
{
    EACH(a) if (a)
        s[a] = root_f32(s[a]);
    else
    {
        const vec_f32 x = larger_f32(s[a], set_f32(1e-37f)), y = _mm512_rsqrt14_ps(x);
        const vec_f32 z = x * y;
        s[a] = (x - z * z) * (y * set_f32(0.5f)) + z;
    }
}
INLINE void roots_f64(vec_f64 *s)
{
    EACH(a) if (a % 2)
        s[a] = root_f64(s[a]);
    else
    {
        const vec_f64 x = larger_f64(s[a], set_f64(1e-300)), y = _mm512_rsqrt14_pd(x);
        vec_f64 z = x * y, h = y * set_f64(0.5), r = set_f64(0.5) - z * h;
        z = z * r + z;
        h = h * r + h;
        s[a] = (x - z * z) * h + z;
    }
}
#else
INLINE void roots_f32(vec_f32 *s) { EACH(a) s[a] = root_f32(s[a]); }
INLINE void roots_f64(vec_f64 *s) { EACH(a) s[a] = root_f64(s[a]); }
#endif

/* cos(pi u / 2) from s = u^2 <= 1, as in _simd.h */
INLINE void cosines_f32(vec_f32 *s)
{
    vec_f32 p[FASTNW_GROUP];
    EACH(a) p[a] = s[a] * set_f32(2.3600689581301924e-5f) - set_f32(8.9353550146327378e-4f);
    EACH(a) p[a] = p[a] * s[a] + set_f32(1.9968606206800278e-2f);
    EACH(a) p[a] = p[a] * s[a] - set_f32(2.3370050625459747e-1f);
    EACH(a) p[a] = p[a] * s[a] + set_f32(1.0f);
    EACH(a) s[a] = (set_f32(1.0f) - s[a]) * p[a];
}

INLINE void cosines_f64(vec_f64 *s)
{
    static const double c[] = {-6.5105291567976846e-11, 6.3214409042583574e-9, -4.6476599159529777e-7, 2.4737276358836731e-5, -8.9452299847364443e-4, 1.9968957764878076e-2, -2.3370055013616982e-1, 1.0};
    vec_f64 p[FASTNW_GROUP];
    EACH(a) p[a] = set_f64(5.10846968542241e-13);
    for (int k = 0; k < 8; k++)
        EACH(a) p[a] = p[a] * s[a] + set_f64(c[k]);
    EACH(a) s[a] = (set_f64(1.0) - s[a]) * p[a];
}

#endif
#endif
