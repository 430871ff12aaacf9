/* The public name of every kernel, for one type. */

void PUBLIC(gram)(int n, ptrdiff_t columns, const REAL *X, ptrdiff_t ld, double *panel, double *gram)
{
    DISPATCH(gram, n, columns, X, ld, panel, gram)
}

void PUBLIC(product)(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, REAL alpha, const REAL *E, ptrdiff_t e_row,
                     ptrdiff_t e_column, const REAL *X, ptrdiff_t ldx, REAL beta, REAL *Y, ptrdiff_t ldy)
{
    DISPATCH(product, rows, inner, columns, alpha, E, e_row, e_column, X, ldx, beta, Y, ldy)
}

void PUBLIC(product_transposed)(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, REAL alpha, const REAL *E,
                                ptrdiff_t lde, const REAL *Z, ptrdiff_t ldz, REAL beta, REAL *Y, ptrdiff_t ldy)
{
    DISPATCH(product_transposed, rows, inner, columns, alpha, E, lde, Z, ldz, beta, Y, ldy)
}

void PUBLIC(transpose)(ptrdiff_t rows, ptrdiff_t columns, const REAL *X, REAL *Y)
{
    DISPATCH(transpose, rows, columns, X, Y)
}

void PUBLIC(times_grid)(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const REAL *X, const REAL *grid,
                        ptrdiff_t next_grid, REAL *Y)
{
    DISPATCH(times_grid, rows, k, G, n, X, grid, next_grid, Y)
}

void PUBLIC(grid_times)(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const REAL *grid, const REAL *W, REAL *M)
{
    DISPATCH(grid_times, k, G, n, grid, W, M)
}

#define STEP(name)                                                                                                     \
    static void JOIN(step_, FIRST, name, )(ptrdiff_t lanes, ptrdiff_t n, void *pre, const void *state, void *state_next, \
                                           void *d, void *c)                                                           \
    {                                                                                                                  \
        DISPATCH(name, lanes, n, pre, state, state_next, d, c)                                                         \
    }
EACH_CELL(STEP)
#undef STEP

int PUBLIC(finite)(ptrdiff_t size, const REAL *x)
{
    DISPATCH(finite, size, x)
}
