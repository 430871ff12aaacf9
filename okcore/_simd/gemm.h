/* Products of row-major matrices for one instruction set and one type:

     gemm      C (m, n) <- alpha A (m, k) B (k, n) + beta C, A with any row and column stride (rs_a, cs_a)
     gemm_nt   C (m, n) <- alpha A (m, k) B^T + beta C, B (n, k)

   and two special cases of gemm: gemm_in_place, and contract, one row of A.

   What they are for:

     few rows        m is often the number of lanes, 1 to 16.  BLAS usually packs its operands first, which can cost as
                     much as a product of so few rows.  Here A, and B where it is small, are read where they lie.
     mixing          (r, N) (N, S P): an inner dimension of a few dozen, and rows as long as a whole Kronecker factor.
     same bits       An entry of C has the same bits however rows (at multiples of OKCORE_MR_TAIL) and columns (at
                     multiples of OKCORE_SPLIT_COLUMNS) are split over threads.  BLAS does not promise that.
     no allocation   Packed copies lie on the caller's stack.

   The loops of gemm, in the words of BLIS (Van Zee and van de Geijn 2015), and the bytes of floats at AVX2, AVX-512:

     for pc in 0..k by kc                    ......... A, B and C themselves; C is updated per pass    L3 or memory
      |  for jc in 0..n by nc                pack_b    B panel (kc, nc)                         L2    64 KiB,  64 KiB
      |   |  for ic in 0..m by MC            pack_a    A block (MC, kc), if A is a transpose    L2    12 KiB,  12 KiB
      |   |   |
      |   |   |  for ir in 0..MC by MR       ......... A micro-panel (MR, kc)                   L1     6 KiB,   8 KiB
      |   |   |   |  for jr in 0..nc by NR   ......... B micro-panel (kc, NR), streamed         L2    16 KiB,  32 KiB
      |   |   |   |   |
      |   |   |   |   |  for p in 0..kc      ......... C micro-tile (MR, NR)             registers  12 of 16, 16 of 32
      |   |   |   |   |      C += a column of A times a row of B: 2 loads of B, MR broadcasts of A, 2 MR multiply-adds
      |   |   |   |   +----- micro_kernel
      |   |   |   +--------- jr_loop, macro_kernel
      +---+---+------------- gemm_by_blocks

     baseline (VL = 4): MR = 4, NR = 8     AVX2 (VL = 8): MR = 6, NR = 16     AVX-512 (VL = 16): MR = 8, NR = 32
     NEON (VL = 4): MR = 8, NR = 8, 16 of 32 registers
     MC = 24, and kc is at most DEEP = 256, or KC = 128 where A is packed.  A packed B has panels of nc = KC NC / kc
     columns, so of 64 KiB: the deeper they are, the fewer times C is updated, the wider, the fewer times A is packed.
     Otherwise nc = NC = 128.  A vector of doubles has half the entries, and NC is half, so that only the bytes of A
     double.

   Where this departs from the five loops of BLIS, and why:

     A panel of B is small, not thousands of columns at any depth: it has to fit on a stack.  Nothing is packed for L3.
     pc is the outermost loop, not jc: a pass reads kc columns of A n / nc times, and those stay in L2 (512 KiB of
       floats if m = 512).
     ir is outside jr: where a panel of B is so small, it is A's micro-panel that is worth keeping in L1.  Those of B
       come from L2, two vectors per 2 MR multiply-adds.
     A is packed only if it is a transpose (rs_a == 1), whose rows are not contiguous.  Otherwise each of MR rows is
       read along its length, which needs no copy.
     What fits in L1 is not packed; nor is B, up to IN_PLACE_N columns, if A has at most IN_PLACE_M rows.
     Rows beyond a multiple of MR go through a micro-kernel of MR_TAIL rows, TAIL_NV vectors wide where the columns of B
       are side by side, which takes fewer loads per multiply-add.  Those beyond a multiple of MR_TAIL, at
       most three, go through gemv one by one: reading B takes longer there than the arithmetic.
     Columns beyond a multiple of NR go through a micro-kernel one vector wide.
     There is one thread per product, and callers split C.  The terms of an entry of C are added in the same order
       whichever micro-kernel it is in, so its bits do not depend on the split.

   gemm_nt has vectors along the inner dimension of both operands, hence a sum of VL entries for each entry of C.
   A dot_micro_kernel makes DOT_SUMS entries of C at once, VL or a multiple, and adds up each VL of these vectors in
   log2 VL rounds of shuffles, each of which halves their number.  With VL = 4, vectors a, b, c, d and indices for their
   entries:

                   own entry           +    entry l ^ h                      what is now in the vector
     MERGE(2)  a = [a0  a1  c2  c3]    +   [a2  a3  c0  c1]              =  [a02  a13  c02  c13]
               b = [b0  b1  d2  d3]    +   [b2  b3  d0  d1]              =  [b02  b13  d02  d13]
     MERGE(1)  a = [a02 b13 c02 d13]   +   [a13 b02 c13 d02]             =  [a0123  b0123  c0123  d0123]

   so that entry l of the last vector is the sum of the l-th vector. */

