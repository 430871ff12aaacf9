/* Products of row-major matrices for one instruction set and one type.

   Y <- alpha E X + beta Y: a block of ROWS rows by STRIP columns of Y stays in registers while a column of E meets a row
   of X.  X is packed, a panel of DEPTH rows by STRIPS strips at a time, strip behind strip, so that any row stride will
   do and a strip stays in the nearest cache; E is read in place, or brought together if it is a transpose.

   Y <- alpha E Z^T + beta Y: vectors along the inner index of both. */

#define STRIP (2 * LANES)
#define STRIPS 4
#define DEPTH 128
#define FEW_ROWS OKCORE_BLOCK_ROWS /* the smaller block; what is left over goes row by row, bound by the reading of X */
#define CHUNK 32 /* rows of a transposed E that are brought together at a time */
#define ABREAST 8
#define ROW_PANEL OKCORE_PANEL_COLUMNS
#define DOT_ROWS (LANES > 8 ? 4 : 2)
#define DOT_COLUMNS (LANES / DOT_ROWS)

#define AT(x) (*(LOCAL(vector) *) (x))
#define CONST_AT(x) (*(const LOCAL(vector) *) (x))

INLINE void LOCAL(tile)(const int rows, ptrdiff_t depth, REAL alpha, const REAL *E, ptrdiff_t e_row, ptrdiff_t e_column,
                        const REAL *X, ptrdiff_t ldx, REAL beta, REAL *Y, ptrdiff_t ldy)
{
    /* Y (rows, STRIP), `rows` a constant where this is called: depth STRIP / LANES multiply-adds of vectors a row */
    LOCAL(vector) sum[ROWS][2];
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = (LOCAL(vector)){0};
    for (ptrdiff_t k = 0; k < depth; k++) {
        LOCAL(vector) x0 = CONST_AT(X + k * ldx), x1 = CONST_AT(X + k * ldx + LANES);
        for (int i = 0; i < rows; i++) {
            REAL e = E[i * e_row + k * e_column];
            sum[i][0] += e * x0;
            sum[i][1] += e * x1;
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 2; j++) {
            REAL *y = Y + i * ldy + j * LANES;
            AT(y) = beta == 0 ? alpha * sum[i][j] : alpha * sum[i][j] + beta * AT(y);
        }
}

INLINE void LOCAL(tiles)(const int rows, ptrdiff_t depth, ptrdiff_t width, REAL alpha, const REAL *E, ptrdiff_t e_row,
                         ptrdiff_t e_column, const REAL *X, ptrdiff_t next_strip, ptrdiff_t ldx, REAL beta, REAL *Y,
                         ptrdiff_t ldy)
{
    /* Y (rows, width) from all strips of a panel; the last strip is zero behind `width` */
    REAL last[ROWS * STRIP] __attribute__((aligned(64)));
    ptrdiff_t c = 0;
    for (; c + STRIP <= width; c += STRIP, X += next_strip)
        LOCAL(tile)(rows, depth, alpha, E, e_row, e_column, X, ldx, beta, Y + c, ldy);
    if (c == width)
        return;
    LOCAL(tile)(rows, depth, alpha, E, e_row, e_column, X, ldx, 0, last, STRIP);
    for (int i = 0; i < rows; i++) {
        REAL *from = last + i * STRIP, *y = Y + i * ldy + c;
        ptrdiff_t j = 0;
        if (beta != 0) {
            for (; j + LANES <= width - c; j += LANES)
                AT(from + j) += beta * AT(y + j);
            for (; j < width - c; j++)
                from[j] += beta * y[j];
        }
        memcpy(y, from, (size_t) (width - c) * sizeof(REAL));
    }
}

INLINE void LOCAL(pack)(ptrdiff_t depth, ptrdiff_t width, const REAL *X, ptrdiff_t ldx, REAL *strips)
{
    /* X (depth, width) into strips of (depth, STRIP) */
    for (ptrdiff_t k = 0; k < depth; k++) {
        const REAL *from = X + k * ldx;
        REAL *to = strips + k * STRIP;
        ptrdiff_t c = 0;
        for (; c + STRIP <= width; c += STRIP, to += depth * STRIP) {
            AT(to) = CONST_AT(from + c);
            AT(to + LANES) = CONST_AT(from + c + LANES);
        }
        if (c < width)
            for (ptrdiff_t i = 0; i < STRIP; i++)
                to[i] = c + i < width ? from[c + i] : 0;
    }
}

INLINE void LOCAL(add_rows)(const int rows, ptrdiff_t width, REAL alpha, const REAL *e, ptrdiff_t e_column, const REAL *X,
                            ptrdiff_t ldx, REAL *y)
{
    /* y (width,) += alpha e X, X (rows, width) */
    REAL a[ABREAST];
    ptrdiff_t i = 0;
    for (int j = 0; j < rows; j++)
        a[j] = alpha * e[j * e_column];
    for (; i + LANES <= width; i += LANES) {
        LOCAL(vector) sum = a[0] * CONST_AT(X + i);
        for (int j = 1; j < rows; j++)
            sum += a[j] * CONST_AT(X + j * ldx + i);
        AT(y + i) += sum;
    }
    for (; i < width; i++)
        for (int j = 0; j < rows; j++)
            y[i] += a[j] * X[j * ldx + i];
}

TARGET static void LOCAL(row)(ptrdiff_t inner, ptrdiff_t columns, REAL alpha, const REAL *e, ptrdiff_t e_column,
                              const REAL *X, ptrdiff_t ldx, REAL beta, REAL *y)
{
    /* y (columns,) <- alpha e X + beta y, bound by the reading of X: several rows abreast keep more of memory's channels
       busy than one, and a panel of y stays in the nearest cache */
    for (ptrdiff_t start = 0; start < columns; start += ROW_PANEL) {
        ptrdiff_t width = columns - start < ROW_PANEL ? columns - start : ROW_PANEL, k = 0;
        const REAL *x = X + start;
        REAL *out = y + start;
        if (beta == 0)
            memset(out, 0, (size_t) width * sizeof(REAL));
        else if (beta != 1)
            for (ptrdiff_t i = 0; i < width; i++)
                out[i] *= beta;
        for (; k + ABREAST <= inner; k += ABREAST)
            LOCAL(add_rows)(ABREAST, width, alpha, e + k * e_column, e_column, x + k * ldx, ldx, out);
        for (; k < inner; k++)
            LOCAL(add_rows)(1, width, alpha, e + k * e_column, e_column, x + k * ldx, ldx, out);
    }
}

INLINE void LOCAL(bring_together)(ptrdiff_t rows, ptrdiff_t depth, const REAL *E, ptrdiff_t e_column, REAL *together)
{
    /* Columns of E (rows, depth) lie far apart where E is a transpose: blocks of ROWS, then of FEW_ROWS rows one behind the
       other, each (depth, its rows).  A column's part fills whole cache lines, so each is fetched once. */
    ptrdiff_t whole = rows / ROWS * ROWS;
    for (ptrdiff_t k = 0; k < depth; k++) {
        const REAL *from = E + k * e_column;
        for (ptrdiff_t i = 0; i < whole; i += ROWS)
            for (int j = 0; j < ROWS; j++)
                together[i * depth + k * ROWS + j] = from[i + j];
        for (ptrdiff_t i = whole; i < rows; i += FEW_ROWS)
            for (int j = 0; j < FEW_ROWS; j++)
                together[i * depth + k * FEW_ROWS + j] = from[i + j];
    }
}

/* Not inlined, and 80 to 96 KiB of stack: a product of few rows takes none, and threads may have as little as 128. */
TARGET static __attribute__((noinline)) void LOCAL(product_by_blocks)(ptrdiff_t blocks, ptrdiff_t inner, ptrdiff_t columns, REAL alpha, const REAL *E,
                                  ptrdiff_t e_row, ptrdiff_t e_column, const REAL *X, ptrdiff_t ldx, REAL beta, REAL *Y,
                                  ptrdiff_t ldy)
{
    REAL panel[DEPTH * STRIPS * STRIP] __attribute__((aligned(64))), together[CHUNK * DEPTH] __attribute__((aligned(64)));
    /* One or two blocks of rows read a small X where it lies: packing would cost as much as it saves. */
    int in_place = blocks <= 2 * ROWS && columns % STRIP == 0 && columns <= ROW_PANEL;
    ptrdiff_t parts = inner > DEPTH ? (inner + DEPTH - 1) / DEPTH : 1, most = (inner + parts - 1) / parts; /* even parts */
    for (ptrdiff_t part = 0; part < parts; part++) {
        ptrdiff_t k = part * most, depth = inner - k < most ? inner - k : most;
        REAL keep = part == 0 ? beta : 1;
        for (ptrdiff_t start = 0; start < columns; start += STRIPS * STRIP) {
            ptrdiff_t width = columns - start < STRIPS * STRIP ? columns - start : STRIPS * STRIP;
            const REAL *x = X + k * ldx + start;
            ptrdiff_t next_strip = STRIP, step = ldx;
            if (!in_place) {
                LOCAL(pack)(depth, width, x, ldx, panel);
                x = panel;
                next_strip = depth * STRIP;
                step = STRIP;
            }
            for (ptrdiff_t first = 0; first < blocks; first += CHUNK) {
                ptrdiff_t count = blocks - first < CHUNK ? blocks - first : CHUNK, i = 0;
                const REAL *e = E + first * e_row + k * e_column;
                REAL *y = Y + first * ldy + start;
                if (e_row == 1) {
                    LOCAL(bring_together)(count, depth, e, e_column, together);
                    for (; i + ROWS <= count; i += ROWS)
                        LOCAL(tiles)(ROWS, depth, width, alpha, together + i * depth, 1, ROWS, x, next_strip, step, keep,
                                     y + i * ldy, ldy);
                    for (; i < count; i += FEW_ROWS)
                        LOCAL(tiles)(FEW_ROWS, depth, width, alpha, together + i * depth, 1, FEW_ROWS, x, next_strip, step,
                                     keep, y + i * ldy, ldy);
                } else {
                    for (; i + ROWS <= count; i += ROWS)
                        LOCAL(tiles)(ROWS, depth, width, alpha, e + i * e_row, e_row, e_column, x, next_strip, step, keep,
                                     y + i * ldy, ldy);
                    for (; i < count; i += FEW_ROWS)
                        LOCAL(tiles)(FEW_ROWS, depth, width, alpha, e + i * e_row, e_row, e_column, x, next_strip, step,
                                     keep, y + i * ldy, ldy);
                }
            }
        }
    }
}

TARGET static void LOCAL(product)(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, REAL alpha, const REAL *E,
                                  ptrdiff_t e_row, ptrdiff_t e_column, const REAL *X, ptrdiff_t ldx, REAL beta, REAL *Y,
                                  ptrdiff_t ldy)
{
    ptrdiff_t blocks = rows / FEW_ROWS * FEW_ROWS;
    if (blocks > 0)
        LOCAL(product_by_blocks)(blocks, inner, columns, alpha, E, e_row, e_column, X, ldx, beta, Y, ldy);
    for (ptrdiff_t i = blocks; i < rows; i++)
        LOCAL(row)(inner, columns, alpha, E + i * e_row, e_column, X, ldx, beta, Y + i * ldy);
}

#if defined(__clang__)
INLINE LOCAL(vector) LOCAL(shuffle)(LOCAL(vector) a, LOCAL(vector) b, LOCAL(bits) from)
{
    LOCAL(vector) result;
    for (int l = 0; l < LANES; l++)
        result[l] = from[l] < LANES ? a[from[l]] : b[from[l] - LANES];
    return result;
}
#define SHUFFLE LOCAL(shuffle)
#else
#define SHUFFLE __builtin_shuffle
#endif

/* Sums over the entries of LANES vectors, all in sum[0] in the end, half as many vectors in each round: lane l of sum[i]
   becomes its own value and that of lane l ^ h, of sum[i + h] where l & h, else of sum[i]. */
#define OWN(l, h) ((l) & (h) ? (l) + LANES : (l))
#define OTHER(l, h) (((l) ^ (h)) + ((l) & (h) ? LANES : 0))
#define EACH(f, h) {f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h), f(8, h), f(9, h), f(10, h),  \
                    f(11, h), f(12, h), f(13, h), f(14, h), f(15, h)}
