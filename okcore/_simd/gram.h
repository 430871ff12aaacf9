/* Gram matrices for one instruction set and one type. */

/* Vectors that may start anywhere: of doubles, and of REAL with as many entries */
#define WIDE (BYTES / (ptrdiff_t) sizeof(double))
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
