/* Gram matrices X X^T and x . y, summed in double, for one instruction set and one type.

   GRAM_KC columns of X at a time are widened to double, in all n rows, and stay in L1 or L2 while each row meets
   every other.  GRAM_MR rows meet first one another and then GRAM_NR of the rows after them at a time, with their sums
   in registers. */

#define GRAM_KC OKCORE_GRAM_KC
#define GRAM_LD OKCORE_GRAM_LD
#define GRAM_MR 4

/* Vectors that may start anywhere: of doubles, and of REAL with as many entries */
#define VL_WIDE (VECTOR_BYTES / (ptrdiff_t) sizeof(double))
typedef double NAME(wide) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(double)), may_alias));
typedef REAL NAME(narrow)
    __attribute__((vector_size(VECTOR_BYTES / sizeof(double) * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

INLINE double NAME(total)(NAME(wide) sum)
{
    /* The entries' sum, by halves: one entry after the other would cost as much as the products */
    typedef double pair __attribute__((vector_size(16)));
    pair part[VECTOR_BYTES / 16];
    __builtin_memcpy(part, &sum, VECTOR_BYTES);
    for (int size = VECTOR_BYTES / 32; size > 0; size /= 2)
        for (int i = 0; i < size; i++)
            part[i] += part[i + size];
    return part[0][0] + part[0][1];
}

INLINE void NAME(gram_micro_kernel)(const int mr, const int nr, const int split, const double *x, const double *y,
                                    double *gram, int n)
{
    /* gram[a, b] += x_a . y_b for a < mr, b < nr; if nr is 0, x_a . x_b for a <= b < mr.  mr, nr and split are
       constants where this is inlined.  An entry has `split` running sums: few entries would wait for their additions. */
    const int columns = nr > 0 ? nr : mr;
    NAME(wide) sum[4][GRAM_MR][GRAM_MR];
    for (int s = 0; s < split; s++)
        for (int a = 0; a < mr; a++)
            for (int b = nr > 0 ? 0 : a; b < columns; b++)
                sum[s][a][b] = (NAME(wide)){0};
    for (ptrdiff_t i = 0; i < GRAM_KC; i += split * VL_WIDE)
        for (int s = 0; s < split; s++) {
            NAME(wide) right[GRAM_MR];
            for (int b = 0; b < columns; b++)
                right[b] = *(const NAME(wide) *) (y + b * GRAM_LD + i + s * VL_WIDE);
            for (int a = 0; a < mr; a++) {
                NAME(wide) left = nr > 0 ? *(const NAME(wide) *) (x + a * GRAM_LD + i + s * VL_WIDE) : right[a];
                for (int b = nr > 0 ? 0 : a; b < columns; b++)
                    sum[s][a][b] += left * right[b];
            }
        }
    for (int a = 0; a < mr; a++)
        for (int b = nr > 0 ? 0 : a; b < columns; b++) {
            for (int s = 1; s < split; s++)
                sum[0][a][b] += sum[s][a][b];
            gram[a * n + b] += NAME(total)(sum[0][a][b]);
        }
}

INLINE void NAME(widen)(ptrdiff_t width, const REAL *x, double scale, double *widened)
{
    /* Part of a row as doubles, scaled, and zeros up to GRAM_KC; the next part of the row is prefetched meanwhile */
    const ptrdiff_t line = 64 / (ptrdiff_t) sizeof(REAL);
    ptrdiff_t i = 0;
    for (; i + line <= width; i += line) {
        __builtin_prefetch(x + GRAM_KC + i);
        for (ptrdiff_t j = i; j < i + line; j += VL_WIDE)
            *(NAME(wide) *) (widened + j) = scale * __builtin_convertvector(*(const NAME(narrow) *) (x + j), NAME(wide));
    }
    for (; i < width; i++)
        widened[i] = scale * x[i];
    for (; i < GRAM_KC; i++)
        widened[i] = 0;
}

TARGET static void NAME(gram)(int n, ptrdiff_t columns, const REAL *const *rows, const double *scales, double *widened,
                              double *gram)
{
    for (ptrdiff_t start = 0; start < columns; start += GRAM_KC) {
        ptrdiff_t width = columns - start < GRAM_KC ? columns - start : GRAM_KC;
        int a = 0;
        for (int i = 0; i < n; i++)
            if (scales == NULL) /* a constant 1 costs nothing */
                NAME(widen)(width, rows[i] + start, 1, widened + i * GRAM_LD);
            else
                NAME(widen)(width, rows[i] + start, scales[i], widened + i * GRAM_LD);
        for (; a + GRAM_MR <= n; a += GRAM_MR) {
            const double *x = widened + a * GRAM_LD;
            double *out = gram + (ptrdiff_t) a * n;
            int b = a + GRAM_MR;
            NAME(gram_micro_kernel)(GRAM_MR, 0, 1, x, x, out + a, n);
            for (; n - b >= GRAM_NR && n - b != GRAM_NR + 1; b += GRAM_NR) /* rather two pairs than one left over */
                NAME(gram_micro_kernel)(GRAM_MR, GRAM_NR, 1, x, widened + b * GRAM_LD, out + b, n);
            for (; n - b >= 2; b += 2)
                NAME(gram_micro_kernel)(GRAM_MR, 2, 1, x, widened + b * GRAM_LD, out + b, n);
            if (b < n)
                NAME(gram_micro_kernel)(GRAM_MR, 1, 2, x, widened + b * GRAM_LD, out + b, n);
        }
        const double *x = widened + a * GRAM_LD;
        double *out = gram + (ptrdiff_t) a * n + a;
        if (n - a == 3)
            NAME(gram_micro_kernel)(3, 0, 1, x, x, out, n);
        else if (n - a == 2)
            NAME(gram_micro_kernel)(2, 0, 2, x, x, out, n);
        else if (n - a == 1)
            NAME(gram_micro_kernel)(1, 0, 4, x, x, out, n);
    }
}

TARGET static double NAME(dot_in_double)(ptrdiff_t size, const REAL *x, const REAL *y)
{
    /* Four running sums: a single one would wait for each addition. */
    NAME(wide) sum[4] = {{0}, {0}, {0}, {0}};
    double rest = 0;
    ptrdiff_t i = 0;
    for (; i + 4 * VL_WIDE <= size; i += 4 * VL_WIDE)
        for (int j = 0; j < 4; j++)
            sum[j] += __builtin_convertvector(*(const NAME(narrow) *) (x + i + j * VL_WIDE), NAME(wide))
                      * __builtin_convertvector(*(const NAME(narrow) *) (y + i + j * VL_WIDE), NAME(wide));
    for (; i < size; i++)
        rest += (double) x[i] * y[i];
    return NAME(total)((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}