#define MERGE(h)                                                                                                       \
    if (LANES > h) {                                                                                                   \
        static const INTEGER own[16] = EACH(OWN, h), other[16] = EACH(OTHER, h);                                       \
        for (int i = 0; i < h; i++)                                                                                    \
            sum[i] = SHUFFLE(sum[i], sum[i + h], *(const LOCAL(bits) *) own)                                          \
                     + SHUFFLE(sum[i], sum[i + h], *(const LOCAL(bits) *) other);                                     \
    }

INLINE void LOCAL(dot_tile)(const int rows, const int columns, ptrdiff_t inner, REAL alpha, const REAL *E, ptrdiff_t lde,
                            const REAL *Z, ptrdiff_t ldz, REAL beta, REAL *Y, ptrdiff_t ldy)
{
    /* Y[i, j] = E_i . Z_j for rows columns = LANES of them (constants where this is called) */
    static const INTEGER behind[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    LOCAL(vector) sum[16], e[16];
    ptrdiff_t k = 0, rest = inner % LANES;
    for (int i = 0; i < LANES; i++)
        sum[i] = (LOCAL(vector)){0};
    for (; k + LANES <= inner; k += LANES) {
        for (int i = 0; i < rows; i++)
            e[i] = CONST_AT(E + i * lde + k);
        for (int j = 0; j < columns; j++)
            for (int i = 0; i < rows; i++)
                sum[i * columns + j] += e[i] * CONST_AT(Z + j * ldz + k);
    }
    if (rest > 0 && k > 0) {
        /* The last vector overlaps the one before; what has been counted is masked. */
        LOCAL(bits) mask = *(const LOCAL(bits) *) (behind + 16 - LANES + rest);
        for (int i = 0; i < rows; i++)
            e[i] = (LOCAL(vector)) ((LOCAL(bits)) CONST_AT(E + i * lde + inner - LANES) & mask);
        for (int j = 0; j < columns; j++)
            for (int i = 0; i < rows; i++)
                sum[i * columns + j] += e[i] * CONST_AT(Z + j * ldz + inner - LANES);
    }
    MERGE(8) MERGE(4) MERGE(2) MERGE(1)
    if (k == 0)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) {
                REAL few = 0;
                for (ptrdiff_t t = 0; t < inner; t++)
                    few += E[i * lde + t] * Z[j * ldz + t];
                sum[0][i * columns + j] = few;
            }
    sum[0] *= alpha;
    for (int i = 0; i < rows; i++) {
        REAL out[16];
        AT(out) = sum[0];
        if (beta != 0)
            for (int j = 0; j < columns; j++)
                out[i * columns + j] += beta * Y[i * ldy + j];
        __builtin_memcpy(Y + i * ldy, out + i * columns, (size_t) columns * sizeof(REAL));
    }
}

