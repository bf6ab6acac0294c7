/* The vectorised loops for float and double, from one body. */
#ifndef FASTNW_FUSED_H
#define FASTNW_FUSED_H

#include "_rows.h"
#include "blocks.h"
#include "kernels.h"
#include "_simd.h"
#include "_vector.h"

#include <stddef.h>

#define LEAVES_PER_SUM 64 /* that are summed in lanes before those are added up: at most 512 terms one after another */

#ifdef FASTNW_VECTORS
#define REAL float
#define VEC vec_f32
#define N(name) name##_f32
#include "_fused_body.h"
#undef REAL
#undef VEC
#undef N

#define REAL double
#define VEC vec_f64
#define N(name) name##_f64
#include "_fused_body.h"
#include "_leaves_body.h"
#undef REAL
#undef VEC
#undef N
#else
/* Never called: a group of 0 queries sends everything through the staged loops. */
#define FASTNW_GROUP 0
#define fastnw_fused_f32(...) ((void)0)
#define fastnw_fused_f64(...) ((void)0)
#define fastnw_leaves_f64(...) ((void)0)
#define fastnw_weigh_leaves_f64(...) ((void)0)
#define fastnw_several_f32(...) ((void)0)
#define fastnw_several_f64(...) ((void)0)
#define fastnw_vector_exp2_f32(...) ((void)0)
#define fastnw_vector_exp2_f64(...) ((void)0)
#define fastnw_weigh_group_f32(...) ((void)0)
#define fastnw_weigh_group_f64(...) ((void)0)
#endif

#endif
