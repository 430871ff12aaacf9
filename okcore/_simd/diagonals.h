/* Products with grids of diagonals, d (k, G, n) or c (k, k, n), for one instruction set and one type. */

TARGET static void NAME(times_grid)(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const REAL *restrict X,
                                     const REAL *restrict grid, ptrdiff_t next_grid, REAL *restrict Y)
{
    /* Y[s, g, i] = sum_a X[s, a, i] grid[s, a, g, i], the grids of rows `next_grid` apart; 0 shares one */
    for (ptrdiff_t s = 0; s < rows; s++)
        for (ptrdiff_t g = 0; g < G; g++) {
            const REAL *restrict x = X + s * k * n, *restrict diagonal = grid + s * next_grid + g * n;
            REAL *restrict y = Y + (s * G + g) * n;
            if (k == 1)
                for (ptrdiff_t i = 0; i < n; i++)
                    y[i] = x[i] * diagonal[i];
            else {
                for (ptrdiff_t i = 0; i < n; i++)
                    y[i] = x[i] * diagonal[i] + x[n + i] * diagonal[G * n + i];
                for (ptrdiff_t a = 2; a < k; a++)
                    for (ptrdiff_t i = 0; i < n; i++)
                        y[i] += x[a * n + i] * diagonal[a * G * n + i];
            }
        }
}

TARGET static void NAME(grid_times)(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const REAL *restrict grid,
                                     const REAL *restrict W, REAL *restrict M)
{
    /* M[a, i, :] = sum_g grid[a, g, i] W[g, i, :], rows of length n */
    for (ptrdiff_t a = 0; a < k; a++)
        for (ptrdiff_t i = 0; i < n; i++) {
            REAL *restrict row = M + (a * n + i) * n;
            for (ptrdiff_t g = 0; g < G; g++) {
                const REAL scale = grid[(a * G + g) * n + i];
                const REAL *restrict w = W + (g * n + i) * n;
                if (g == 0)
                    for (ptrdiff_t col = 0; col < n; col++)
                        row[col] = scale * w[col];
                else
                    for (ptrdiff_t col = 0; col < n; col++)
                        row[col] += scale * w[col];
            }
        }
}