INLINE void LOCAL(dot_one)(ptrdiff_t inner, REAL alpha, const REAL *e, const REAL *z, REAL beta, REAL *y)
{
    REAL sum = 0;
    for (ptrdiff_t k = 0; k < inner; k++)
        sum += e[k] * z[k];
    *y = beta == 0 ? alpha * sum : alpha * sum + beta * *y;
}

TARGET static void LOCAL(product_transposed)(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, REAL alpha, const REAL *E,
                                             ptrdiff_t lde, const REAL *Z, ptrdiff_t ldz, REAL beta, REAL *Y, ptrdiff_t ldy)
{
    ptrdiff_t i = 0, j = 0;
    for (; i + DOT_ROWS <= rows; i += DOT_ROWS) {
        for (j = 0; j + DOT_COLUMNS <= columns; j += DOT_COLUMNS)
            LOCAL(dot_tile)(DOT_ROWS, DOT_COLUMNS, inner, alpha, E + i * lde, lde, Z + j * ldz, ldz, beta, Y + i * ldy + j,
                            ldy);
        for (; j < columns; j++)
            for (ptrdiff_t a = i; a < i + DOT_ROWS; a++)
                LOCAL(dot_one)(inner, alpha, E + a * lde, Z + j * ldz, beta, Y + a * ldy + j);
    }
    for (; i < rows; i++) {
        for (j = 0; j + LANES <= columns; j += LANES)
            LOCAL(dot_tile)(1, LANES, inner, alpha, E + i * lde, lde, Z + j * ldz, ldz, beta, Y + i * ldy + j, ldy);
        for (; j < columns; j++)
            LOCAL(dot_one)(inner, alpha, E + i * lde, Z + j * ldz, beta, Y + i * ldy + j);
    }
}

