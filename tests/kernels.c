/* Every C kernel against plain loops in double, with random sizes, on the instruction set in use.  Prints the name of
   that, and what is wrong.  test_c_kernels.py runs it, under an emulator for other processors too. */

#ifndef REAL /* what both types share; below, this file includes itself once for each */

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

static const char *type;
static int compared, failed;

static void check(int holds, const char *kernel, double found, double expected)
{
    compared++;
    if (!holds && failed++ < 20)
        printf("%s (%s): found %.9g, expected %.9g\n", kernel, type, found, expected);
}

static ptrdiff_t below(ptrdiff_t count) /* a random number: Knuth's linear congruential generator, its upper half */
{
    static unsigned long long state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (ptrdiff_t) ((state >> 32) % (unsigned long long) count);
}

static ptrdiff_t any_size(void)
{
    static const int sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 33, 64, 65, 131};
    return sizes[below(sizeof sizes / sizeof *sizes)];
}

static void *held[256];
static int holding;

static void *room(ptrdiff_t size, size_t each) /* zeros, until the round ends */
{
    if (holding == sizeof held / sizeof *held)
        abort();
    return held[holding++] = calloc((size_t) size, each);
}

static double dot(ptrdiff_t size, const double *x, ptrdiff_t inc_x, const double *y, ptrdiff_t inc_y)
{
    double sum = 0;
    for (ptrdiff_t i = 0; i < size; i++)
        sum += x[i * inc_x] * y[i * inc_y];
    return sum;
}

/* The cells' steps once more from the same source, but in double and with libm's functions */
#define REAL double
#define TARGET
#define INLINE static inline
#define NAME(base) plain_##base
#define MAP(name, f)                                                                                                   \
    static void plain_##name(ptrdiff_t n, const double *x, double *y)                                                  \
    {                                                                                                                  \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            y[i] = f;                                                                                                  \
    }
MAP(tanh, tanh(x[i]))
MAP(sigmoid, 1 / (1 + exp(-x[i])))
#include "cells.h"
#undef REAL
typedef void (*step)(ptrdiff_t, ptrdiff_t, double *, const double *, double *, double *, double *);

#define NAME_OF(prefix, base) prefix##base
#define JOIN(prefix, base) NAME_OF(prefix, base)
#define LOCAL(base) JOIN(PREFIX, base)
#define OKCORE(base) JOIN(okcore_, LOCAL(base))
#define RANDOM(size) LOCAL(array_of)(size, 1)

#define REAL float
#define PREFIX s
#define EPSILON FLT_EPSILON
#include "kernels.c"
#undef REAL
#undef PREFIX
#undef EPSILON
#define REAL double
#define PREFIX d
#define EPSILON DBL_EPSILON
#include "kernels.c"

int main(void)
{
    puts(okcore_instructions());
    for (int round = 0; round < 100; round++) {
        type = "float", s_round();
        type = "double", d_round();
        while (holding > 0)
            free(held[--holding]);
    }
    printf("%d comparisons, %d failed\n", compared, failed);
    return failed > 0 || compared == 0;
}

#else

typedef struct { /* numbers in this type, and in double */
    ptrdiff_t size;
    REAL *x;
    double *plain;
} LOCAL(array);

static LOCAL(array) LOCAL(array_of)(ptrdiff_t size, double most)
{
    LOCAL(array) a = {size, room(size, sizeof(REAL)), room(size, sizeof(double))};
    for (ptrdiff_t i = 0; i < size; i++)
        a.plain[i] = a.x[i] = (REAL) (most * ((double) below(1 << 30) / (1 << 29) - 1));
    return a;
}

static void LOCAL(close)(const char *kernel, LOCAL(array) a, ptrdiff_t terms)
{
    /* x to plain, to the rounding of sums of `terms` products of numbers up to 1 */
    double worst = -1;
    ptrdiff_t at = 0;
    for (ptrdiff_t i = 0; i < a.size; i++)
        if (!(fabs(a.x[i] - a.plain[i]) <= worst)) /* larger, or NaN */
            worst = fabs(a.x[at = i] - a.plain[i]);
    check(worst <= 8 * EPSILON * (double) (terms + 8), kernel, a.x[at], a.plain[at]);
}

