/* The vectorised loop: distances, profiles and sums of a group of queries over a strip of keys, in registers. _fused.h
 * includes it once for float and once for double, with REAL, VEC and N(name) defined.
 *
 * Distances are differences of raw coordinates: dividing or centring keys beforehand would cost a rounding of |k/h|. Where
 * all coordinates have one bandwidth, its square multiplies the sum (`iso`), which saves a multiplication a coordinate.
 * Sums of near queries have no shift: _tiles.pxi sends decaying kernels here once a query has met a key near enough. */

typedef struct {
    const REAL *keys; /* (d, stride) */
    ptrdiff_t stride, d;
    const REAL *inverse; /* (d,) 1/h_j, unless `factor` holds them */
    REAL factor; /* of the squared distance: 1/h^2; Gaussian: -log2(e)/2 of it; triangular: of the distance, 1/h */
    const REAL *scale;   /* (stride,) or NULL */
    const REAL *weights, *values; /* (stride,) w and w t */
    REAL edge; /* of u^2: what lies below may be within the support */
    REAL *out; /* (group, out_stride) kernel values, where they are stored */
    ptrdiff_t out_stride;
    const REAL *lift; /* (group,) nats by which exponents are raised, or NULL */
    const REAL *const *q; /* (group,) coordinates of the queries */
    ptrdiff_t n;          /* keys, a multiple of the vector */
} N(strip);

/* sums[a]: the mass, the total, and either the weight of the keys that may lie within the support or, where exponents are
 * lifted, a bound on the largest kappa, weights aside. If the mass is NaN, u^2 left the range of the fast arithmetic, and
 * the sums are void. */
typedef void (*N(fused_function))(const N(strip) *, double (*sums)[3]);

/* Turns u^2 into kappa, in place. The Gaussian and the triangular kernel take unscaled squares, and their own factor. */
INLINE void N(profile)(const int kernel, VEC *s, VEC factor)
{
    const VEC one = N(set)(1), zero = N(set)(0);
    VEC z[FASTNW_GROUP];
    switch (kernel) {
    case GAUSSIAN:
        N(exp2)(s, factor);
        return;
    case LAPLACIAN:
    case LOGISTIC:
        N(roots)(s);
        N(exp2)(s, N(set)((REAL)-1.4426950408889634));
        if (kernel == LOGISTIC)
            EACH(a) s[a] = N(set)(4) * s[a] / ((one + s[a]) * (one + s[a]));
        return;
    case MATERN32:
        /* z stops growing where exp is clamped */
        N(roots)(s);
        EACH(a) z[a] = N(smaller)(s[a] * N(set)((REAL)1.7320508075688772), N(set)(800));
        EACH(a) s[a] = z[a];
        N(exp2)(s, N(set)((REAL)-1.4426950408889634));
        EACH(a) s[a] = (one + z[a]) * s[a];
        return;
    case MATERN52:
        N(roots)(s);
        EACH(a) z[a] = N(smaller)(s[a] * N(set)((REAL)2.23606797749979), N(set)(800));
        EACH(a) s[a] = z[a];
        N(exp2)(s, N(set)((REAL)-1.4426950408889634));
        EACH(a) s[a] = (one + z[a] + z[a] * z[a] * N(set)((REAL)(1.0 / 3.0))) * s[a];
        return;
    case BOXCAR:
        EACH(a) s[a] = N(add_within)(zero, s[a], one, one);
        return;
    case TRIANGULAR:
        N(roots)(s);
        EACH(a) s[a] = N(larger)(one - s[a] * factor, zero);
        return;
    case EPANECHNIKOV:
    case BIWEIGHT:
    case TRIWEIGHT:
        EACH(a) z[a] = N(larger)(one - s[a], zero);
        EACH(a) s[a] = z[a];
        if (kernel != EPANECHNIKOV)
            EACH(a) s[a] = s[a] * z[a];
        if (kernel == TRIWEIGHT)
            EACH(a) s[a] = s[a] * z[a];
        return;
    case TRICUBE:
        EACH(a) z[a] = s[a];
        N(roots)(s);
        EACH(a) z[a] = N(larger)(one - s[a] * z[a], zero);
        EACH(a) s[a] = z[a] * z[a] * z[a];
        return;
    case COSINE:
        EACH(a) s[a] = N(smaller)(s[a], one);
        N(cosines)(s);
        return;
    case CAUCHY:
        EACH(a) s[a] = one / (one + s[a]);
        return;
    default:
        EACH(a) s[a] = one;
    }
}