#define SWAP(h)                                                                                                        \
    if (LANES > h) {                                                                                                   \
        static const INTEGER first[16] = EACH(FIRST_OF, h), second[16] = EACH(SECOND_OF, h);                           \
        for (int i = 0; i < LANES; i++)                                                                                \
            if ((i & h) == 0) {                                                                                        \
                LOCAL(vector) a = row[i], b = row[i | h];                                                               \
                row[i] = SHUFFLE(a, b, *(const LOCAL(bits) *) first);                                                 \
                row[i | h] = SHUFFLE(a, b, *(const LOCAL(bits) *) second);                                            \
            }                                                                                                          \
    }
/* Off the diagonal of h by h blocks, two vectors change places. */
#define FIRST_OF(l, h) ((l) & (h) ? ((l) ^ (h)) + LANES : (l))
#define SECOND_OF(l, h) ((l) & (h) ? (l) + LANES : (l) ^ (h))

TARGET static void LOCAL(transpose)(ptrdiff_t rows, ptrdiff_t columns, const REAL *X, REAL *Y)
{
    /* Y (columns, rows) = X^T, LANES by LANES entries at a time in registers */
    for (ptrdiff_t j = 0; j < columns; j += LANES)
        for (ptrdiff_t i = 0; i < rows; i += LANES) {
            if (i + LANES > rows || j + LANES > columns) {
                for (ptrdiff_t a = i; a < rows && a < i + LANES; a++)
                    for (ptrdiff_t b = j; b < columns && b < j + LANES; b++)
                        Y[b * rows + a] = X[a * columns + b];
                continue;
            }
            LOCAL(vector) row[16];
            for (int a = 0; a < LANES; a++)
                row[a] = CONST_AT(X + (i + a) * columns + j);
            SWAP(8) SWAP(4) SWAP(2) SWAP(1)
            for (int a = 0; a < LANES; a++)
                AT(Y + (j + a) * rows + i) = row[a];
        }
}
