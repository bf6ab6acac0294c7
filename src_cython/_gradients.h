/* Arithmetic of gradients: exp on both sides of 0, derivatives of profiles, and sums whose order is free. */
#ifndef FASTNW_GRADIENTS_H
#define FASTNW_GRADIENTS_H

#include <math.h>

#include "_simd.h"

/* e^x, and 0 below -690: what the clamp of exp leaves there would count at 1e150 bandwidths, where z^2 is 1e300. */
static inline double fastnw_factor(double x)
{
    const double power = fastnw_exp_f64(x < 700.0 ? x : 700.0);
    return x > -690.0 ? power : 0.0;
}

/* The same, and infinity beyond 709: a key without weight may outweigh all others by more than float64 can hold. */
static inline double fastnw_unbounded_factor(double x)
{
    const double power = fastnw_exp_f64(x < 709.0 ? x : 709.0);
    return x > 709.0 ? INFINITY : x > -690.0 ? power : 0.0;
}

/* -2 d cos(pi u/2)/du^2 = (pi/2)^2 sinc(pi u/2), by its series in s = u^2 <= 1; the first term left out is 3e-19. */
static inline double fastnw_cosine_fall(double s)
{
    const double x = 2.4674011002723395 * s;
    double p = 1.0;
    p = 1.0 - p * x * (1.0 / (20.0 * 21.0));
    p = 1.0 - p * x * (1.0 / (18.0 * 19.0));
    p = 1.0 - p * x * (1.0 / (16.0 * 17.0));
    p = 1.0 - p * x * (1.0 / (14.0 * 15.0));
    p = 1.0 - p * x * (1.0 / (12.0 * 13.0));
    p = 1.0 - p * x * (1.0 / (10.0 * 11.0));
    p = 1.0 - p * x * (1.0 / (8.0 * 9.0));
    p = 1.0 - p * x * (1.0 / (6.0 * 7.0));
    p = 1.0 - p * x * (1.0 / (4.0 * 5.0));
    p = 1.0 - p * x * (1.0 / (2.0 * 3.0));
    return 2.4674011002723395 * p;
}

/* tanh(u/2)/u from g = e^-u, or by its series where 1 - g would lose digits; the first term left out is 3e-17. */
static inline double fastnw_logistic_fall(double u, double g)
{
    const double s = u * u, series = 0.5 - s * (1.0 / 24 - s * (1.0 / 240 - s * (17.0 / 40320)));
    return u > 0.03125 ? (1 - g) / ((1 + g) * u) : series;
}

/* sums[0] += sum_i e_i z_i and sums[1] += sum_i e_i z_i^2, z_i = (x - k_i) v */
static inline void fastnw_force(const double *e, const double *k, double x, double v, ptrdiff_t n, double *sums)
{
    double first = 0, second = 0;
    SIMD_LOOP("omp simd reduction(+ : first, second)")
    for (ptrdiff_t i = 0; i < n; i++) {
        const double z = (x - k[i]) * v, f = e[i] * z;
        first += f;
        second += f * z;
    }
    sums[0] += first;
    sums[1] += second;
}

/* sum_i e_i (x - k_i) v (y - l_i) w */
static inline double fastnw_force_product(const double *e, const double *k, double x, double v, const double *l,
                                          double y, double w, ptrdiff_t n)
{
    double sum = 0;
    SIMD_LOOP("omp simd reduction(+ : sum)")
    for (ptrdiff_t i = 0; i < n; i++)
        sum += e[i] * ((x - k[i]) * v) * ((y - l[i]) * w);
    return sum;
}

static inline double fastnw_dot(const double *a, const double *b, ptrdiff_t n)
{
    double sum = 0;
    SIMD_LOOP("omp simd reduction(+ : sum)")
    for (ptrdiff_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* The same, but b = 0 makes a term 0 even where a is infinite. */
static inline double fastnw_dot_where(const double *a, const double *b, ptrdiff_t n)
{
    double sum = 0;
    SIMD_LOOP("omp simd reduction(+ : sum)")
    for (ptrdiff_t i = 0; i < n; i++)
        sum += b[i] != 0.0 ? a[i] * b[i] : 0.0;
    return sum;
}

#endif
