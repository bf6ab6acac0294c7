/* What all compiled code knows of kernels, and the constants that Python reads from the extension modules.
 *
 * `enum kernel` is the only list of the kernels in C. Code asks for a property by a mask, never for a position:
 * IS_ONE_OF(COMPACT_KERNELS, kernel). The compiler evaluates that where the kernel is a constant. */
#ifndef FASTNW_KERNELS_H
#define FASTNW_KERNELS_H

#define FASTNW_KERNELS(X)                                                                                              \
    X(GAUSSIAN, "gaussian")                                                                                            \
    X(LAPLACIAN, "laplacian")                                                                                          \
    X(MATERN32, "matern32")                                                                                            \
    X(MATERN52, "matern52")                                                                                            \
    X(LOGISTIC, "logistic")                                                                                            \
    X(DOT, "dot")                                                                                                      \
    X(BOXCAR, "boxcar")                                                                                                \
    X(TRIANGULAR, "triangular")                                                                                        \
    X(EPANECHNIKOV, "epanechnikov")                                                                                    \
    X(BIWEIGHT, "biweight")                                                                                            \
    X(TRIWEIGHT, "triweight")                                                                                          \
    X(TRICUBE, "tricube")                                                                                              \
    X(COSINE, "cosine")                                                                                                \
    X(CAUCHY, "cauchy")                                                                                                \
    X(CONSTANT, "constant")

#define FASTNW_CODE(CODE, NAME) CODE,
enum kernel { FASTNW_KERNELS(FASTNW_CODE) KERNEL_COUNT };
#undef FASTNW_CODE

#define MASK_OF(kernel) (1u << (kernel))
#define IS_ONE_OF(mask, kernel) (((mask) >> (kernel)) & 1u)

enum kernel_mask {
    /* Profiles that fall exponentially with the distance: polynomial * exp(-z). They may need a shift. */
    DECAYING_KERNELS =
        MASK_OF(GAUSSIAN) | MASK_OF(LAPLACIAN) | MASK_OF(MATERN32) | MASK_OF(MATERN52) | MASK_OF(LOGISTIC),
    /* Exponentials of inner products, whose values have no bound: they always need a shift. */
    INNER_PRODUCT_KERNELS = MASK_OF(DOT),
    /* Profiles that are computed by way of their logarithm. */
    LOGARITHMIC_KERNELS = DECAYING_KERNELS | INNER_PRODUCT_KERNELS,
    /* Continuous profiles that are 0 beyond u = 1. Their error is bounded by the weight of the keys within. */
    COMPACT_KERNELS = MASK_OF(TRIANGULAR) | MASK_OF(EPANECHNIKOV) | MASK_OF(BIWEIGHT) | MASK_OF(TRIWEIGHT) |
                      MASK_OF(TRICUBE) | MASK_OF(COSINE),
};

enum {
    MAX_PROFILES = 16,            /* profiles that share one pass over the distances, at most */
    KEYS_PER_LEAF = 32,           /* of a tree; a multiple of every instruction set's group of vectors */
    CHILDREN_PER_NODE = 16,       /* of a tree */
    QUERIES_PER_WALK = 32,        /* that walk down a tree together: with 16 walks cost more, with 64 lists are longer */
    MAX_VECTOR_ELEMENTS = 16,     /* of the longest vector; rows of several values are filled up to a multiple */
    MAX_DIRECT_QUERIES = 4,       /* up to which rows of keys are gone through directly: faster than BLAS, and exact */
    COORDINATES_PER_PRODUCT = 128, /* that a matrix product adds up before it is rounded into the sum */
    COORDINATES_PER_NORM = 2048,  /* that a squared norm adds up before it is rounded into the sum */
    /* Log2 of the profile, in units of exp(shift), from which a key counts as much nearer than all before. A query that
     * meets one is summed again with a new shift. */
    LOG2_NEARER_KEY = 20,
    FIRST_STRIP_KEYS = 128,  /* of the first strip of a tile, which many queries need to meet a near key */
    MAX_STRIP_KEYS = 1024, /* that are summed in the compute type before sums are added to float64 */
    MAX_SEQUENTIAL_KEYS = 256, /* that are added one after another, where there are several values */
    LOG2_MIN_UNSHIFTED_MASS = -60, /* the clamp of exp adds or takes far less than such a mass, which needs no shift */
    /* Where the exponential stops falling, in nats: exp(-EXP_CLAMP_NATS) is its least value. */
    EXP_CLAMP_NATS_F32 = 80,
    EXP_CLAMP_NATS_F64 = 690,
};

#endif
