/* The public name of every kernel, for one type. */

void PUBLIC(gram)(int n, ptrdiff_t columns, const REAL *const *rows, const double *scales, double *widened,
                  double *gram)
{
    DISPATCH(gram, n, columns, rows, scales, widened, gram)
}

double PUBLIC(dot_in_double)(ptrdiff_t size, const REAL *x, const REAL *y)
{
    DISPATCH(dot_in_double, size, x, y)
}

void PUBLIC(gemm)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t rs_a, ptrdiff_t cs_a,
                  const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    FLUSHED(gemm, m, n, k, alpha, A, rs_a, cs_a, B, ldb, beta, C, ldc)
}

void PUBLIC(gemm_in_place)(ptrdiff_t m, ptrdiff_t n, const REAL *A, REAL *B, ptrdiff_t ldb, REAL *packed)
{
    FLUSHED(gemm_in_place, m, n, A, B, ldb, packed)
}

void PUBLIC(gemm_nt)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t lda, const REAL *B,
                     ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    FLUSHED(gemm_nt, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
}

void PUBLIC(contract)(int from_memory, ptrdiff_t n, ptrdiff_t k, const REAL *x, const REAL *B, ptrdiff_t ldb, REAL beta,
                      REAL *y)
{
    FLUSHED(contract, from_memory, n, k, x, B, ldb, beta, y)
}

void PUBLIC(gradual_gemm)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t rs_a,
                          ptrdiff_t cs_a, const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    DISPATCH(gemm, m, n, k, alpha, A, rs_a, cs_a, B, ldb, beta, C, ldc)
}

void PUBLIC(transpose)(ptrdiff_t rows, ptrdiff_t columns, const REAL *X, REAL *Y, ptrdiff_t ldy)
{
    DISPATCH(transpose, rows, columns, X, Y, ldy)
}

void PUBLIC(times_grid)(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const REAL *X, const REAL *grid,
                        ptrdiff_t next_grid, REAL *Y)
{
    FLUSHED(times_grid, rows, k, G, n, X, grid, next_grid, Y)
}

void PUBLIC(grid_times)(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const REAL *grid, const REAL *W, REAL *M)
{
    FLUSHED(grid_times, k, G, n, grid, W, M)
}

int PUBLIC(own_unit_update)(ptrdiff_t k, ptrdiff_t q, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const REAL *H,
                            const REAL *d, const REAL *u, REAL *J)
{
    FLUSHED(own_unit_update, k, q, G, n, m, H, d, u, J)
}

void PUBLIC(own_unit_contract)(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const REAL *delta, const REAL *J,
                               REAL beta, REAL *gradient)
{
    FLUSHED(own_unit_contract, k, G, n, m, delta, J, beta, gradient)
}

#define STEP(name, G, k, q)                                                                                            \
    static void JOIN(step_, TYPE_PREFIX, name, )(ptrdiff_t lanes, ptrdiff_t n, void *pre, const void *state,           \
                                                 void *state_next, void *d, void *c)                                   \
    {                                                                                                                  \
        DISPATCH(name, lanes, n, pre, state, state_next, d, c)                                                         \
    }
EACH_CELL(STEP)
#undef STEP

double PUBLIC(softmax_credit)(ptrdiff_t rows, ptrdiff_t columns, const long long *y, double scale, REAL *outputs)
{
    DISPATCH(softmax_credit, rows, columns, y, scale, outputs)
}

int PUBLIC(adam)(int write, ptrdiff_t size, double beta1, double beta2, double eps, double rate, double correction,
                 const REAL *gradient, REAL *parameter, REAL *mean, REAL *square)
{
    DISPATCH(adam, write, size, beta1, beta2, eps, rate, correction, gradient, parameter, mean, square)
}

int PUBLIC(finite)(ptrdiff_t size, const REAL *x)
{
    DISPATCH(finite, size, x)
}

REAL PUBLIC(largest_magnitude)(ptrdiff_t size, const REAL *x)
{
    DISPATCH(largest_magnitude, size, x)
}