/* Turns u^2 into kappa exp(lift), in place, for decaying kernels. `factor` is that of `profile`; `lift` has one number a
 * query, `step` apart. The polynomials stop growing where exp is clamped. Results too large for the type are infinite, or at
 * least 2^125; callers look for them in the sum. */
INLINE void N(lifted)(const int kernel, VEC *s, VEC factor, const REAL *lift, const int step)
{
    const VEC one = N(set)(1), minus = N(set)((REAL)-1.4426950408889634);
    VEC z[FASTNW_GROUP];
    if (kernel == GAUSSIAN) {
        EACH(a) s[a] = s[a] * factor + N(set)(lift[a * step] * (REAL)1.4426950408889634);
        N(exp2_below)(s);
        return;
    }
    N(roots)(s);
    if (kernel == MATERN32)
        EACH(a) s[a] = N(smaller)(s[a] * N(set)((REAL)1.7320508075688772), N(set)(lift[a * step] + 800));
    if (kernel == MATERN52)
        EACH(a) s[a] = N(smaller)(s[a] * N(set)((REAL)2.23606797749979), N(set)(lift[a * step] + 800));
    EACH(a) z[a] = s[a];
    EACH(a) s[a] = s[a] * minus + N(set)(lift[a * step] * (REAL)1.4426950408889634);
    N(exp2_below)(s);
    if (kernel == MATERN32)
        EACH(a) s[a] = (one + z[a]) * s[a];
    if (kernel == MATERN52)
        EACH(a) s[a] = (one + z[a] + z[a] * z[a] * N(set)((REAL)(1.0 / 3.0))) * s[a];
    if (kernel == LOGISTIC) {
        EACH(a) z[a] = one + s[a] * N(set)((REAL)exp(-(double)lift[a * step]));
        EACH(a) s[a] = N(set)(4) * s[a] / (z[a] * z[a]);
    }
}

/* s[a] = sum_j ((k_j - q_j)/h_j)^2 of a vector of keys, without the division if `iso`. Coordinates are added in parts of
 * eight, which keeps the rounding of the sum at 8 + d/8 units.
 *
 * There is one vector of keys at a time, so that a query's coordinate is an operand in memory whose broadcast costs nothing;
 * two would load it into a register first (a third slower). */
INLINE void N(squares)(const int D, const int iso, const int queries, const REAL *k, ptrdiff_t stride, ptrdiff_t d,
                       const REAL *inverse, const REAL *const *q, VEC *s)
{
    const ptrdiff_t n = D ? D : d;
    VEC t[2 * FASTNW_GROUP];
    ALL(a) s[a] = N(set)(0);
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = D || n - j <= 8 ? n : j + 8;
        VEC part[2 * FASTNW_GROUP];
        ALL(a) part[a] = N(set)(0);
        for (; j < end; j++, k += stride) {
            const VEC key = N(load)(k);
            ALL(a) t[a] = key - N(set)(q[a][j]);
            if (!iso)
                ALL(a) t[a] = t[a] * N(set)(inverse[j]);
            ALL(a) part[a] = t[a] * t[a] + part[a];
        }
        ALL(a) s[a] = s[a] + part[a];
    }
}

/* Inlined with constants: D coordinates (0: strip->d), one bandwidth or several, weights or none, `values` as in
 * fastnw_pairs, one or two groups of queries at a time, exponents lifted (then there is one group) or not. */