#define NR (2 * VL)
#define KC 128
#define DEEP (2 * KC)
#define NC (512 / (ptrdiff_t) sizeof(REAL))
#define MC 24 /* a multiple of every MR, and of MR_TAIL */
#define MR_TAIL OKCORE_MR_TAIL
#define SMALL (16384 / (ptrdiff_t) sizeof(REAL)) /* entries of half of L1 */
#define IN_PLACE_M 16 /* rows of A and columns of B up to which B may stay where it lies */
#define IN_PLACE_N 2048
/* The first rows of mc, a multiple of MR_TAIL, that micro-kernels of MR rows take; they leave a multiple of MR_TAIL. */
#define WHOLE(mc) ((mc) / MR * MR - ((mc) % MR % MR_TAIL ? MR : 0))
#define AXPY_ROWS 8 /* rows of B that gemv adds in one pass */
#define AHEAD 16384 /* bytes */
#define LINE (64 / (ptrdiff_t) sizeof(REAL)) /* entries of a cache line */
#define DOT_MR (DOT_SUMS > 8 ? 4 : 2)
#define DOT_NR (DOT_SUMS / DOT_MR)

#define AT(x) (*(NAME(vector) *) (x))
#define CONST_AT(x) (*(const NAME(vector) *) (x))

INLINE void NAME(micro_kernel)(const int mr, const int nv, ptrdiff_t kc, REAL alpha, const REAL *A, ptrdiff_t rs_a,
                               ptrdiff_t cs_a, const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    /* C (mr, nv VL) <- alpha A B + beta C.  mr and nv are constants where this is inlined, and so the loops over them
       can be unrolled: only then does the compiler keep the sums in registers. */
    NAME(vector) sum[MR][4], b[4];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++)
            sum[i][j] = (NAME(vector)){0};
        if (beta != 0) {
            __builtin_prefetch(C + i * ldc);
            __builtin_prefetch(C + i * ldc + nv * VL - 1);
        }
    }
    for (ptrdiff_t p = 0; p < kc; p++) {
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++)
            b[j] = CONST_AT(B + p * ldb + j * VL);
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) {
            REAL a = A[i * rs_a + p * cs_a];
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++)
                sum[i][j] += a * b[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) {
            REAL *c = C + i * ldc + j * VL;
            AT(c) = beta == 0 ? alpha * sum[i][j] : alpha * sum[i][j] + beta * AT(c);
        }
}

/* Functions of their own, because the registers would not suffice if they were inlined into the loops around them */
typedef void (*NAME(kernel))(ptrdiff_t kc, REAL alpha, const REAL *A, ptrdiff_t rs_a, ptrdiff_t cs_a, const REAL *B,
                             ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc);
