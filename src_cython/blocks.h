/* Blocks of keys and queries, and their sums, as the bodies of all instruction sets take them.
 *
 * A `void` pointer leads to numbers of the compute type, float or double: the function that reads it says which. Structures
 * are filled once for a tile (_blocks.pxi). Inner loops copy the members they use into local variables, which the compiler
 * keeps in registers. */
#ifndef FASTNW_BLOCKS_H
#define FASTNW_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int code;           /* of `enum kernel` */
    double sensitivity; /* error of a compact profile per weight within and relative error of u^2; 0 for other kernels */
} fastnw_kernel;

typedef struct {
    ptrdiff_t itemsize; /* of the compute type, in bytes */
    ptrdiff_t size, d, c;
    const void *coords; /* (d, size), `stride` elements from a coordinate to the next */
    ptrdiff_t stride;
    const void *scale;   /* (size,) factors of squared distances or inner products, or NULL */
    const void *weights; /* (size,) */
    int weighted;        /* 0 if all weights are 1 */
    const void *values;  /* (size,) w t of a single value; (size, value_stride) of several; without values, the weights */
    ptrdiff_t value_stride; /* 0 for less than two values */
    const int32_t *codes;   /* (size, outputs) columns of the totals to which w kappa is added, in place of values, or NULL */
    ptrdiff_t outputs;
} fastnw_keys;

typedef struct {
    ptrdiff_t size;
    const void *coords;  /* (size, d) */
    const void *inverse; /* (d,) 1/h_j */
    int one_bandwidth;   /* all of `inverse` are equal, and of a size that keeps the squares of raw differences in range */
    const int64_t *own;  /* (size,) positions within the block of the keys to leave out, or NULL */
    const double *error; /* (size,) bounds on the relative error of u^2 */
} fastnw_queries;

/* Sums of some queries: (m,), (m,), (m, c), (m,). */
typedef struct {
    double *shift, *mass, *total, *mass_error;
} fastnw_sums;

/* How the vectorised loops sum pairs. */
typedef struct {
    int kernel;
    int one_bandwidth;
    int values; /* 0: masses alone; 1: the total of a single value, too; 2: profiles are stored for other loops */
    double edge; /* of u^2: keys below may lie within the support */
    const void *inverse;
} fastnw_pairs;

/* Queries that go through a vectorised loop side by side. */
typedef struct {
    int size;
    const void **queries; /* room for two groups, whatever the size: it is filled up */
    void *lift;           /* nats by which each query's exponents are raised, with the same room, or NULL */
    void *out;            /* (size, out_stride) profiles, where they are stored */
    ptrdiff_t out_stride;
} fastnw_group;

/* The numbers of some leaves of a tree. */
typedef struct {
    const int32_t *numbers;
    ptrdiff_t count;
} fastnw_leaf_list;

#endif