INLINE void N(fused)(const int kernel, const int D, const int iso, const int weighted, const int values, const int groups,
                     const int lift, const N(strip) *strip, double (*sums)[3])
{
    const ptrdiff_t d = D ? D : strip->d, stride = strip->stride, lanes = sizeof(VEC) / sizeof(REAL), n = strip->n;
    const REAL *const *q = strip->q;
    const int compact = IS_ONE_OF(COMPACT_KERNELS, kernel), queries = groups * FASTNW_GROUP;
    const VEC factor = N(set)(strip->factor), edge = N(set)(strip->edge);
    VEC mass[2 * FASTNW_GROUP], total[2 * FASTNW_GROUP], inside[2 * FASTNW_GROUP];
    ALL(a) mass[a] = total[a] = inside[a] = N(set)(0);
    for (ptrdiff_t i = 0; i < n; i += lanes) {
        VEC s[2 * FASTNW_GROUP];
        N(squares)(D, iso, queries, strip->keys + i, stride, d, strip->inverse, q, s);
        if (strip->scale)
            ALL(a) s[a] = s[a] * N(load)(strip->scale + i);
        if (iso && kernel != GAUSSIAN && kernel != TRIANGULAR)
            ALL(a) s[a] = s[a] * factor;
        const VEC w = weighted ? N(load)(strip->weights + i) : N(set)(1);
        if (compact)
            ALL(a) inside[a] = N(add_within)(inside[a], s[a], edge, w);
        if (lift) {
            N(lifted)(kernel, s, factor, strip->lift, 1);
            ALL(a) inside[a] = N(larger)(inside[a], s[a]);
        } else
            N(profile)(kernel, s, factor);
        if (groups == 2)
            N(profile)(kernel, s + FASTNW_GROUP, factor);
        if (values == 2)
            ALL(a) N(store)(strip->out + a * strip->out_stride + i, s[a]);
        if (weighted)
            ALL(a) mass[a] = s[a] * w + mass[a];
        else
            ALL(a) mass[a] = mass[a] + s[a];
        if (values == 1)
            ALL(a) total[a] = s[a] * N(load)(strip->values + i) + total[a];
    }
    ALL(a) sums[a][0] = N(sum)(mass[a]);
    ALL(a) sums[a][1] = values == 1 ? N(sum)(total[a]) : 0;
    ALL(a) sums[a][2] = compact || lift ? N(sum)(inside[a]) : 0;
}

#define ARGUMENTS const N(strip) *strip, double (*sums)[3]
#define INSTANCE(NAME, KERNEL, D, ISO, WEIGHTED, VALUES)                                                               \
    static void N(NAME)(ARGUMENTS) { N(fused)(KERNEL, D, ISO, WEIGHTED, VALUES, 1, 0, strip, sums); }

/* Each kernel has an instance without weights and with one bandwidth for d = 1, 2, 3, those of all other cases, and those
 * that store profiles. */