#define MICRO_KERNEL(name, mr, nv)                                                                                     \
    TARGET static __attribute__((noinline)) void NAME(name)(ptrdiff_t kc, REAL alpha, const REAL *A, ptrdiff_t rs_a,   \
                                                            ptrdiff_t cs_a, const REAL *B, ptrdiff_t ldb, REAL beta,   \
                                                            REAL *C, ptrdiff_t ldc)                                    \
    {                                                                                                                  \
        if (rs_a == 1 && cs_a == mr) /* packed */                                                                      \
            NAME(micro_kernel)(mr, nv, kc, alpha, A, 1, mr, B, ldb, beta, C, ldc);                                     \
        else                                                                                                           \
            NAME(micro_kernel)(mr, nv, kc, alpha, A, rs_a, cs_a, B, ldb, beta, C, ldc);                                \
    }
MICRO_KERNEL(mr_by_2, MR, 2)
MICRO_KERNEL(mr_by_1, MR, 1)
MICRO_KERNEL(mr_tail_wide, MR_TAIL, TAIL_NV)
MICRO_KERNEL(mr_tail_by_2, MR_TAIL, 2)
MICRO_KERNEL(mr_tail_by_1, MR_TAIL, 1)

TARGET static void NAME(jr_loop)(int mr, ptrdiff_t nc, ptrdiff_t kc, REAL alpha, const REAL *A, ptrdiff_t rs_a,
                                 ptrdiff_t cs_a, const REAL *B, ptrdiff_t ps_b, ptrdiff_t ldb, REAL beta, REAL *C,
                                 ptrdiff_t ldc)
{
    /* C (mr, nc) <- alpha A B + beta C.  Micro-panels of B are ps_b entries apart.  Whole vectors of the last can be
       read; columns from nc on are dropped. */
    NAME(kernel) by_2 = mr == MR ? NAME(mr_by_2) : NAME(mr_tail_by_2);
    NAME(kernel) by_1 = mr == MR ? NAME(mr_by_1) : NAME(mr_tail_by_1);
    REAL edge[MR * VL] __attribute__((aligned(64)));
    ptrdiff_t jr = 0;
    if (mr != MR && ps_b == NR) /* columns of B side by side, not in micro-panels */
        for (; jr + TAIL_NV * VL <= nc; jr += TAIL_NV * VL, B += TAIL_NV * VL)
            NAME(mr_tail_wide)(kc, alpha, A, rs_a, cs_a, B, ldb, beta, C + jr, ldc);
    for (; jr + NR <= nc; jr += NR, B += ps_b)
        by_2(kc, alpha, A, rs_a, cs_a, B, ldb, beta, C + jr, ldc);
    if (jr + VL <= nc) {
        by_1(kc, alpha, A, rs_a, cs_a, B, ldb, beta, C + jr, ldc);
        jr += VL, B += VL;
    }
    if (jr == nc)
        return;
    if (beta != 0)
        for (int i = 0; i < mr; i++)
            memcpy(edge + i * VL, C + i * ldc + jr, (size_t) (nc - jr) * sizeof(REAL));
    by_1(kc, alpha, A, rs_a, cs_a, B, ldb, beta, edge, VL);
    for (int i = 0; i < mr; i++)
        memcpy(C + i * ldc + jr, edge + i * VL, (size_t) (nc - jr) * sizeof(REAL));
}

TARGET static void NAME(macro_kernel)(int a_packed, ptrdiff_t mc, ptrdiff_t nc, ptrdiff_t kc, REAL alpha, const REAL *A,
                                      ptrdiff_t rs_a, ptrdiff_t cs_a, const REAL *B, ptrdiff_t ps_b, ptrdiff_t ldb,
                                      REAL beta, REAL *C, ptrdiff_t ldc)
{
    /* C (mc, nc) <- alpha A B + beta C.  A packed A has its micro-panels one behind the other. */
    for (ptrdiff_t ir = 0, whole = WHOLE(mc), mr; ir < mc; ir += mr) {
        mr = ir < whole ? MR : MR_TAIL;
        NAME(jr_loop)((int) mr, nc, kc, alpha, A + ir * (a_packed ? kc : rs_a), a_packed ? 1 : rs_a,
                      a_packed ? mr : cs_a, B, ps_b, ldb, beta, C + ir * ldc, ldc);
    }
}

