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

/* Rules that keep of the influence only what a unit's own rows of theta do to that unit: J (k, G, n, m), one row of m
   entries per state block, gate and unit.  What follows is bound by reading and writing J. */

INLINE void NAME(own_unit_load)(ptrdiff_t count, const REAL *x, ptrdiff_t ld, ptrdiff_t width, NAME(vector) *to)
{
    /* to[i] = the `width` entries at x + i ld, at most VL, and zeros behind them */
    for (ptrdiff_t i = 0; i < count; i++)
        if (width >= VL)
            to[i] = CONST_AT(x + i * ld);
        else {
            to[i] = (NAME(vector)){0};
            memcpy(to + i, x + i * ld, (size_t) width * sizeof(REAL));
        }
}

INLINE void NAME(own_unit_store)(ptrdiff_t count, const NAME(vector) *from, ptrdiff_t width, REAL *x, ptrdiff_t ld)
{
    for (ptrdiff_t i = 0; i < count; i++)
        if (width >= VL)
            AT(x + i * ld) = from[i];
        else
            memcpy(x + i * ld, from + i, (size_t) width * sizeof(REAL));
}

INLINE void NAME(own_unit_columns)(const ptrdiff_t rows, const ptrdiff_t k, const ptrdiff_t q, ptrdiff_t n, ptrdiff_t P,
                                   ptrdiff_t m, const REAL *const *h, const REAL *d, const REAL *u, const REAL *J,
                                   ptrdiff_t width, NAME(vector) *room, NAME(vector) *new, NAME(vector) *spoilt)
{
    /* new[r, a] = sum_b h[r][a, b] J[b, r] + sum_j d[j, a, r] u[j], in `width` columns of `rows` adjacent rows of J.
       Where an entry of new is Inf or NaN, spoilt becomes NaN, because 0 times either is NaN. */
    NAME(vector) *terms = room, *old = room + q;
    NAME(own_unit_load)(q, u, m, width, terms);
    for (ptrdiff_t r = 0; r < rows; r++) {
        NAME(own_unit_load)(k, J + r * m, P * m, width, old);
        for (ptrdiff_t a = 0; a < k; a++) {
            NAME(vector) sum = h[r][a * k * n] * old[0];
            for (ptrdiff_t b = 1; b < k; b++)
                sum += h[r][(a * k + b) * n] * old[b];
            for (ptrdiff_t j = 0; j < q; j++)
                sum += d[(j * k + a) * P + r] * terms[j];
            new[r * k + a] = sum;
            spoilt[r % 2] += sum * (REAL) 0;
        }
    }
}

INLINE void NAME(own_unit_rows)(const ptrdiff_t rows, const ptrdiff_t k, const ptrdiff_t q, ptrdiff_t n, ptrdiff_t P,
                                ptrdiff_t m, const REAL *const *h, const REAL *d, const REAL *u, REAL *J,
                                NAME(vector) *room, NAME(vector) *spoilt)
{
    const ptrdiff_t width = m < VL ? m : VL, end = m - width;
    NAME(vector) *new = room + q + k, *last = new + rows * k;
    /* The last vector of a row overlaps the one before it, so it is made from the old row first and stored last. */
    NAME(own_unit_columns)(rows, k, q, n, P, m, h, d, u + end, J + end, width, room, last, spoilt);
    for (ptrdiff_t col = 0; col < end; col += VL) {
        NAME(own_unit_columns)(rows, k, q, n, P, m, h, d, u + col, J + col, VL, room, new, spoilt);
        for (ptrdiff_t r = 0; r < rows; r++)
            NAME(own_unit_store)(k, new + r * k, VL, J + r * m + col, P * m);
    }
    for (ptrdiff_t r = 0; r < rows; r++)
        NAME(own_unit_store)(k, last + r * k, width, J + r * m + end, P * m);
}