#define KERNEL_INSTANCES(NAME, KERNEL)                                                                                 \
    INSTANCE(NAME##_1, KERNEL, 1, 1, 0, 1)                                                                             \
    INSTANCE(NAME##_2, KERNEL, 2, 1, 0, 1)                                                                             \
    INSTANCE(NAME##_3, KERNEL, 3, 1, 0, 1)                                                                             \
    INSTANCE(NAME##_iso, KERNEL, 0, 1, 1, 1)                                                                           \
    INSTANCE(NAME##_any, KERNEL, 0, 0, 1, 1)                                                                           \
    INSTANCE(NAME##_store, KERNEL, 0, 0, 1, 2)                                                                         \
    INSTANCE(NAME##_store_iso, KERNEL, 0, 1, 1, 2)                                                                     \
    static N(fused_function) N(choose_##NAME)(ptrdiff_t d, int iso, int weighted, int values)                        \
    {                                                                                                                  \
        if (values == 2)                                                                                               \
            return iso ? N(NAME##_store_iso) : N(NAME##_store);                                                        \
        if (!iso)                                                                                                      \
            return N(NAME##_any);                                                                                      \
        if (weighted || d > 3)                                                                                         \
            return N(NAME##_iso);                                                                                      \
        return d == 1 ? N(NAME##_1) : d == 2 ? N(NAME##_2) : N(NAME##_3);                                              \
    }

KERNEL_INSTANCES(gaussian, GAUSSIAN)
KERNEL_INSTANCES(laplacian, LAPLACIAN)
KERNEL_INSTANCES(matern32, MATERN32)
KERNEL_INSTANCES(matern52, MATERN52)
KERNEL_INSTANCES(logistic, LOGISTIC)
KERNEL_INSTANCES(boxcar, BOXCAR)
KERNEL_INSTANCES(triangular, TRIANGULAR)
KERNEL_INSTANCES(epanechnikov, EPANECHNIKOV)
KERNEL_INSTANCES(biweight, BIWEIGHT)
KERNEL_INSTANCES(triweight, TRIWEIGHT)
KERNEL_INSTANCES(tricube, TRICUBE)
KERNEL_INSTANCES(cosine, COSINE)
KERNEL_INSTANCES(cauchy, CAUCHY)
KERNEL_INSTANCES(constant, CONSTANT)

/* The Gaussian without weights has instances of its own for d = 1 to 4, with one bandwidth and with several, with and
 * without values: up to a tenth and a third faster than the general ones. */
#define GAUSSIAN_INSTANCES(D)                                                                                          \
    INSTANCE(gaussian_##D##_iso_mass, GAUSSIAN, D, 1, 0, 0)                                                            \
    INSTANCE(gaussian_##D##_iso_value, GAUSSIAN, D, 1, 0, 1)                                                           \
    INSTANCE(gaussian_##D##_mass, GAUSSIAN, D, 0, 0, 0)                                                                \
    INSTANCE(gaussian_##D##_value, GAUSSIAN, D, 0, 0, 1)

GAUSSIAN_INSTANCES(1)
GAUSSIAN_INSTANCES(2)
GAUSSIAN_INSTANCES(3)
GAUSSIAN_INSTANCES(4)

#define GAUSSIAN_ROW(D)                                                                                                \
    {N(gaussian_##D##_mass), N(gaussian_##D##_value), N(gaussian_##D##_iso_mass), N(gaussian_##D##_iso_value)}

/* Two groups at a time share the loads of keys: that saves 10 % at d = 64 and 25 % at d = 256, but at d = 5 to 32 as much is
 * lost to registers that spill to memory. */
#define WIDE_INSTANCE(NAME, ISO, VALUES)                                                                               \
    static void N(NAME)(ARGUMENTS) { N(fused)(GAUSSIAN, 0, ISO, 1, VALUES, 2, 0, strip, sums); }
WIDE_INSTANCE(gaussian_wide, 0, 1)
WIDE_INSTANCE(gaussian_wide_iso, 1, 1)
WIDE_INSTANCE(gaussian_wide_store, 0, 2)
WIDE_INSTANCE(gaussian_wide_store_iso, 1, 2)

static N(fused_function) N(choose_wide)(int kernel, ptrdiff_t d, int iso, int values)
{
    if (kernel != GAUSSIAN || d < 48)
        return NULL;
    if (values == 2)
        return iso ? N(gaussian_wide_store_iso) : N(gaussian_wide_store);
    return iso ? N(gaussian_wide_iso) : N(gaussian_wide);
}

/* Far queries of decaying kernels. In d = 1 to 3 without weights these loops are not unrolled as those of near queries are:
 * they take a fifth longer. */
#define LIFTED_INSTANCE(NAME, KERNEL, ISO, VALUES)                                                                     \
    static void N(NAME)(ARGUMENTS) { N(fused)(KERNEL, 0, ISO, 1, VALUES, 1, 1, strip, sums); }
#define LIFTED_INSTANCES(NAME, KERNEL)                                                                                 \
    LIFTED_INSTANCE(NAME##_far, KERNEL, 0, 1)                                                                          \
    LIFTED_INSTANCE(NAME##_far_iso, KERNEL, 1, 1)                                                                      \
    LIFTED_INSTANCE(NAME##_far_store, KERNEL, 0, 2)                                                                    \
    LIFTED_INSTANCE(NAME##_far_store_iso, KERNEL, 1, 2)
LIFTED_INSTANCES(gaussian, GAUSSIAN)
LIFTED_INSTANCES(laplacian, LAPLACIAN)
LIFTED_INSTANCES(matern32, MATERN32)
LIFTED_INSTANCES(matern52, MATERN52)
LIFTED_INSTANCES(logistic, LOGISTIC)

static N(fused_function) N(choose_far)(int kernel, int iso, int values)
{
#define FAR_ROW(NAME) {N(NAME##_far), N(NAME##_far_iso), N(NAME##_far_store), N(NAME##_far_store_iso)}
    static const N(fused_function) far[KERNEL_COUNT][4] = {
        [GAUSSIAN] = FAR_ROW(gaussian), [LAPLACIAN] = FAR_ROW(laplacian), [MATERN32] = FAR_ROW(matern32),
        [MATERN52] = FAR_ROW(matern52), [LOGISTIC] = FAR_ROW(logistic)};
    return far[kernel][2 * (values == 2) + iso];
}

static N(fused_function) N(choose)(int kernel, ptrdiff_t d, int iso, int weighted, int values)
{
    static const N(fused_function) plain[4][4] = {GAUSSIAN_ROW(1), GAUSSIAN_ROW(2), GAUSSIAN_ROW(3), GAUSSIAN_ROW(4)};
    switch (kernel) {
    case GAUSSIAN:
        return values < 2 && d <= 4 && !weighted ? plain[d - 1][2 * iso + values] : N(choose_gaussian)(d, iso, weighted, values);
    case LAPLACIAN:
        return N(choose_laplacian)(d, iso, weighted, values);
    case MATERN32:
        return N(choose_matern32)(d, iso, weighted, values);
    case MATERN52:
        return N(choose_matern52)(d, iso, weighted, values);
    case LOGISTIC:
        return N(choose_logistic)(d, iso, weighted, values);
    case BOXCAR:
        return N(choose_boxcar)(d, iso, weighted, values);
    case TRIANGULAR:
        return N(choose_triangular)(d, iso, weighted, values);
    case EPANECHNIKOV:
        return N(choose_epanechnikov)(d, iso, weighted, values);
    case BIWEIGHT:
        return N(choose_biweight)(d, iso, weighted, values);
    case TRIWEIGHT:
        return N(choose_triweight)(d, iso, weighted, values);
    case TRICUBE:
        return N(choose_tricube)(d, iso, weighted, values);
    case COSINE:
        return N(choose_cosine)(d, iso, weighted, values);
    case CAUCHY:
        return N(choose_cauchy)(d, iso, weighted, values);
    default:
        return N(choose_constant)(d, iso, weighted, values);
    }
}

/* The strip of a block of keys, of queries that are set later. */
INLINE N(strip) N(strip_of)(const fastnw_pairs *pairs, int iso, const fastnw_keys *keys, ptrdiff_t n)
{
    const REAL *inverse = pairs->inverse;
    const REAL once = iso ? inverse[0] : 1, twice = once * once;
    N(strip) strip = {.keys = keys->coords, .stride = keys->stride, .d = keys->d, .inverse = inverse, .factor = twice};
    strip.scale = keys->scale;
    strip.weights = keys->weights;
    strip.values = keys->values;
    strip.edge = (REAL)pairs->edge;
    strip.n = n;
    if (pairs->kernel == GAUSSIAN)
        strip.factor = twice * (REAL)-0.7213475204444817;
    if (pairs->kernel == TRIANGULAR) {
        strip.factor = once;
        strip.edge /= twice;
    }
    return strip;
}

INLINE void N(fill_up)(fastnw_group *group, int room)
{
    const REAL **q = (const REAL **)group->queries;
    REAL *lift = group->lift;
    for (int a = group->size; a < room; a++) {
        q[a] = q[0];
        if (lift)
            lift[a] = lift[0];
    }
}

/* Sums (or, with values == 2, profiles) of up to two groups of queries over the first n keys, a multiple of 32. */
static void N(fastnw_fused)(const fastnw_pairs *pairs, const fastnw_keys *keys, fastnw_group *group, ptrdiff_t n,
                            double (*sums)[3])
{
    const int kernel = pairs->kernel, iso = pairs->one_bandwidth, values = pairs->values;
    N(strip) strip = N(strip_of)(pairs, iso, keys, n);
    const N(fused_function) wide = group->lift ? NULL : N(choose_wide)(kernel, keys->d, iso, values);
    const N(fused_function) one =
        group->lift ? N(choose_far)(kernel, iso, values) : N(choose)(kernel, keys->d, iso, keys->weighted, values);
    N(fill_up)(group, 2 * FASTNW_GROUP);
    strip.q = (const REAL *const *)group->queries;
    strip.lift = group->lift;
    strip.out = group->out;
    strip.out_stride = group->out_stride;
    if (group->size > FASTNW_GROUP && wide) {
        wide(&strip, sums);
        return;
    }
    one(&strip, sums);
    if (group->size <= FASTNW_GROUP)
        return;
    strip.out += FASTNW_GROUP * strip.out_stride;
    if (strip.lift)
        strip.lift += FASTNW_GROUP;
    strip.q += FASTNW_GROUP;
    one(&strip, sums + FASTNW_GROUP);
}

/* The profile of a kernel that is only known at run time, with one branch for a group of vectors. */
INLINE void N(profile_of)(int kernel, VEC *s)
{
#define CASE(KERNEL, FACTOR)                                                                                           \
    case KERNEL:                                                                                                       \
        N(profile)(KERNEL, s, N(set)((REAL)(FACTOR)));                                                                 \
        return;
    switch (kernel) {
        CASE(GAUSSIAN, -0.7213475204444817)
        CASE(LAPLACIAN, 1)
        CASE(MATERN32, 1)
        CASE(MATERN52, 1)
        CASE(LOGISTIC, 1)
        CASE(BOXCAR, 1)
        CASE(TRIANGULAR, 1)
        CASE(EPANECHNIKOV, 1)
        CASE(BIWEIGHT, 1)
        CASE(TRIWEIGHT, 1)
        CASE(TRICUBE, 1)
        CASE(COSINE, 1)
        CASE(CAUCHY, 1)
        CASE(CONSTANT, 1)
    }
#undef CASE
}

/* Several profiles and bandwidths in one pass over the distances: sums[p * FASTNW_GROUP + a] for profile p < count of a
 * group of queries, kernels[p] of ratios[p] u^2, with at most one value a key. Of `pairs` it takes the edge and the
 * reciprocal bandwidths. */
static void N(fastnw_several)(const int *kernels, const REAL *ratios, int count, const fastnw_pairs *pairs,
                              const fastnw_keys *keys, fastnw_group *group, ptrdiff_t n, double (*sums)[3])
{
    const REAL *coords = keys->coords, *scale = keys->scale, *weights = keys->weights, *values = keys->values;
    const REAL *inverse = pairs->inverse, *const *q = (const REAL *const *)group->queries;
    const ptrdiff_t stride = keys->stride, d = keys->d;
    VEC mass[MAX_PROFILES][FASTNW_GROUP], total[MAX_PROFILES][FASTNW_GROUP], inside[MAX_PROFILES][FASTNW_GROUP];
    const VEC edge = N(set)((REAL)pairs->edge);
    group->lift = NULL;
    N(fill_up)(group, FASTNW_GROUP);
    for (int p = 0; p < count; p++)
        EACH(a) mass[p][a] = total[p][a] = inside[p][a] = N(set)(0);
    for (ptrdiff_t i = 0; i < n; i += (ptrdiff_t)(sizeof(VEC) / sizeof(REAL))) {
        const VEC w = N(load)(weights + i), v = N(load)(values + i);
        VEC s[2 * FASTNW_GROUP], t[FASTNW_GROUP];
        N(squares)(0, 0, FASTNW_GROUP, coords + i, stride, d, inverse, q, s);
        if (scale)
            EACH(a) s[a] = s[a] * N(load)(scale + i);
        for (int p = 0; p < count; p++) {
            EACH(a) t[a] = s[a] * N(set)(ratios[p]);
            if (IS_ONE_OF(COMPACT_KERNELS, kernels[p]))
                EACH(a) inside[p][a] = N(add_within)(inside[p][a], t[a], edge, w);
            N(profile_of)(kernels[p], t);
            EACH(a) mass[p][a] = t[a] * w + mass[p][a];
            EACH(a) total[p][a] = t[a] * v + total[p][a];
        }
    }
    for (int p = 0; p < count; p++)
        EACH(a)
        {
            sums[p * FASTNW_GROUP + a][0] = N(sum)(mass[p][a]);
            sums[p * FASTNW_GROUP + a][1] = N(sum)(total[p][a]);
            sums[p * FASTNW_GROUP + a][2] = N(sum)(inside[p][a]);
        }
}

/* out = 2^x; tests measure its accuracy */
static void N(fastnw_vector_exp2)(const REAL *x, REAL *out, ptrdiff_t n)
{
    const ptrdiff_t lanes = sizeof(VEC) / sizeof(REAL);
    for (ptrdiff_t i = 0; i < n; i += FASTNW_GROUP * lanes) {
        REAL part[FASTNW_GROUP * sizeof(VEC) / sizeof(REAL)] = {0};
        const ptrdiff_t count = n - i < FASTNW_GROUP * lanes ? n - i : FASTNW_GROUP * lanes;
        VEC s[FASTNW_GROUP];
        memcpy(part, x + i, count * sizeof(REAL));
        EACH(a) s[a] = N(load)(part + a * lanes);
        N(exp2)(s, N(set)(1));
        EACH(a) N(store)(part + a * lanes, s[a]);
        memcpy(out + i, part, count * sizeof(REAL));
    }
}