INLINE void NAME(pack_a)(ptrdiff_t mc, ptrdiff_t kc, const REAL *A, ptrdiff_t cs_a, REAL *packed)
{
    /* A (mc, kc), whose rows are 1 apart, into micro-panels of MR and then of MR_TAIL rows, column behind column.  Here
       columns are far apart, so that the processor does not see which lines the next block will need. */
    ptrdiff_t whole = WHOLE(mc);
    for (ptrdiff_t p = 0; p < kc; p++) {
        const REAL *from = A + p * cs_a;
        for (ptrdiff_t i = MC; i < 2 * MC; i += 64 / (ptrdiff_t) sizeof(REAL))
            __builtin_prefetch(from + i, 0, 2);
        for (ptrdiff_t i = 0; i < whole; i += MR)
            memcpy(packed + i * kc + p * MR, from + i, MR * sizeof(REAL));
        for (ptrdiff_t i = whole; i < mc; i += MR_TAIL)
            memcpy(packed + i * kc + p * MR_TAIL, from + i, MR_TAIL * sizeof(REAL));
    }
}

INLINE void NAME(pack_b)(ptrdiff_t kc, ptrdiff_t nc, const REAL *B, ptrdiff_t ldb, REAL *packed)
{
    /* B (kc, nc) into micro-panels (kc, NR), row behind row; the last is filled up with zeros */
    for (ptrdiff_t p = 0; p < kc; p++) {
        const REAL *from = B + p * ldb;
        REAL *to = packed + p * NR;
        ptrdiff_t j = 0;
        for (; j + NR <= nc; j += NR, to += kc * NR) {
            AT(to) = CONST_AT(from + j);
            AT(to + VL) = CONST_AT(from + j + VL);
        }
        if (j < nc)
            for (ptrdiff_t i = 0; i < NR; i++)
                to[i] = j + i < nc ? from[j + i] : 0;
    }
}

TARGET static __attribute__((noinline)) void
NAME(gemm_by_blocks)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t rs_a, ptrdiff_t cs_a,
                     const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    /* m is a multiple of MR_TAIL.  Not inlined, because the packed copies take 76 KiB (float) or 88 KiB (double) of
       stack: a thread may have as little as 128 KiB, and products of fewer than MR_TAIL rows need none of it. */
    REAL packed_a[MC * KC] __attribute__((aligned(64))), packed_b[KC * NC] __attribute__((aligned(64)));
    /* What fits in L1 is read where it lies.  So is a B that meets few micro-panels of A: packing it would cost as much
       as it saves. */
    int a_packed = rs_a == 1 && k * cs_a > SMALL;
    int b_in_place = n % VL == 0 && (k * ldb <= SMALL || (m <= IN_PLACE_M && n <= IN_PLACE_N));
    /* Passes of nearly equal length; one even if k = 0, which scales C. */
    ptrdiff_t deepest = a_packed ? KC : DEEP, passes = (k + deepest - 1) / deepest;
    ptrdiff_t most = passes > 1 ? (k + passes - 1) / passes : k > 0 ? k : 1;
    ptrdiff_t width = b_in_place ? NC : KC * NC / most / NR * NR; /* of panels of B that fill packed_b */
    for (ptrdiff_t pc = 0; pc == 0 || pc < k; pc += most) {
        ptrdiff_t kc = k - pc < most ? k - pc : most;
        REAL keep = pc == 0 ? beta : 1;
        for (ptrdiff_t jc = 0; jc < n; jc += width) {
            ptrdiff_t nc = n - jc < width ? n - jc : width;
            const REAL *b = B + pc * ldb + jc;
            if (!b_in_place)
                NAME(pack_b)(kc, nc, b, ldb, packed_b);
            for (ptrdiff_t ic = 0; ic < m; ic += MC) {
                ptrdiff_t mc = m - ic < MC ? m - ic : MC;
                const REAL *a = A + ic * rs_a + pc * cs_a;
                if (a_packed)
                    NAME(pack_a)(mc, kc, a, cs_a, packed_a);
                NAME(macro_kernel)(a_packed, mc, nc, kc, alpha, a_packed ? packed_a : a, rs_a, cs_a,
                                   b_in_place ? b : packed_b, b_in_place ? NR : kc * NR, b_in_place ? ldb : NR, keep,
                                   C + ic * ldc + jc, ldc);
            }
        }
    }
}