INLINE int NAME(own_unit_pairs)(const ptrdiff_t k, const ptrdiff_t q, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m,
                                const REAL *H, const REAL *d, const REAL *u, REAL *J, NAME(vector) *room)
{
    /* Rows go in pairs, which halves the reading of u.  k and q are constants where this is inlined for speed.  room is
       for q + k + 2 k + 2 k vectors: terms, old, new and last. */
    NAME(vector) spoilt[2] = {{0}, {0}}; /* one per row of a pair, so that they do not wait for each other */
    const ptrdiff_t P = G * n;
    ptrdiff_t p = 0;
    REAL all = 0;
    for (; p + 2 <= P; p += 2) {
        const REAL *h[2] = {H + p % n, H + (p + 1) % n};
        NAME(own_unit_rows)(2, k, q, n, P, m, h, d + p, u, J + p * m, room, spoilt);
    }
    if (p < P) {
        const REAL *h[1] = {H + p % n};
        NAME(own_unit_rows)(1, k, q, n, P, m, h, d + p, u, J + p * m, room, spoilt);
    }
    for (int l = 0; l < VL; l++)
        all += spoilt[0][l] + spoilt[1][l];
    return all == 0;
}

TARGET static int NAME(own_unit_update)(ptrdiff_t k, ptrdiff_t q, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m,
                                        const REAL *restrict H, const REAL *restrict d, const REAL *restrict u,
                                        REAL *restrict J)
{
    /* J[a, g, i, :] <- sum_b H[a, b, i] J[b, g, i, :] + sum_j d[j, a, g, i] u[j, :]; is every new entry finite? */
    NAME(vector) few[12];
    if (k == 1 && q == 1)
        return NAME(own_unit_pairs)(1, 1, G, n, m, H, d, u, J, few);
    if (k == 1 && q == 2)
        return NAME(own_unit_pairs)(1, 2, G, n, m, H, d, u, J, few);
    if (k == 2 && q == 1)
        return NAME(own_unit_pairs)(2, 1, G, n, m, H, d, u, J, few);
    if (k == 2 && q == 2)
        return NAME(own_unit_pairs)(2, 2, G, n, m, H, d, u, J, few);
    NAME(vector) room[5 * k + q]; /* on the stack */
    return NAME(own_unit_pairs)(k, q, G, n, m, H, d, u, J, room);
}

INLINE NAME(vector) NAME(own_unit_sum)(const ptrdiff_t k, const REAL *delta, ptrdiff_t n, const REAL *J, ptrdiff_t next,
                                       ptrdiff_t width, REAL beta, const REAL *gradient)
{
    /* sum_a delta[a] J[a] + beta gradient, of the `width` entries at J + a next and at gradient */
    NAME(vector) entries, sum;
    NAME(own_unit_load)(1, J, 0, width, &entries);
    sum = delta[0] * entries;
    for (ptrdiff_t a = 1; a < k; a++) {
        NAME(own_unit_load)(1, J + a * next, 0, width, &entries);
        sum += delta[a * n] * entries;
    }
    if (beta != 0) {
        NAME(own_unit_load)(1, gradient, 0, width, &entries);
        sum += beta * entries;
    }
    return sum;
}

INLINE void NAME(own_unit_sums)(const ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const REAL *delta,
                                const REAL *J, REAL beta, REAL *gradient)
{
    /* k is a constant where this is inlined for speed */
    const ptrdiff_t P = G * n, width = m < VL ? m : VL, end = m - width;
    for (ptrdiff_t p = 0; p < P; p++, J += m, gradient += m) {
        const REAL *by = delta + p % n;
        NAME(vector) last = NAME(own_unit_sum)(k, by, n, J + end, P * m, width, beta, gradient + end);
        for (ptrdiff_t col = 0; col < end; col += VL)
            AT(gradient + col) = NAME(own_unit_sum)(k, by, n, J + col, P * m, VL, beta, gradient + col);
        NAME(own_unit_store)(1, &last, width, gradient + end, 0);
    }
}

TARGET static void NAME(own_unit_contract)(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m,
                                           const REAL *restrict delta, const REAL *restrict J, REAL beta,
                                           REAL *restrict gradient)
{
    /* gradient[g, i, :] <- sum_a delta[a, i] J[a, g, i, :] + beta gradient[g, i, :] */
    if (k == 1)
        NAME(own_unit_sums)(1, G, n, m, delta, J, beta, gradient);
    else if (k == 2)
        NAME(own_unit_sums)(2, G, n, m, delta, J, beta, gradient);
    else
        NAME(own_unit_sums)(k, G, n, m, delta, J, beta, gradient);
}
