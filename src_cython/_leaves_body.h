/* The sums of one query over leaves of a tree of keys. Vectors of keys go side by side, where _fused_body.h has queries
 * side by side. Each query has its own list of leaves, so nothing is computed that only its neighbours need. _fused.h
 * includes this file after _fused_body.h, for double only.
 *
 * A leaf has KEYS_PER_LEAF keys and begins at a multiple of that; keys that fill up the last leaf have no weight. */

typedef void (*N(leaves_function))(const N(strip) *, REAL lift, const fastnw_leaf_list *leaves, double *sums);

/* Inlined with constants as `fused` is, with the same sums[0..2]. With values == 2 profiles go to strip->out, leaf by leaf. */
INLINE void N(leaves)(const int kernel, const int D, const int iso, const int values, const N(strip) *strip, REAL lift,
                      const fastnw_leaf_list *list, double *sums)
{
    const REAL *q = strip->q[0];
    const int32_t *leaves = list->numbers;
    const ptrdiff_t count = list->count;
    const ptrdiff_t d = D ? D : strip->d, stride = strip->stride, lanes = sizeof(VEC) / sizeof(REAL);
    const int compact = IS_ONE_OF(COMPACT_KERNELS, kernel), queries = FASTNW_GROUP;
    const VEC factor = N(set)(strip->factor), edge = N(set)(strip->edge);
    sums[0] = sums[1] = sums[2] = 0;
    for (ptrdiff_t first = 0; first < count; first += LEAVES_PER_SUM) {
        const ptrdiff_t last = count - first < LEAVES_PER_SUM ? count : first + LEAVES_PER_SUM;
        VEC mass[FASTNW_GROUP], total[FASTNW_GROUP], inside[FASTNW_GROUP];
        EACH(a) mass[a] = total[a] = inside[a] = N(set)(0);
        for (ptrdiff_t l = first; l < last; l++) {
            for (ptrdiff_t part = 0; part < KEYS_PER_LEAF; part += FASTNW_GROUP * lanes) {
                const ptrdiff_t i = (ptrdiff_t)leaves[l] * KEYS_PER_LEAF + part;
                const REAL *k = strip->keys + i;
                VEC s[FASTNW_GROUP], t[FASTNW_GROUP], w[FASTNW_GROUP];
                EACH(a) s[a] = N(set)(0);
                for (ptrdiff_t j = 0; j < d;) { /* in parts of eight, as `squares` does */
                    const ptrdiff_t end = D || d - j <= 8 ? d : j + 8;
                    VEC sum[FASTNW_GROUP];
                    EACH(a) sum[a] = N(set)(0);
                    for (; j < end; j++, k += stride) {
                        EACH(a) t[a] = N(load)(k + a * lanes) - N(set)(q[j]);
                        if (!iso)
                            EACH(a) t[a] = t[a] * N(set)(strip->inverse[j]);
                        EACH(a) sum[a] = t[a] * t[a] + sum[a];
                    }
                    EACH(a) s[a] = s[a] + sum[a];
                }
                if (strip->scale)
                    EACH(a) s[a] = s[a] * N(load)(strip->scale + i + a * lanes);
                if (iso && kernel != GAUSSIAN && kernel != TRIANGULAR)
                    EACH(a) s[a] = s[a] * factor;
                EACH(a) w[a] = N(load)(strip->weights + i + a * lanes);
                if (compact)
                    EACH(a) inside[a] = N(add_within)(inside[a], s[a], edge, w[a]);
                if (IS_ONE_OF(DECAYING_KERNELS, kernel))
                    N(lifted)(kernel, s, factor, &lift, 0);
                else
                    N(profile)(kernel, s, factor);
                if (values == 2)
                    EACH(a) N(store)(strip->out + l * KEYS_PER_LEAF + part + a * lanes, s[a]);
                EACH(a) mass[a] = s[a] * w[a] + mass[a];
                if (values == 1)
                    EACH(a) total[a] = s[a] * N(load)(strip->values + i + a * lanes) + total[a];
            }
        }
        for (int a = 1; a < queries; a++) {
            mass[0] = mass[0] + mass[a];
            total[0] = total[0] + total[a];
            inside[0] = inside[0] + inside[a];
        }
        sums[0] += N(sum)(mass[0]);
        sums[1] += values == 1 ? N(sum)(total[0]) : 0;
        sums[2] += compact ? N(sum)(inside[0]) : 0;
    }
}

#define LEAVES_INSTANCE(NAME, KERNEL, D, ISO, VALUES)                                                                  \
    static void N(NAME)(const N(strip) *strip, REAL lift, const fastnw_leaf_list *leaves, double *sums)                \
    {                                                                                                                  \
        N(leaves)(KERNEL, D, ISO, VALUES, strip, lift, leaves, sums);                                                  \
    }