INLINE void NAME(axpy_vector)(const int rows, const REAL *a, const REAL *B, ptrdiff_t ldb, REAL *y)
{
    /* y (VL,) += a B, B (rows, VL) */
    NAME(vector) sum = a[0] * CONST_AT(B);
    for (int j = 1; j < rows; j++)
        sum += a[j] * CONST_AT(B + j * ldb);
    AT(y) += sum;
}

INLINE void NAME(axpy_rows)(const int rows, const int fetch, ptrdiff_t width, REAL alpha, const REAL *x,
                            ptrdiff_t inc_x, const REAL *B, ptrdiff_t ldb, REAL *y, const REAL *ahead,
                            ptrdiff_t row_step, ptrdiff_t column_step)
{
    /* y (width,) += alpha x B, B (rows, width); rows and fetch are constants where this is inlined.  With fetch, the
       line at ahead + j row_step + i column_step is prefetched for each line i of each row j. */
    REAL a[AXPY_ROWS];
    ptrdiff_t i = 0;
    for (int j = 0; j < rows; j++)
        a[j] = alpha * x[j * inc_x];
    for (; i + LINE <= width; i += LINE) {
        if (fetch)
            for (int j = 0; j < rows; j++)
                __builtin_prefetch(ahead + j * row_step + i * column_step);
        for (ptrdiff_t v = i; v < i + LINE; v += VL)
            NAME(axpy_vector)(rows, a, B + v, ldb, y + v);
    }
    for (; i + VL <= width; i += VL)
        NAME(axpy_vector)(rows, a, B + i, ldb, y + i);
    for (; i < width; i++)
        for (int j = 0; j < rows; j++)
            y[i] += a[j] * B[j * ldb + i];
}

INLINE void NAME(gemv)(const int from_memory, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *x, ptrdiff_t inc_x,
                       const REAL *B, ptrdiff_t ldb, REAL beta, REAL *y)
{
    /* y (n,) <- alpha x B + beta y, bound by reading B: several rows per pass keep more of memory's channels busy than
       one, and y is read and written once per pass.  Rows are read to their ends; to read a part of each that leaves
       its part of y in L1 is slower.  With from_memory B is prefetched: if a pass takes at most AHEAD bytes, what lies
       AHEAD bytes behind, line by line in the order of memory, because the processor does not foresee what follows such
       short rows; if a single row takes as many, the same row a little ahead; between these it gains nothing.  From L2
       prefetching takes longer than it saves. */
    const ptrdiff_t distance = AHEAD / (ptrdiff_t) sizeof(REAL);
    const int by_lines = ldb == n && AXPY_ROWS * n <= distance;
    ptrdiff_t p = 0;
    if (beta == 0)
        memset(y, 0, (size_t) n * sizeof(REAL));
    else if (beta != 1)
        for (ptrdiff_t j = 0; j < n; j++)
            y[j] *= beta;
    for (; p + AXPY_ROWS <= k; p += AXPY_ROWS) {
        const REAL *rows = B + p * ldb;
        if (from_memory && by_lines)
            NAME(axpy_rows)(AXPY_ROWS, 1, n, alpha, x + p * inc_x, inc_x, rows, ldb, y, rows + distance, LINE,
                            AXPY_ROWS);
        else if (from_memory && n >= distance)
            NAME(axpy_rows)(AXPY_ROWS, 1, n, alpha, x + p * inc_x, inc_x, rows, ldb, y, rows + 8 * LINE, ldb, 1);
        else
            NAME(axpy_rows)(AXPY_ROWS, 0, n, alpha, x + p * inc_x, inc_x, rows, ldb, y, NULL, 0, 0);
    }
    for (; p < k; p++)
        NAME(axpy_rows)(1, 0, n, alpha, x + p * inc_x, inc_x, B + p * ldb, ldb, y, NULL, 0, 0);
}

