/* Vectors of one instruction set and one type, which may start anywhere. */

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(bits) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
