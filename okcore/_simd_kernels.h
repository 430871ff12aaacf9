/* Gram and mixing for one instruction set and one type. */

#define JOIN_(a, b, c) a##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define LOCAL(kernel) JOIN(FIRST, kernel, SUFFIX)
#define INLINE TARGET static inline __attribute__((always_inline))

/* Vectors that may start anywhere: full ones of REAL, full ones of double, and of REAL with as many entries as those */
#define LANES (BYTES / (ptrdiff_t) sizeof(REAL))
#define WIDE (BYTES / (ptrdiff_t) sizeof(double))
typedef REAL LOCAL(full) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef double LOCAL(wide) __attribute__((vector_size(BYTES), aligned(sizeof(double)), may_alias));
typedef REAL LOCAL(narrow)
    __attribute__((vector_size(BYTES / sizeof(double) * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* Columns that stay in a near cache while all rows meet in them */
#define PANEL OKCORE_PANEL
#define STRIDE OKCORE_PANEL_STRIDE

INLINE double LOCAL(total)(LOCAL(wide) sum)
{
    /* The entries' sum, by halves: one entry after the other would cost as much as the products */
    typedef double pair __attribute__((vector_size(16)));
    pair part[BYTES / 16];
    __builtin_memcpy(part, &sum, BYTES);
    for (int size = BYTES / 32; size > 0; size /= 2)
        for (int i = 0; i < size; i++)
            part[i] += part[i + size];
    return part[0][0] + part[0][1];
}

INLINE void LOCAL(gram_tile)(const int rows, const int others, const double *x, const double *y, double *gram, int n)
{
    /* gram[a, b] += x_a . y_b for a < rows, b < others (constants where this is called), the sums in registers */
    LOCAL(wide) sum[4][4];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < others; b++)
            sum[a][b] = (LOCAL(wide)){0};
    for (ptrdiff_t i = 0; i < PANEL; i += WIDE) {
        LOCAL(wide) right[4];
        for (int b = 0; b < others; b++)
            right[b] = *(const LOCAL(wide) *) (y + b * STRIDE + i);
        for (int a = 0; a < rows; a++) {
            LOCAL(wide) left = *(const LOCAL(wide) *) (x + a * STRIDE + i);
            for (int b = 0; b < others; b++)
                sum[a][b] += left * right[b];
        }
    }
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < others; b++)
            gram[a * n + b] += LOCAL(total)(sum[a][b]);
}

INLINE void LOCAL(widen)(ptrdiff_t width, const REAL *x, double *panel)
{
    /* A row's part of a panel as doubles, zeros behind its end; the next panel's part is asked for meanwhile */
    ptrdiff_t i = 0;
    for (; i + WIDE <= width; i += WIDE) {
        __builtin_prefetch(x + PANEL + i);
        *(LOCAL(wide) *) (panel + i) = __builtin_convertvector(*(const LOCAL(narrow) *) (x + i), LOCAL(wide));
    }
    for (; i < width; i++)
        panel[i] = x[i];
    for (; i < PANEL; i++)
        panel[i] = 0;
}

TARGET static void LOCAL(gram)(int n, ptrdiff_t columns, const REAL *X, ptrdiff_t ld, double *panel, double *gram)
{
    for (ptrdiff_t start = 0; start < columns; start += PANEL) {
        ptrdiff_t width = columns - start < PANEL ? columns - start : PANEL;
        int a = 0;
        for (int i = 0; i < n; i++)
            LOCAL(widen)(width, X + i * ld + start, panel + i * STRIDE);
        for (; a + 4 <= n; a += 4) {
            double *row = gram + (ptrdiff_t) a * n;
            int b = a;
            for (; b + GRAM_COLUMNS <= n; b += GRAM_COLUMNS)
                LOCAL(gram_tile)(4, GRAM_COLUMNS, panel + a * STRIDE, panel + b * STRIDE, row + b, n);
            for (; b < n; b++)
                LOCAL(gram_tile)(4, 1, panel + a * STRIDE, panel + b * STRIDE, row + b, n);
        }
        for (; a < n; a++)
            for (int b = a; b < n; b++)
                LOCAL(gram_tile)(1, 1, panel + a * STRIDE, panel + b * STRIDE, gram + (ptrdiff_t) a * n + b, n);
    }
}

INLINE void LOCAL(mix_tile)(const int rows, int n, int r, ptrdiff_t width, const REAL *M, const REAL *X, ptrdiff_t ldx,
                            REAL *Y, ptrdiff_t ldy)
{
    /* `rows` (a constant where this is called) rows of Y, two vectors of columns at a time, the sums in registers */
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        LOCAL(full) sum[MIX_ROWS][2];
        for (int k = 0; k < rows; k++)
            sum[k][0] = sum[k][1] = (LOCAL(full)){0};
        for (int a = 0; a < n; a++) {
            LOCAL(full) x0 = *(const LOCAL(full) *) (X + a * ldx + i);
            LOCAL(full) x1 = *(const LOCAL(full) *) (X + a * ldx + i + LANES);
            for (int k = 0; k < rows; k++) {
                sum[k][0] += M[a * r + k] * x0;
                sum[k][1] += M[a * r + k] * x1;
            }
        }
        for (int k = 0; k < rows; k++) {
            *(LOCAL(full) *) (Y + k * ldy + i) = sum[k][0];
            *(LOCAL(full) *) (Y + k * ldy + i + LANES) = sum[k][1];
        }
    }
    for (; i < width; i++)
        for (int k = 0; k < rows; k++) {
            REAL sum = 0;
            for (int a = 0; a < n; a++)
                sum += M[a * r + k] * X[a * ldx + i];
            Y[k * ldy + i] = sum;
        }
}

TARGET static void LOCAL(mix)(int n, int r, int rank, ptrdiff_t columns, const REAL *M, const REAL *X, ptrdiff_t ldx, REAL *Y,
                              ptrdiff_t ldy)
{
    for (ptrdiff_t start = 0; start < columns; start += PANEL) {
        ptrdiff_t width = columns - start < PANEL ? columns - start : PANEL;
        const REAL *x = X + start;
        REAL *y = Y + start;
        int k = 0;
        for (; k + MIX_ROWS <= rank; k += MIX_ROWS)
            LOCAL(mix_tile)(MIX_ROWS, n, r, width, M + k, x, ldx, y + k * ldy, ldy);
        for (; k + 4 <= rank; k += 4)
            LOCAL(mix_tile)(4, n, r, width, M + k, x, ldx, y + k * ldy, ldy);
        for (; k < rank; k++)
            LOCAL(mix_tile)(1, n, r, width, M + k, x, ldx, y + k * ldy, ldy);
    }
}

#undef JOIN_
#undef JOIN
#undef LOCAL
#undef INLINE
#undef LANES
#undef WIDE
#undef PANEL
#undef STRIDE