TARGET static void NAME(contract)(int from_memory, ptrdiff_t n, ptrdiff_t k, const REAL *x, const REAL *B,
                                  ptrdiff_t ldb, REAL beta, REAL *y)
{
    if (from_memory)
        NAME(gemv)(1, n, k, 1, x, 1, B, ldb, beta, y);
    else
        NAME(gemv)(0, n, k, 1, x, 1, B, ldb, beta, y);
}

TARGET static void NAME(gemm)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t rs_a,
                              ptrdiff_t cs_a, const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    ptrdiff_t whole = m / MR_TAIL * MR_TAIL;
    if (whole > 0)
        NAME(gemm_by_blocks)(whole, n, k, alpha, A, rs_a, cs_a, B, ldb, beta, C, ldc);
    for (ptrdiff_t i = whole; i < m; i++)
        NAME(gemv)(0, n, k, alpha, A + i * rs_a, cs_a, B, ldb, beta, C + i * ldc);
}

TARGET static void NAME(gemm_in_place)(ptrdiff_t m, ptrdiff_t n, const REAL *A, REAL *B, ptrdiff_t ldb, REAL *packed)
{
    /* B (m, n) <- A (m, m) B, with the bits of gemm.  NC columns of B at a time are packed, all their rows, and then
       written over, so that B is copied once.  packed holds m NC entries. */
    REAL rest[(MR_TAIL - 1) * NC];
    ptrdiff_t whole = m / MR_TAIL * MR_TAIL, passes = (m + DEEP - 1) / DEEP, most = (m + passes - 1) / passes;
    for (ptrdiff_t jc = 0; jc < n; jc += NC, B += NC) {
        ptrdiff_t nc = n - jc < NC ? n - jc : NC, width = (nc + NR - 1) / NR * NR;
        for (ptrdiff_t i = whole; i < m; i++)
            NAME(gemv)(0, nc, m, 1, A + i * m, 1, B, ldb, 0, rest + (i - whole) * NC);
        for (ptrdiff_t pc = 0; pc < m; pc += most)
            NAME(pack_b)(m - pc < most ? m - pc : most, nc, B + pc * ldb, ldb, packed + pc * width);
        for (ptrdiff_t pc = 0; pc < m; pc += most) {
            ptrdiff_t kc = m - pc < most ? m - pc : most;
            for (ptrdiff_t ic = 0; ic < whole; ic += MC)
                NAME(macro_kernel)(0, whole - ic < MC ? whole - ic : MC, nc, kc, 1, A + ic * m + pc, m, 1,
                                   packed + pc * width, kc * NR, NR, pc > 0, B + ic * ldb, ldb);
        }
        for (ptrdiff_t i = whole; i < m; i++)
            memcpy(B + i * ldb, rest + (i - whole) * NC, (size_t) nc * sizeof(REAL));
    }
}

