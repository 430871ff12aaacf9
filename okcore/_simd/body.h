/* The kernels for one instruction set and both types.  simd.c defines VECTOR_BYTES, TARGET (what the compiler may use),
   ISA (its name), and the sizes of what products (MR, TAIL_NV, DOT_SUMS) and a Gram
   matrix (GRAM_NR) keep in registers. */

#define REAL float
#define TYPE_PREFIX s
#define REAL_IS_FLOAT 1
#define INTEGER int32_t
#define EXP_MOST 87.0f
#define ROUNDER 12582912.0f /* 1.5 2^23 */
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440E-4f
#define EXPONENT_BIAS 127
#define MANTISSA_BITS 23
#include "vectors.h"
#include "gram.h"
#include "gemm.h"
#include "diagonals.h"
#include "elementwise.h"
#include "cells.h"
#include "learning.h"
#undef REAL
#undef TYPE_PREFIX
#undef REAL_IS_FLOAT
#undef INTEGER
#undef EXP_MOST
#undef ROUNDER
#undef LN2_HIGH
#undef LN2_LOW
#undef EXPONENT_BIAS
#undef MANTISSA_BITS

#define REAL double
#define TYPE_PREFIX d
#define REAL_IS_FLOAT 0
#define INTEGER int64_t
#define EXP_MOST 708.0
#define ROUNDER 6755399441055744.0 /* 1.5 2^52 */
#define LN2_HIGH 6.93145751953125E-1
#define LN2_LOW 1.42860682030941723212E-6
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52
#include "vectors.h"
#include "gram.h"
#include "gemm.h"
#include "diagonals.h"
#include "elementwise.h"
#include "cells.h"
#include "learning.h"
#undef REAL
#undef TYPE_PREFIX
#undef REAL_IS_FLOAT
#undef INTEGER
#undef EXP_MOST
#undef ROUNDER
#undef LN2_HIGH
#undef LN2_LOW
#undef EXPONENT_BIAS
#undef MANTISSA_BITS

#undef VECTOR_BYTES
#undef TARGET
#undef ISA
#undef GRAM_NR
#undef MR
#undef TAIL_NV
#undef DOT_SUMS
