/* The kernels for one instruction set: BYTES a vector, TARGET and SUFFIX, and how many rows a register block has. */

#define REAL float
#define FIRST s
#include "_simd_kernels.h"
#undef REAL
#undef FIRST

#define REAL double
#define FIRST d
#include "_simd_kernels.h"
#undef REAL
#undef FIRST

#undef BYTES
#undef TARGET
#undef SUFFIX
#undef GRAM_COLUMNS
#undef MIX_ROWS