#if defined(__clang__)
INLINE NAME(vector) NAME(shuffle)(NAME(vector) a, NAME(vector) b, NAME(bits) from)
{
    NAME(vector) result;
    for (int l = 0; l < VL; l++)
        result[l] = from[l] < VL ? a[from[l]] : b[from[l] - VL];
    return result;
}
#define SHUFFLE NAME(shuffle)
#else
#define SHUFFLE __builtin_shuffle
#endif

/* One round of adding up the entries of VL vectors (the example at the top): entry l of sum[i] becomes its own value
   plus that of entry l ^ h, both taken from vector i + h where l & h, else from vector i. */
#define MERGE_OWN(l, h) ((l) & (h) ? (l) + VL : (l))
#define MERGE_OTHER(l, h) (((l) ^ (h)) + ((l) & (h) ? VL : 0))
#define EACH(f, h)                                                                                                     \
    {f(0, h), f(1, h), f(2, h),  f(3, h),  f(4, h),  f(5, h),  f(6, h),  f(7, h),                                      \
     f(8, h), f(9, h), f(10, h), f(11, h), f(12, h), f(13, h), f(14, h), f(15, h)}
#define MERGE(h)                                                                                                       \
    if (VL > h) {                                                                                                      \
        static const INTEGER own[16] = EACH(MERGE_OWN, h), other[16] = EACH(MERGE_OTHER, h);                           \
        for (int i = 0; i < h; i++)                                                                                    \
            merged[i] = SHUFFLE(merged[i], merged[i + h], *(const NAME(bits) *) own)                                   \
                        + SHUFFLE(merged[i], merged[i + h], *(const NAME(bits) *) other);                              \
    }

INLINE void NAME(dot_micro_kernel)(const int mr, const int nr, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t lda,
                                   const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    /* C (mr, nr) <- alpha A B^T + beta C, with mr nr a multiple of VL, at most 16; both constants where this is
       inlined */
    static const INTEGER from_16_on[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    NAME(vector) sum[16], a[16];
    ptrdiff_t p = 0, rest = k % VL;
    REAL out[16];
    for (int i = 0; i < mr * nr; i++)
        sum[i] = (NAME(vector)){0};
    for (; p + VL <= k; p += VL) {
        for (int i = 0; i < mr; i++)
            a[i] = CONST_AT(A + i * lda + p);
        for (int j = 0; j < nr; j++)
            for (int i = 0; i < mr; i++)
                sum[i * nr + j] += a[i] * CONST_AT(B + j * ldb + p);
    }
    if (rest > 0 && p > 0) {
        /* The last vector overlaps the one before it; entries that are already counted are masked. */
        NAME(bits) mask = *(const NAME(bits) *) (from_16_on + 16 - VL + rest);
        for (int i = 0; i < mr; i++)
            a[i] = (NAME(vector)) ((NAME(bits)) CONST_AT(A + i * lda + k - VL) & mask);
        for (int j = 0; j < nr; j++)
            for (int i = 0; i < mr; i++)
                sum[i * nr + j] += a[i] * CONST_AT(B + j * ldb + k - VL);
    }
#pragma GCC unroll 8
    for (int first = 0; first < mr * nr; first += VL) {
        NAME(vector) *merged = sum + first;
        MERGE(8) MERGE(4) MERGE(2) MERGE(1)
        AT(out + first) = alpha * *merged;
    }
    if (p == 0) /* rows shorter than a vector */
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < nr; j++) {
                REAL few = 0;
                for (ptrdiff_t t = 0; t < k; t++)
                    few += A[i * lda + t] * B[j * ldb + t];
                out[i * nr + j] = alpha * few;
            }
    for (int i = 0; i < mr; i++) {
        if (beta != 0)
            for (int j = 0; j < nr; j++)
                out[i * nr + j] += beta * C[i * ldc + j];
        memcpy(C + i * ldc, out + i * nr, (size_t) nr * sizeof(REAL));
    }
}

