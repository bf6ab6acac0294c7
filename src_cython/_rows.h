/* The loops of _rows_body.h for float and double; processors without vectors have no tiles of products. */
#ifndef FASTNW_ROWS_H
#define FASTNW_ROWS_H

#include "_simd.h"
#include "_vector.h"

#ifdef FASTNW_VECTORS
#define REAL float
#define VEC vec_f32
#define N(name) name##_f32
#include "_rows_body.h"
#undef REAL
#undef VEC
#undef N

#define REAL double
#define VEC vec_f64
#define N(name) name##_f64
#include "_rows_body.h"
#undef REAL
#undef VEC
#undef N
#endif

#endif