static void LOCAL(products)(void)
{
    const ptrdiff_t m = any_size(), n = below(4) ? any_size() : 2049, k = below(8) || n > 131 ? any_size() : 300;
    const ptrdiff_t transposed = below(3); /* 1: A, 2: B */
    const ptrdiff_t apart = transposed == 1 && below(2) ? 4200 / k : below(3); /* a large A is packed */
    const ptrdiff_t lda = (transposed == 1 ? m : k) + apart, ldb = (transposed == 2 ? k : n) + below(3);
    const ptrdiff_t rs_a = transposed == 1 ? 1 : lda, cs_a = transposed == 1 ? lda : 1, ldc = n + below(3);
    const ptrdiff_t rs_b = transposed == 2 ? 1 : ldb, cs_b = transposed == 2 ? ldb : 1;
    const REAL alpha = below(2) ? 1 : (REAL) -0.5, beta = (REAL) below(3) / 2;
    LOCAL(array) A = RANDOM((transposed == 1 ? k : m) * lda), B = RANDOM((transposed == 2 ? n : k) * ldb);
    LOCAL(array) C = RANDOM(m * ldc);
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            double *c = C.plain + i * ldc + j;
            *c = alpha * dot(k, A.plain + i * rs_a, cs_a, B.plain + j * cs_b, rs_b) + beta * *c;
            if (beta == 0) /* C is not read */
                C.x[i * ldc + j] = (REAL) NAN;
        }
    if (transposed == 2)
        OKCORE(gemm_nt)(m, n, k, alpha, A.x, lda, B.x, ldb, beta, C.x, ldc);
    else
        OKCORE(gemm)(m, n, k, alpha, A.x, rs_a, cs_a, B.x, ldb, beta, C.x, ldc);
    LOCAL(close)(transposed == 2 ? "gemm_nt" : "gemm", C, k);
}

static void LOCAL(products_in_place)(void)
{
    /* The bits of a product into another place, and nothing beside it */
    const ptrdiff_t m = below(8) ? any_size() : 300, n = any_size(), ldb = n + below(3);
    LOCAL(array) A = RANDOM(m * m), B = RANDOM(m * ldb);
    REAL *C = room(m * ldb, sizeof *C), *packed = room(m * 512 / (ptrdiff_t) sizeof *packed, sizeof *packed);
    memcpy(C, B.x, (size_t) (m * ldb) * sizeof *C);
    OKCORE(gemm)(m, n, m, 1, A.x, m, 1, B.x, ldb, 0, C, ldb);
    OKCORE(gemm_in_place)(m, n, A.x, B.x, ldb, packed);
    check(memcmp(C, B.x, (size_t) (m * ldb) * sizeof *C) == 0, "gemm_in_place", B.x[0], C[0]);
}

static void LOCAL(contractions)(void)
{
    /* The bits of a product of one row, wherever the matrix comes from */
    const ptrdiff_t k = any_size(), n = below(4) ? any_size() : 4096 + any_size(), ldb = n + below(2);
    LOCAL(array) x = RANDOM(k), B = RANDOM(k * ldb), y = RANDOM(n);
    const REAL beta = (REAL) below(2);
    REAL *expected = room(n, sizeof *expected), *found = room(n, sizeof *found);
    memcpy(expected, y.x, (size_t) n * sizeof *expected);
    OKCORE(gemm)(1, n, k, 1, x.x, k, 1, B.x, ldb, beta, expected, n);
    for (int from_memory = 0; from_memory < 2; from_memory++) {
        memcpy(found, y.x, (size_t) n * sizeof *found);
        OKCORE(contract)(from_memory, n, k, x.x, B.x, ldb, beta, found);
        check(memcmp(found, expected, (size_t) n * sizeof *found) == 0, "contract", found[0], expected[0]);
    }
}