INLINE void NAME(dot)(ptrdiff_t k, REAL alpha, const REAL *a, const REAL *b, REAL beta, REAL *c)
{
    REAL sum = 0;
    for (ptrdiff_t p = 0; p < k; p++)
        sum += a[p] * b[p];
    *c = beta == 0 ? alpha * sum : alpha * sum + beta * *c;
}

TARGET static void NAME(gemm_nt)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, REAL alpha, const REAL *A, ptrdiff_t lda,
                                 const REAL *B, ptrdiff_t ldb, REAL beta, REAL *C, ptrdiff_t ldc)
{
    ptrdiff_t i = 0, j = 0;
    for (; i + DOT_MR <= m; i += DOT_MR) {
        for (j = 0; j + DOT_NR <= n; j += DOT_NR)
            NAME(dot_micro_kernel)(DOT_MR, DOT_NR, k, alpha, A + i * lda, lda, B + j * ldb, ldb, beta, C + i * ldc + j,
                                   ldc);
        for (; j < n; j++)
            for (ptrdiff_t r = i; r < i + DOT_MR; r++)
                NAME(dot)(k, alpha, A + r * lda, B + j * ldb, beta, C + r * ldc + j);
    }
    for (; i < m; i++) {
        for (j = 0; j + DOT_SUMS <= n; j += DOT_SUMS)
            NAME(dot_micro_kernel)(1, DOT_SUMS, k, alpha, A + i * lda, lda, B + j * ldb, ldb, beta, C + i * ldc + j,
                                   ldc);
        for (; DOT_SUMS > VL && j + VL <= n; j += VL)
            NAME(dot_micro_kernel)(1, VL, k, alpha, A + i * lda, lda, B + j * ldb, ldb, beta, C + i * ldc + j, ldc);
        for (; j < n; j++)
            NAME(dot)(k, alpha, A + i * lda, B + j * ldb, beta, C + i * ldc + j);
    }
}

/* One round of transposing VL vectors: in each pair of vectors i and i + h, the blocks of h entries off the diagonal
   change places.  After the rounds h = VL / 2, ..., 2, 1, entry j of vector i has become entry i of vector j. */
#define SWAP_UPPER(l, h) ((l) & (h) ? ((l) ^ (h)) + VL : (l))
#define SWAP_LOWER(l, h) ((l) & (h) ? (l) + VL : (l) ^ (h))
#define SWAP(h)                                                                                                        \
    if (VL > h) {                                                                                                      \
        static const INTEGER upper[16] = EACH(SWAP_UPPER, h), lower[16] = EACH(SWAP_LOWER, h);                         \
        for (int i = 0; i < VL; i++)                                                                                   \
            if ((i & h) == 0) {                                                                                        \
                NAME(vector) a = row[i], b = row[i | h];                                                               \
                row[i] = SHUFFLE(a, b, *(const NAME(bits) *) upper);                                                   \
                row[i | h] = SHUFFLE(a, b, *(const NAME(bits) *) lower);                                               \
            }                                                                                                          \
    }

TARGET static void NAME(transpose)(ptrdiff_t rows, ptrdiff_t columns, const REAL *X, REAL *Y, ptrdiff_t ldy)
{
    /* Y (columns, rows) = X^T, rows of Y ldy apart, VL by VL entries at a time in registers */
    for (ptrdiff_t j = 0; j < columns; j += VL)
        for (ptrdiff_t i = 0; i < rows; i += VL) {
            if (i + VL > rows || j + VL > columns) {
                for (ptrdiff_t a = i; a < rows && a < i + VL; a++)
                    for (ptrdiff_t b = j; b < columns && b < j + VL; b++)
                        Y[b * ldy + a] = X[a * columns + b];
                continue;
            }
            NAME(vector) row[16];
            for (int a = 0; a < VL; a++)
                row[a] = CONST_AT(X + (i + a) * columns + j);
            SWAP(8) SWAP(4) SWAP(2) SWAP(1)
            for (int a = 0; a < VL; a++)
                AT(Y + (j + a) * ldy + i) = row[a];
        }
}
