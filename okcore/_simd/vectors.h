/* Vectors of one instruction set and one type, which may start anywhere. */

typedef REAL LOCAL(vector) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER LOCAL(bits) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