static void LOCAL(grams)(void)
{
    const ptrdiff_t n = 1 + below(35), columns = below(2) ? any_size() : 700;
    const double bound = 8 * DBL_EPSILON * (double) (columns + 8);
    double *widened = room(n * OKCORE_GRAM_LD, sizeof *widened), *gram = room(n * n, sizeof *gram);
    const REAL **rows = room(n, sizeof *rows);
    LOCAL(array) X = RANDOM(n * columns), factors = RANDOM(n);
    const double *scales = below(2) ? factors.plain : NULL;
    for (ptrdiff_t i = 0; i < n; i++)
        rows[i] = X.x + i * columns;
    OKCORE(gram)((int) n, columns, rows, scales, widened, gram);
    for (ptrdiff_t i = 0; i < n; i++)
        for (ptrdiff_t j = i; j < n; j++) {
            double expected = dot(columns, X.plain + i * columns, 1, X.plain + j * columns, 1);
            double found = OKCORE(dot_in_double)(columns, rows[i], rows[j]);
            check(fabs(found - expected) <= bound, "dot_in_double", found, expected);
            expected *= scales == NULL ? 1 : scales[i] * scales[j];
            check(fabs(gram[i * n + j] - expected) <= bound, "gram", gram[i * n + j], expected);
        }
}

static void LOCAL(diagonals)(void)
{
    const ptrdiff_t k = 1 + below(3), G = 1 + below(4), n = any_size(), rows = any_size(), P = G * n, S = k * n;
    const ptrdiff_t next_grid = below(2) * k * P;
    const ptrdiff_t ldx_t = rows + below(3);
    LOCAL(array) X = RANDOM(rows * S), Y = RANDOM(rows * P), X_T = RANDOM(S * ldx_t);
    LOCAL(array) grid = RANDOM(rows * k * P), W = RANDOM(P * n), M = RANDOM(S * n);
    OKCORE(times_grid)(rows, k, G, n, X.x, grid.x, next_grid, Y.x);
    OKCORE(grid_times)(k, G, n, grid.x, W.x, M.x);
    OKCORE(transpose)(rows, S, X.x, X_T.x, ldx_t);
    for (ptrdiff_t s = 0; s < rows; s++)
        for (ptrdiff_t p = 0; p < P; p++)
            Y.plain[s * P + p] = dot(k, X.plain + s * S + p % n, n, grid.plain + s * next_grid + p, P);
    for (ptrdiff_t s = 0; s < S; s++)
        for (ptrdiff_t j = 0; j < n; j++)
            M.plain[s * n + j] = dot(G, grid.plain + s / n * P + s % n, n, W.plain + s % n * n + j, n * n);
    for (ptrdiff_t i = 0; i < S * rows; i++)
        X_T.plain[i / rows * ldx_t + i % rows] = X.plain[i % rows * S + i / rows];
    LOCAL(close)("times_grid", Y, k);
    LOCAL(close)("grid_times", M, G);
    LOCAL(close)("transpose", X_T, 0);
}

static void LOCAL(own_units)(void)
{
    const ptrdiff_t k = 1 + below(3), q = 1 + below(3), G = 1 + below(4), n = any_size(), m = any_size(), P = G * n;
    const REAL beta = (REAL) below(2);
    LOCAL(array) H = RANDOM(k * k * n), d = RANDOM(q * k * P), u = RANDOM(q * m), J = RANDOM(k * P * m);
    LOCAL(array) delta = RANDOM(k * n), gradient = RANDOM(P * m);
    OKCORE(own_unit_contract)(k, G, n, m, delta.x, J.x, beta, gradient.x);
    check(OKCORE(own_unit_update)(k, q, G, n, m, H.x, d.x, u.x, J.x), "own_unit_update, finite", 0, 1);
    for (ptrdiff_t p = 0; p < P; p++)
        for (ptrdiff_t j = 0; j < m; j++) {
            double new[3], *own = J.plain + p * m + j, *g = gradient.plain + p * m + j;
            *g = dot(k, delta.plain + p % n, n, own, P * m) + beta * *g;
            for (ptrdiff_t a = 0; a < k; a++)
                new[a] = dot(k, H.plain + a * k * n + p % n, n, own, P * m)
                         + dot(q, d.plain + a * P + p, k * P, u.plain + j, m);
            for (ptrdiff_t a = 0; a < k; a++)
                own[a * P * m] = new[a];
        }
    LOCAL(close)("own_unit_contract", gradient, k);
    LOCAL(close)("own_unit_update", J, k + q);
    J.x[below(J.size)] = (REAL) INFINITY;
    check(!OKCORE(own_unit_update)(k, q, G, n, m, H.x, d.x, u.x, J.x), "own_unit_update, finite", 1, 0);
}