#define KERNEL_LEAVES(NAME, KERNEL)                                                                                    \
    LEAVES_INSTANCE(leaves_##NAME##_1, KERNEL, 1, 1, 1)                                                                \
    LEAVES_INSTANCE(leaves_##NAME##_2, KERNEL, 2, 1, 1)                                                                \
    LEAVES_INSTANCE(leaves_##NAME##_3, KERNEL, 3, 1, 1)                                                                \
    LEAVES_INSTANCE(leaves_##NAME##_iso, KERNEL, 0, 1, 1)                                                              \
    LEAVES_INSTANCE(leaves_##NAME##_any, KERNEL, 0, 0, 1)                                                              \
    LEAVES_INSTANCE(leaves_##NAME##_store, KERNEL, 0, 0, 2)                                                            \
    static N(leaves_function) N(choose_leaves_##NAME)(ptrdiff_t d, int iso, int values)                                \
    {                                                                                                                  \
        if (values == 2)                                                                                               \
            return N(leaves_##NAME##_store);                                                                           \
        if (!iso)                                                                                                      \
            return N(leaves_##NAME##_any);                                                                             \
        return d == 1 ? N(leaves_##NAME##_1) : d == 2 ? N(leaves_##NAME##_2) : d == 3 ? N(leaves_##NAME##_3)           \
                                                                           : N(leaves_##NAME##_iso);                   \
    }

KERNEL_LEAVES(gaussian, GAUSSIAN)
KERNEL_LEAVES(laplacian, LAPLACIAN)
KERNEL_LEAVES(matern32, MATERN32)
KERNEL_LEAVES(matern52, MATERN52)
KERNEL_LEAVES(logistic, LOGISTIC)
KERNEL_LEAVES(boxcar, BOXCAR)
KERNEL_LEAVES(triangular, TRIANGULAR)
KERNEL_LEAVES(epanechnikov, EPANECHNIKOV)
KERNEL_LEAVES(biweight, BIWEIGHT)
KERNEL_LEAVES(triweight, TRIWEIGHT)
KERNEL_LEAVES(tricube, TRICUBE)
KERNEL_LEAVES(cosine, COSINE)

/* Sums of the query q over its leaves, times exp(lift) if the kernel decays. With values == 2 profiles go to `out`, and
 * sums[1] stays 0. */
static void N(fastnw_leaves)(const fastnw_pairs *pairs, const fastnw_keys *keys, const REAL *q, REAL lift,
                             const fastnw_leaf_list *leaves, REAL *out, double *sums)
{
    N(leaves_function) chosen = NULL;
    const int values = pairs->values, iso = pairs->one_bandwidth && values < 2;
    N(strip) strip = N(strip_of)(pairs, iso, keys, keys->size);
    strip.q = &q;
    strip.out = out;
#define CASE(NAME, KERNEL)                                                                                             \
    case KERNEL:                                                                                                       \
        chosen = N(choose_leaves_##NAME)(keys->d, iso, values);                                                                 \
        break;
    switch (pairs->kernel) {
        CASE(gaussian, GAUSSIAN)
        CASE(laplacian, LAPLACIAN)
        CASE(matern32, MATERN32)
        CASE(matern52, MATERN52)
        CASE(logistic, LOGISTIC)
        CASE(boxcar, BOXCAR)
        CASE(triangular, TRIANGULAR)
        CASE(epanechnikov, EPANECHNIKOV)
        CASE(biweight, BIWEIGHT)
        CASE(triweight, TRIWEIGHT)
        CASE(tricube, TRICUBE)
        CASE(cosine, COSINE)
    }
#undef CASE
    chosen(&strip, lift, leaves, sums);
}

/* Adds to the totals, for all keys of some leaves, kappa times the key's row of values, filled up to whole vectors. */
static void N(fastnw_weigh_leaves)(const fastnw_keys *keys, const REAL *kappa, const fastnw_leaf_list *list, double *total)
{
    const REAL *values = keys->values;
    const int32_t *leaves = list->numbers;
    const ptrdiff_t lanes = sizeof(VEC) / sizeof(REAL), stride = keys->value_stride, c = keys->c, count = list->count;
    for (ptrdiff_t first = 0; first < c; first += lanes) {
        VEC sum[4] = {N(set)(0), N(set)(0), N(set)(0), N(set)(0)};
        REAL part[sizeof(VEC) / sizeof(REAL)];
        for (ptrdiff_t l = 0; l < count; l++) {
            const REAL *row = values + (ptrdiff_t)leaves[l] * KEYS_PER_LEAF * stride + first, *g = kappa + l * KEYS_PER_LEAF;
            for (ptrdiff_t i = 0; i < KEYS_PER_LEAF; i += 4)
                for (int a = 0; a < 4; a++) /* chains side by side */
                    sum[a] = N(set)(g[i + a]) * N(load)(row + (i + a) * stride) + sum[a];
        }
        N(store)(part, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        for (ptrdiff_t k = 0; k < lanes && first + k < c; k++)
            total[first + k] += part[k];
    }
}
