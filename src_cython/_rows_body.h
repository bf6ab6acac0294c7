/* Loops over rows of keys and values as the user keeps them, which tiles of products run besides BLAS, or for few queries
 * instead of it. _rows.h includes them once for float and once for double, with REAL, VEC and N(name) defined. */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))

/* sum_j (row_j - q_j)^2 v_j
 *
 * From memory this is as fast as a plain read of the rows. Adding up four rows by one tree of shuffles was a fifth faster
 * from L2, and no faster from memory; prefetch instructions were 3 to 40 % slower at every distance from 1 to 16 KiB. */
static inline REAL N(fastnw_row_square)(const REAL *row, const REAL *q, const REAL *v, ptrdiff_t d)
{
    VEC sum[4] = {N(set)(0), N(set)(0), N(set)(0), N(set)(0)};
    REAL rest = 0;
    ptrdiff_t j = 0;
    for (; j + 4 * LANES <= d; j += 4 * LANES)
        for (int a = 0; a < 4; a++) {
            const VEC t = N(load)(row + j + a * LANES) - N(load)(q + j + a * LANES);
            sum[a] = t * N(load)(v + j + a * LANES) * t + sum[a];
        }
    for (int a = 0; j + LANES <= d; j += LANES, a++) {
        const VEC t = N(load)(row + j) - N(load)(q + j);
        sum[a] = t * N(load)(v + j) * t + sum[a];
    }
    for (; j < d; j++) {
        const REAL t = row[j] - q[j];
        rest += t * v[j] * t;
    }
    return N(sum)((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

/* out[b] = factor sum_j (row_b,j - q_j)^2 v_j, COORDINATES_PER_NORM of them at a time, so that float32 keeps its digits */
static void N(fastnw_row_squares)(const REAL *rows, ptrdiff_t stride, ptrdiff_t d, ptrdiff_t n, const REAL *q,
                                  const REAL *v, REAL factor, REAL *out)
{
    for (ptrdiff_t b = 0; b < n; b++, rows += stride) {
        REAL sum = 0;
        for (ptrdiff_t j = 0; j < d; j += COORDINATES_PER_NORM)
            sum += N(fastnw_row_square)(rows + j, q + j, v + j, d - j < COORDINATES_PER_NORM ? d - j : COORDINATES_PER_NORM);
        out[b] = factor * sum;
    }
}

static REAL N(fastnw_largest_sum)(const REAL *s, const REAL *bias, ptrdiff_t n)
{
    const ptrdiff_t whole = n / LANES * LANES;
    VEC most = N(set)(-(REAL)INFINITY);
    REAL lanes[sizeof(VEC) / sizeof(REAL)], result = -(REAL)INFINITY;
    for (ptrdiff_t i = 0; i < whole; i += LANES)
        most = N(larger)(most, N(load)(s + i) + N(load)(bias + i));
    N(store)(lanes, most);
    for (ptrdiff_t i = 0; i < LANES; i++)
        result = lanes[i] > result ? lanes[i] : result;
    for (ptrdiff_t i = whole; i < n; i++)
        result = s[i] + bias[i] > result ? s[i] + bias[i] : result;
    return result;
}

/* Turns s into w 2^(s + bias + add), in place, and returns the sum. */
static double N(fastnw_powers)(REAL *s, const REAL *bias, REAL add, const REAL *w, ptrdiff_t n)
{
    const ptrdiff_t step = FASTNW_GROUP * LANES;
    VEC mass[FASTNW_GROUP], x[FASTNW_GROUP];
    REAL last[FASTNW_GROUP * sizeof(VEC) / sizeof(REAL)];
    double sum = 0;
    ptrdiff_t i = 0;
    EACH(a) mass[a] = N(set)(0);
    for (; i + step <= n; i += step) {
        EACH(a) x[a] = N(load)(s + i + a * LANES) + N(load)(bias + i + a * LANES) + N(set)(add);
        N(exp2)(x, N(set)(1));
        if (w)
            EACH(a) x[a] = x[a] * N(load)(w + i + a * LANES);
        EACH(a) mass[a] = mass[a] + x[a];
        EACH(a) N(store)(s + i + a * LANES, x[a]);
    }
    EACH(a) sum += N(sum)(mass[a]);
    if (i < n) {
        for (ptrdiff_t k = 0; k < step; k++)
            last[k] = i + k < n ? s[i + k] + bias[i + k] + add : -100;
        EACH(a) x[a] = N(load)(last + a * LANES);
        N(exp2)(x, N(set)(1));
        EACH(a) N(store)(last + a * LANES, x[a]);
        for (ptrdiff_t k = 0; i + k < n; k++)
            sum += s[i + k] = w ? last[k] * w[i + k] : last[k];
    }
    return sum;
}

/* out[k] = sum_b g[b] rows[b][k] for k < c, of one query, at the speed of memory */
static void N(fastnw_weigh_one)(const REAL *g, const REAL *rows, ptrdiff_t stride, ptrdiff_t c, ptrdiff_t n, REAL *out)
{
    ptrdiff_t k = 0;
    for (; k + 4 * LANES <= c; k += 4 * LANES) {
        const REAL *row = rows + k;
        VEC sum[4] = {N(set)(0), N(set)(0), N(set)(0), N(set)(0)};
        for (ptrdiff_t b = 0; b < n; b++, row += stride)
            for (int a = 0; a < 4; a++)
                sum[a] = N(set)(g[b]) * N(load)(row + a * LANES) + sum[a];
        for (int a = 0; a < 4; a++)
            N(store)(out + k + a * LANES, sum[a]);
    }
    for (; k + LANES <= c; k += LANES) {
        const REAL *row = rows + k;
        VEC sum = N(set)(0);
        for (ptrdiff_t b = 0; b < n; b++, row += stride)
            sum = N(set)(g[b]) * N(load)(row) + sum;
        N(store)(out + k, sum);
    }
    for (; k < c; k++) {
        REAL sum = 0;
        for (ptrdiff_t b = 0; b < n; b++)
            sum += g[b] * rows[b * stride + k];
        out[k] = sum;
    }
}

/* out[a][k] = sum_i g[a][i] rows[i][k] for a group of queries and k < c; rows are filled up to whole vectors. This is as fast
 * as multiplications allow and packs nothing: a third faster than sgemm at c = 64. */
INLINE void N(weigh_chunk)(const int vectors, const REAL *g, ptrdiff_t g_stride, const REAL *rows, ptrdiff_t stride,
                           ptrdiff_t n, REAL *out, ptrdiff_t out_stride)
{
    VEC sum[4][FASTNW_GROUP];
    for (int v = 0; v < vectors; v++)
        EACH(a) sum[v][a] = N(set)(0);
    for (ptrdiff_t i = 0; i < n; i++, rows += stride) {
        VEC factor[FASTNW_GROUP];
        EACH(a) factor[a] = N(set)(g[a * g_stride + i]);
        for (int v = 0; v < vectors; v++) {
            const VEC row = N(load)(rows + v * LANES);
            EACH(a) sum[v][a] = factor[a] * row + sum[v][a];
        }
    }
    for (int v = 0; v < vectors; v++)
        EACH(a) N(store)(out + a * out_stride + v * LANES, sum[v][a]);
}

static void N(fastnw_weigh_group)(const REAL *g, ptrdiff_t g_stride, const REAL *rows, ptrdiff_t stride, ptrdiff_t c,
                                  ptrdiff_t n, REAL *out, ptrdiff_t out_stride)
{
    ptrdiff_t k = 0;
    for (; k + 3 * LANES < c; k += 4 * LANES)
        N(weigh_chunk)(4, g, g_stride, rows + k, stride, n, out + k, out_stride);
    for (; k < c; k += LANES)
        N(weigh_chunk)(1, g, g_stride, rows + k, stride, n, out + k, out_stride);
}
#undef LANES