static void LOCAL(cell)(const char *name, ptrdiff_t G, ptrdiff_t k, ptrdiff_t q, step plain)
{
    const ptrdiff_t lanes = 1 + below(3), n = any_size(), units = lanes * n;
    const okcore_pointwise compiled = okcore_cell(name, sizeof(REAL) == sizeof(double), (int[3]){0});
    const ptrdiff_t most = below(4) ? 4 : 300, terms = 4 * most; /* a GRU's d holds pre-activations */
    LOCAL(array) pre = LOCAL(array_of)(units * q * G, (double) most), state = RANDOM(units * k);
    LOCAL(array) state_next = RANDOM(units * k), d = RANDOM(units * q * k * G), c = RANDOM(units * k * k);
    compiled(lanes, n, pre.x, state.x, state_next.x, d.x, c.x);
    plain(lanes, n, pre.plain, state.plain, state_next.plain, d.plain, c.plain);
    LOCAL(close)(name, state_next, 16);
    LOCAL(close)(name, d, terms);
    LOCAL(close)(name, c, 16);
}

static void LOCAL(softmax)(void)
{
    const ptrdiff_t rows = any_size(), columns = any_size();
    LOCAL(array) z = LOCAL(array_of)(rows * columns, 5);
    long long *y = room(rows, sizeof *y);
    double expected = 0, found;
    for (ptrdiff_t i = 0; i < rows; i++) {
        double *row = z.plain + i * columns, sum = 0;
        y[i] = below(columns);
        for (ptrdiff_t j = 0; j < columns; j++)
            sum += exp(row[j]);
        expected += log(sum) - row[y[i]];
        for (ptrdiff_t j = 0; j < columns; j++)
            row[j] = 0.5 * (exp(row[j]) / sum - (j == y[i]));
    }
    found = OKCORE(softmax_credit)(rows, columns, y, 0.5, z.x);
    check(fabs(found - expected) <= 64 * EPSILON * (double) rows, "softmax_credit's loss", found, expected);
    LOCAL(close)("softmax_credit", z, 16);
}

static void LOCAL(adam_and_finite)(void)
{
    const ptrdiff_t size = any_size() * any_size();
    LOCAL(array) g = RANDOM(size), parameter = RANDOM(size), mean = RANDOM(size), square = RANDOM(size);
    for (ptrdiff_t i = 0; i < size; i++) {
        double *m = mean.plain + i, *v = square.plain + i, gradient = g.plain[i];
        square.x[i] = (REAL) fabs(*v);
        *m = 0.9 * *m + 0.1 * gradient, *v = 0.99 * fabs(*v) + 0.01 * gradient * gradient;
        parameter.plain[i] -= 0.1 * *m / (sqrt(1.5 * *v) + 0.01);
    }
    for (int write = 0; write < 2; write++)
        check(OKCORE(adam)(write, size, 0.9, 0.99, 0.01, 0.1, 1.5, g.x, parameter.x, mean.x, square.x) || write,
              "adam, finite", 0, 1);
    LOCAL(close)("adam's parameter", parameter, 16);
    LOCAL(close)("adam's mean", mean, 0);
    LOCAL(close)("adam's square", square, 0);
    g.x[below(size)] = (REAL) (below(2) ? NAN : -INFINITY);
    check(!OKCORE(adam)(0, size, 0.9, 0.99, 0.01, 0.1, 1.5, g.x, parameter.x, mean.x, square.x), "adam, finite", 1, 0);
    check(OKCORE(finite)(size, mean.x) && !OKCORE(finite)(size, g.x), "finite", 1, 0);
    mean.x[below(size)] = -2;
    check(OKCORE(largest_magnitude)(size, mean.x) == 2, "largest_magnitude", OKCORE(largest_magnitude)(size, mean.x), 2);
}

static void LOCAL(_round)(void)
{
    LOCAL(products)(), LOCAL(products_in_place)(), LOCAL(contractions)(), LOCAL(grams)(), LOCAL(diagonals)();
    LOCAL(own_units)(), LOCAL(softmax)(), LOCAL(adam_and_finite)();
#define COMPARE(name, G, k, q) LOCAL(cell)(#name, G, k, q, plain_##name);
    EACH_CELL(COMPARE)
#undef COMPARE
}

#endif
