from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

import os

import numpy as np

from okcore._blas cimport gemm as blas_gemm

cdef enum:
    LINE = 16        # floats of a cache line
    L2 = 1048576     # bytes; of some processors it is half as much, of others twice

cdef extern from "simd.h" nogil:
    enum: GRAM_KC "OKCORE_GRAM_KC"
    enum: GRAM_LD "OKCORE_GRAM_LD"
    enum: SPLIT_COLUMNS "OKCORE_SPLIT_COLUMNS"
    void okcore_sgram(
        int n, Py_ssize_t columns, const float **rows, const double *scales, double *widened, double *gram)
    void okcore_dgram(
        int n, Py_ssize_t columns, const double **rows, const double *scales, double *widened, double *gram)
    double okcore_sdot_in_double(Py_ssize_t size, const float *x, const float *y)
    double okcore_ddot_in_double(Py_ssize_t size, const double *x, const double *y)
    void okcore_sgemm(
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha, const float *A, Py_ssize_t rs_a, Py_ssize_t cs_a,
        const float *B, Py_ssize_t ldb, float beta, float *C, Py_ssize_t ldc)
    void okcore_dgemm(
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, double alpha, const double *A, Py_ssize_t rs_a, Py_ssize_t cs_a,
        const double *B, Py_ssize_t ldb, double beta, double *C, Py_ssize_t ldc)
    void okcore_scontract(
        int from_memory, Py_ssize_t n, Py_ssize_t k, const float *x, const float *B, Py_ssize_t ldb, float beta,
        float *y)
    void okcore_dcontract(
        int from_memory, Py_ssize_t n, Py_ssize_t k, const double *x, const double *B, Py_ssize_t ldb, double beta,
        double *y)
    void okcore_sgradual_gemm(
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha, const float *A, Py_ssize_t rs_a, Py_ssize_t cs_a,
        const float *B, Py_ssize_t ldb, float beta, float *C, Py_ssize_t ldc)
    void okcore_dgradual_gemm(
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, double alpha, const double *A, Py_ssize_t rs_a, Py_ssize_t cs_a,
        const double *B, Py_ssize_t ldb, double beta, double *C, Py_ssize_t ldc)
    void okcore_sgemm_in_place(
        Py_ssize_t m, Py_ssize_t n, const float *A, float *B, Py_ssize_t ldb, float *packed)
    void okcore_dgemm_in_place(
        Py_ssize_t m, Py_ssize_t n, const double *A, double *B, Py_ssize_t ldb, double *packed)
    void okcore_sgemm_nt(
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha, const float *A, Py_ssize_t lda,
        const float *B, Py_ssize_t ldb, float beta, float *C, Py_ssize_t ldc)
    void okcore_dgemm_nt(
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, double alpha, const double *A, Py_ssize_t lda,
        const double *B, Py_ssize_t ldb, double beta, double *C, Py_ssize_t ldc)
    void okcore_stranspose(Py_ssize_t rows, Py_ssize_t columns, const float *X, float *Y, Py_ssize_t ldy)
    void okcore_dtranspose(Py_ssize_t rows, Py_ssize_t columns, const double *X, double *Y, Py_ssize_t ldy)
    void okcore_stimes_grid(
        Py_ssize_t rows, Py_ssize_t k, Py_ssize_t G, Py_ssize_t n, const float *X, const float *grid,
        Py_ssize_t next_grid, float *Y)
    void okcore_dtimes_grid(
        Py_ssize_t rows, Py_ssize_t k, Py_ssize_t G, Py_ssize_t n, const double *X, const double *grid,
        Py_ssize_t next_grid, double *Y)
    void okcore_sgrid_times(Py_ssize_t k, Py_ssize_t G, Py_ssize_t n, const float *grid, const float *W, float *M)
    void okcore_dgrid_times(Py_ssize_t k, Py_ssize_t G, Py_ssize_t n, const double *grid, const double *W, double *M)
    int okcore_sown_unit_update(
        Py_ssize_t k, Py_ssize_t q, Py_ssize_t G, Py_ssize_t n, Py_ssize_t m, const float *H, const float *d,
        const float *u, float *J)
    int okcore_down_unit_update(
        Py_ssize_t k, Py_ssize_t q, Py_ssize_t G, Py_ssize_t n, Py_ssize_t m, const double *H, const double *d,
        const double *u, double *J)
    void okcore_sown_unit_contract(
        Py_ssize_t k, Py_ssize_t G, Py_ssize_t n, Py_ssize_t m, const float *delta, const float *J, float beta,
        float *gradient)
    void okcore_down_unit_contract(
        Py_ssize_t k, Py_ssize_t G, Py_ssize_t n, Py_ssize_t m, const double *delta, const double *J, double beta,
        double *gradient)
    double okcore_ssoftmax_credit(
        Py_ssize_t rows, Py_ssize_t columns, const long long *y, double scale, float *outputs)
    double okcore_dsoftmax_credit(
        Py_ssize_t rows, Py_ssize_t columns, const long long *y, double scale, double *outputs)
    int okcore_sadam(
        int write, Py_ssize_t size, double beta1, double beta2, double eps, double rate, double correction,
        const float *gradient, float *parameter, float *mean, float *square)
    int okcore_dadam(
        int write, Py_ssize_t size, double beta1, double beta2, double eps, double rate, double correction,
        const double *gradient, double *parameter, double *mean, double *square)
    int okcore_sfinite(Py_ssize_t size, const float *x)
    int okcore_dfinite(Py_ssize_t size, const double *x)
    float okcore_slargest_magnitude(Py_ssize_t size, const float *x)
    double okcore_dlargest_magnitude(Py_ssize_t size, const double *x)
    pointwise_function okcore_cell(const char *name, int is_double, int *sizes)
    int okcore_vectorised()
    const char *okcore_instructions()
    const char *okcore_instruction_set(int position)


def instructions():
    """Return the name of the instruction set that the hand-written kernels use here."""
    return okcore_instructions().decode()


def instruction_sets():
    """Return the names of the instruction sets that are compiled, from the narrowest to the widest."""
    names = []
    while okcore_instruction_set(len(names)) != NULL:
        names.append(okcore_instruction_set(len(names)).decode())
    return tuple(names)


_asked = os.environ.get("OKCORE_INSTRUCTIONS", "")
if _asked and _asked not in instruction_sets():
    raise ImportError(f"OKCORE_INSTRUCTIONS must be one of {', '.join(instruction_sets())}, got {_asked!r}")


cdef void gemm(
    bint trans_a, bint trans_b, int m, int n, int k,
    floating alpha, const floating *A, int lda, const floating *B, int ldb, floating beta, floating *C, int ldc,
) noexcept nogil:
    if m > 1 and not okcore_vectorised():
        blas_gemm[floating](trans_a, trans_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
    elif trans_b:
        if floating is float:
            okcore_sgemm_nt(m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
        else:
            okcore_dgemm_nt(m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
    elif floating is float:
        okcore_sgemm(m, n, k, alpha, A, 1 if trans_a else lda, lda if trans_a else 1, B, ldb, beta, C, ldc)
    else:
        okcore_dgemm(m, n, k, alpha, A, 1 if trans_a else lda, lda if trans_a else 1, B, ldb, beta, C, ldc)


cdef int part_start(int count, int grain, int part, int parts) noexcept nogil:
    return count if part == parts else count // grain * part // parts * grain


cdef int parts_that_pay(int count, int grain, Py_ssize_t work, int threads) noexcept nogil:
    # Waking a thread takes 5 to 50 us.
    if threads == 1 or work < 1 << 21 or not okcore_vectorised():
        return 1
    return max(1, min(threads, count // grain))


cdef void transposed_gemm(
    int m, int n, int k, floating alpha, const floating *A, int lda, const floating *B, int ldb,
    floating beta, floating *C, int ldc, int threads,
) noexcept nogil:
    cdef int part, start, parts = parts_that_pay(m, LINE, <Py_ssize_t> m * n * k, threads)
    if parts == 1:
        gemm[floating](True, False, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
        return
    for part in prange(parts, num_threads=parts, schedule="static"):
        start = part_start(m, LINE, part, parts)
        gemm[floating](True, False, part_start(m, LINE, part + 1, parts) - start, n, k, alpha, A + start, lda, B, ldb,
                       beta, C + <Py_ssize_t> start * ldc, ldc)


cdef void gemm_by_columns(
    bint trans_a, int m, int n, int k, floating alpha, const floating *A, int lda, const floating *B, int ldb,
    floating beta, floating *C, int ldc, int threads,
) noexcept nogil:
    cdef int part, start, parts = parts_that_pay(n, SPLIT_COLUMNS, <Py_ssize_t> m * n * k, threads)
    if parts == 1:
        gemm[floating](trans_a, False, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
        return
    for part in prange(parts, num_threads=parts, schedule="static"):
        start = part_start(n, SPLIT_COLUMNS, part, parts)
        gemm[floating](trans_a, False, m, part_start(n, SPLIT_COLUMNS, part + 1, parts) - start, k, alpha, A, lda,
                       B + start, ldb, beta, C + start, ldc)


cdef void augmented_input(
    int lanes, int q, int v, int n, int S,
    const floating *x, const long long *symbols, const floating *state, floating *u_hat,
) noexcept nogil:
    # q = 1: one row [x, h, 1].  q = 2: rows [x, 0, 1, 0] and [0, h, 0, 1], so that input and recurrence reach
    # the cell apart.
    cdef int lane, m = v + n + q
    cdef floating *row_x
    cdef floating *row_h
    for lane in range(lanes):
        row_x = u_hat + <Py_ssize_t> lane * q * m
        row_h = row_x + (q - 1) * m
        memset(row_x, 0, q * m * sizeof(floating))
        if symbols == NULL:
            memcpy(row_x, x + <Py_ssize_t> lane * v, v * sizeof(floating))
        else:
            row_x[symbols[lane]] = 1
        memcpy(row_h + v, state + <Py_ssize_t> lane * S, n * sizeof(floating))
        row_x[v + n] = 1
        row_h[m - 1] = 1


cdef void transpose(int rows, int columns, const floating *X, floating *Y, int ldy) noexcept nogil:
    if floating is float:
        okcore_stranspose(rows, columns, X, Y, ldy)
    else:
        okcore_dtranspose(rows, columns, X, Y, ldy)


cdef void preactivations(
    int lanes, int q, int v, int n, int P, const floating *u_hat, const floating *theta, const floating *theta_T,
    floating *pre,
) noexcept nogil:
    # (B, m)(m, P): 2 B m P flops. With two terms, half of each u_hat is zero: x meets W_x, h meets W_h.
    cdef int m = v + n + q, ldt = theta_T_row(P), lane, p, j
    cdef floating bias
    if q == 1:
        if theta_T != NULL:
            gemm[floating](False, False, lanes, P, m, 1, u_hat, m, theta_T, ldt, 0, pre, P)
        else:
            gemm[floating](False, True, lanes, P, m, 1, u_hat, m, theta, m, 0, pre, P)
        return
    if theta_T != NULL:
        gemm[floating](False, False, lanes, P, v, 1, u_hat, 2 * m, theta_T, ldt, 0, pre, 2 * P)
        gemm[floating](False, False, lanes, P, n, 1, u_hat + m + v, 2 * m, theta_T + <Py_ssize_t> v * ldt, ldt, 0,
                       pre + P, 2 * P)
    else:
        gemm[floating](False, True, lanes, P, v, 1, u_hat, 2 * m, theta, m, 0, pre, 2 * P)
        gemm[floating](False, True, lanes, P, n, 1, u_hat + m + v, 2 * m, theta + v, m, 0, pre + P, 2 * P)
    for j in range(2):
        for p in range(P):
            if theta_T != NULL:
                bias = theta_T[(v + n + j) * <Py_ssize_t> ldt + p]
            else:
                bias = theta[<Py_ssize_t> p * m + v + n + j]
            for lane in range(lanes):
                pre[(2 * lane + j) * P + p] += bias


cdef void outer_products(
    int rows, int every, int q, int v, int n, int P, const floating *e, const floating *u_hat, floating *sums,
    floating *gradient, bint add, int threads,
) noexcept nogil:
    # (P, rows)(rows, m): 2 rows m P flops, by the same halves. The columns of ones apart: they are sums of e, and
    # would leave the others' number no multiple of a vector's length.
    cdef int m = v + n + q, lde = every * q * P, ldu = every * q * m, p, j
    cdef floating beta = 1 if add else 0
    cdef floating *bias
    transposed_gemm[floating](P, v + n if q == 1 else v, rows, 1, e, lde, u_hat, ldu, beta, gradient, m, threads)
    if q == 2:
        transposed_gemm[floating](P, n, rows, 1, e + P, lde, u_hat + m + v, ldu, beta, gradient + v, m, threads)
    for j in range(q):
        gemm[floating](True, False, 1, P, rows, 1, u_hat + j * m + v + n + j, ldu, e + j * P, lde, 0, sums, P)
        for p in range(P):
            bias = gradient + <Py_ssize_t> p * m + v + n + j
            bias[0] = sums[p] + (bias[0] if add else 0)


cdef void immediate_factor(
    int k, int G, int n, const floating *Phi, const floating *d, floating *A,
) noexcept nogil:
    # A[s, (g, i)] = sum_a Phi[s, (a, i)] d[a, g, i]: a scaling of Phi's columns, 2 k S P flops, no product.
    cdef int a, g, i, P = G * n
    if Phi != NULL:
        times_grid[floating](k * n, k, G, n, Phi, d, 0, A)
        return
    memset(A, 0, <Py_ssize_t> k * n * P * sizeof(floating))
    for a in range(k):
        for g in range(G):
            for i in range(n):
                A[<Py_ssize_t> (a * n + i) * P + g * n + i] = d[(a * G + g) * n + i]


cdef void dense_part(int k, int G, int n, const floating *d_rec, const floating *W_h, floating *M) noexcept nogil:
    # M[(a, i), :] = sum_g d*[a, g, i] W_h[(g, i), :]: 2 S P flops.
    if floating is float:
        okcore_sgrid_times(k, G, n, d_rec, W_h, M)
    else:
        okcore_dgrid_times(k, G, n, d_rec, W_h, M)


cdef void times_grid(
    int rows, int k, int G, int n, const floating *X, const floating *grid, Py_ssize_t next_grid, floating *Y,
) noexcept nogil:
    # Y[s, (g, i)] = sum_a X[s, (a, i)] grid[s, a, g, i]: 2 k rows G n flops.
    if floating is float:
        okcore_stimes_grid(rows, k, G, n, X, grid, next_grid, Y)
    else:
        okcore_dtimes_grid(rows, k, G, n, X, grid, next_grid, Y)


cdef void transition_times_jacobian(
    int k, int n, const floating *Phi, const floating *M, const floating *c, floating *Phi_next,
) noexcept nogil:
    cdef int a, b, i, S = k * n
    if Phi == NULL:  # H itself
        memset(Phi_next, 0, <Py_ssize_t> S * S * sizeof(floating))
        for i in range(S):
            memcpy(Phi_next + <Py_ssize_t> i * S, M + <Py_ssize_t> i * n, n * sizeof(floating))
        for a in range(k):
            for b in range(k):
                for i in range(n):
                    Phi_next[<Py_ssize_t> (a * n + i) * S + b * n + i] += c[(a * k + b) * n + i]
        return
    # Phi C by scaling, then Phi M (S, S)(S, n) into the columns of h: 2 S^2 n flops.
    times_grid[floating](S, k, k, n, Phi, c, 0, Phi_next)
    gemm[floating](False, False, S, n, S, 1, Phi, S, M, n, 1, Phi_next, S)


cdef void credit_times_immediate(
    int lanes, int q, int k, int G, int n, const floating *delta, const floating *d, floating *e,
) noexcept nogil:
    # e[b, j, (g, i)] = sum_a delta[b, (a, i)] d[b, j, a, g, i]
    cdef int lane, j
    cdef Py_ssize_t P = G * n, size = k * P
    if q == 1:
        times_grid[floating](lanes, k, G, n, delta, d, size, e)
        return
    for lane in range(lanes):
        for j in range(q):
            times_grid[floating](1, k, G, n, delta + lane * k * n, d + (lane * q + j) * size, 0, e + (lane * q + j) * P)


cdef void credit_times_jacobian(
    int lanes, int q, int k, int G, int n,
    const floating *e, const floating *W_h, const floating *c, const floating *delta, floating *delta_before,
) noexcept nogil:
    cdef int S = k * n, P = G * n
    times_grid[floating](lanes, k, k, n, delta, c, <Py_ssize_t> k * k * n, delta_before)
    # delta D* (B, P) times W_h (P, n) into the columns of h: 2 B P n flops.
    gemm[floating](False, False, lanes, n, P, 1, e + (q - 1) * P, q * P, W_h, n, 1, delta_before, S)


cdef bint own_unit_update(
    int k, int q, int G, int n, int m, const floating *H, const floating *d, const floating *u, floating *J,
) noexcept nogil:
    # J[a, g, i, :] <- sum_b H[a, b, i] J[b, g, i, :] + sum_j d[j, a, g, i] u[j, :]: 2 k (k + q) P m flops, bound by
    # reading and writing J.
    if floating is float:
        return okcore_sown_unit_update(k, q, G, n, m, H, d, u, J)
    else:
        return okcore_down_unit_update(k, q, G, n, m, H, d, u, J)


cdef void own_unit_contract(
    int k, int G, int n, int m, const floating *delta, const floating *J, bint add, floating *gradient,
) noexcept nogil:
    # gradient[g, i, :] = sum_a delta[a, i] J[a, g, i, :]: 2 k P m flops, bound by reading J.
    if floating is float:
        okcore_sown_unit_contract(k, G, n, m, delta, J, 1 if add else 0, gradient)
    else:
        okcore_down_unit_contract(k, G, n, m, delta, J, 1 if add else 0, gradient)


cdef void gram_matrix(
    int N, Py_ssize_t columns, const floating **rows, const double *scales, double *packed, double *gram,
) noexcept nogil:
    # In float64 whatever the dtype: the error of a Gram matrix costs variance by its square root, which for
    # float32's rounding is 3e-4. N^2 columns / 2 multiply-adds; BLAS has no kernel for few long rows.
    cdef int a, b
    memset(gram, 0, N * N * sizeof(double))
    if floating is float:
        okcore_sgram(N, columns, rows, scales, packed, gram)
    else:
        okcore_dgram(N, columns, rows, scales, packed, gram)
    for a in range(N):
        for b in range(a):
            gram[a * N + b] = gram[b * N + a]


cdef double dot_in_double(Py_ssize_t size, const floating *x, const floating *y) noexcept nogil:
    if floating is float:
        return okcore_sdot_in_double(size, x, y)
    else:
        return okcore_ddot_in_double(size, x, y)


cdef double sum_of_squares(Py_ssize_t size, const floating *x) noexcept nogil:
    return dot_in_double[floating](size, x, x)


cdef void axpby(Py_ssize_t size, double a, const floating *x, double b, floating *y) noexcept nogil:
    cdef floating alpha = <floating> a, beta = <floating> b
    cdef Py_ssize_t i
    for i in range(size):
        y[i] = alpha * x[i] + beta * y[i]


cdef double softmax_credit(
    Py_ssize_t rows, Py_ssize_t columns, const long long *y, double scale, floating *outputs,
) noexcept nogil:
    if floating is float:
        return okcore_ssoftmax_credit(rows, columns, y, scale, outputs)
    else:
        return okcore_dsoftmax_credit(rows, columns, y, scale, outputs)


cdef bint adam(
    bint write, Py_ssize_t size, double beta1, double beta2, double eps, double rate, double correction,
    const floating *gradient, floating *parameter, floating *mean, floating *square,
) noexcept nogil:
    if floating is float:
        return okcore_sadam(write, size, beta1, beta2, eps, rate, correction, gradient, parameter, mean, square)
    else:
        return okcore_dadam(write, size, beta1, beta2, eps, rate, correction, gradient, parameter, mean, square)


cdef bint all_finite(Py_ssize_t size, const floating *x) noexcept nogil:
    if floating is float:
        return okcore_sfinite(size, x)
    else:
        return okcore_dfinite(size, x)


cdef double largest_magnitude(Py_ssize_t size, const floating *x) noexcept nogil:
    if floating is float:
        return okcore_slargest_magnitude(size, x)
    else:
        return okcore_dlargest_magnitude(size, x)


cdef finite_function finite_function_for(bint single) noexcept nogil:
    return <finite_function> all_finite[float] if single else <finite_function> all_finite[double]


cdef Py_ssize_t packed_doubles(int N, int r) noexcept nogil:
    return (<Py_ssize_t> N + r) * GRAM_LD


cdef void mix_terms(
    int N, int r, int rank, Py_ssize_t columns, const double *mix, bint precise, floating *casts, double *packed,
    const floating **rows, const double *scales, floating *X_new, int threads,
) noexcept nogil:
    # (rank, N)(N, columns): 2 rank N columns flops, one pass over the terms, GRAM_KC columns at a time
    cdef int i, panels = <int> ((columns + GRAM_KC - 1) // GRAM_KC)
    if rank == 0:
        return
    for i in range(N * r):
        casts[i] = <floating> mix[i]
    threads = parts_that_pay(panels, 1, rank * columns * N, threads)
    if threads == 1:
        for i in range(panels):
            mix_panel[floating](i, N, r, rank, columns, mix, precise, casts, packed, rows, scales, X_new)
    else:
        for i in prange(panels, num_threads=threads, schedule="static"):
            mix_panel[floating](i, N, r, rank, columns, mix, precise, casts, packed + threadid() * packed_doubles(N, r),
                                rows, scales, X_new)


cdef void mix_panel(
    int index, int N, int r, int rank, Py_ssize_t columns, const double *mix, bint precise, const floating *casts,
    double *packed, const floating **rows, const double *scales, floating *X_new,
) noexcept nogil:
    # The rows are copied first, because X_new may be their first rows.
    cdef Py_ssize_t start = <Py_ssize_t> index * GRAM_KC, col
    cdef int i, width = <int> min(<Py_ssize_t> GRAM_KC, columns - start)
    cdef floating *copy = <floating *> packed
    cdef double *mixed = packed + N * GRAM_LD
    if not precise or floating is double:
        for i in range(N):
            if scales == NULL:
                memcpy(copy + i * GRAM_LD, rows[i] + start, width * sizeof(floating))
            else:
                for col in range(width):
                    copy[i * GRAM_LD + col] = <floating> (rows[i][start + col] * scales[i])
        mix_rows[floating](N, r, rank, width, casts, copy, X_new + start, <int> columns)
        return
    for i in range(N):
        for col in range(width):
            packed[i * GRAM_LD + col] = rows[i][start + col] * (1.0 if scales == NULL else scales[i])
    mix_rows[double](N, r, rank, width, mix, packed, mixed, GRAM_LD)
    for i in range(rank):
        for col in range(width):
            X_new[i * columns + start + col] = <floating> mixed[i * GRAM_LD + col]


cdef void mix_rows(
    int N, int r, int rank, int width, const floating *mix, const floating *X, floating *X_new, int ldx,
) noexcept nogil:
    # Rows may be denormal, and their weights large.
    if rank > 1 and not okcore_vectorised():
        blas_gemm[floating](True, False, rank, width, N, 1, mix, r, X, GRAM_LD, 0, X_new, ldx)
    elif floating is float:
        okcore_sgradual_gemm(rank, width, N, 1, mix, 1, r, X, GRAM_LD, 0, X_new, ldx)
    else:
        okcore_dgradual_gemm(rank, width, N, 1, mix, 1, r, X, GRAM_LD, 0, X_new, ldx)


cdef void multiply_in_place(
    int S, int columns, const floating *Phi, floating *X, int ldx, floating *copy,
) noexcept nogil:
    # 2 S^2 columns flops
    cdef int s
    if okcore_vectorised():
        if floating is float:
            okcore_sgemm_in_place(S, columns, Phi, X, ldx, copy)
        else:
            okcore_dgemm_in_place(S, columns, Phi, X, ldx, copy)
        return
    for s in range(S):
        memcpy(copy + <Py_ssize_t> s * columns, X + <Py_ssize_t> s * ldx, columns * sizeof(floating))
    gemm[floating](False, False, S, columns, S, 1, Phi, S, copy, columns, 0, X, ldx)


cdef void contract_matrix(
    Py_ssize_t all_entries, int n, int k, const floating *x, const floating *B, floating beta, floating *y, int threads,
) noexcept nogil:
    # y (n,) <- x (k,) B (k, n) + beta y. all_entries are read before those of B are read again: do they stay in L2?
    cdef int part, start, parts = parts_that_pay(n, SPLIT_COLUMNS, <Py_ssize_t> n * k, threads)
    cdef bint from_memory = all_entries * <Py_ssize_t> sizeof(floating) > L2
    if parts == 1:
        contract_part[floating](from_memory, n, k, x, B, n, beta, y)
        return
    for part in prange(parts, num_threads=parts, schedule="static"):
        start = part_start(n, SPLIT_COLUMNS, part, parts)
        contract_part[floating](from_memory, part_start(n, SPLIT_COLUMNS, part + 1, parts) - start, k, x, B + start, n,
                                beta, y + start)


cdef void contract_part(
    bint from_memory, int n, int k, const floating *x, const floating *B, int ldb, floating beta, floating *y,
) noexcept nogil:
    if floating is float:
        okcore_scontract(from_memory, n, k, x, B, ldb, beta, y)
    else:
        okcore_dcontract(from_memory, n, k, x, B, ldb, beta, y)


cdef void contract_sum(
    int N, int S, int P, int m, const floating *v, const floating *u, const floating *A, floating *rows,
    floating *gradient,
) noexcept nogil:
    # 2 N S P flops, bound by reading A, then (P, N)(N, m): 2 N P m
    cdef int i
    cdef Py_ssize_t size = <Py_ssize_t> S * P
    for i in range(N):
        contract_matrix[floating](N * size, P, S, v, A + i * size, 0, rows + <Py_ssize_t> i * P, 1)
    gemm[floating](True, False, P, m, N, 1, rows, P, u, m, 0, gradient, m)


cdef void left_multiply_factors(
    int N, int T, int S, int P, const floating *H, const floating *A, floating *out,
) noexcept nogil:
    # (T, S)(S, P) for each: 2 N T S P flops
    cdef int i
    for i in range(N):
        gemm[floating](False, False, T, P, S, 1, H, S, A + i * (<Py_ssize_t> S * P), P, 0,
                       out + i * (<Py_ssize_t> T * P), P)


cdef pointwise_function pointwise_step(const char *name, bint single) noexcept nogil:
    cdef int sizes[3]
    return okcore_cell(name, not single, sizes)


def cell_sizes(name):
    """Return the gates, state blocks and terms of the compiled step of that name in _simd/cells.h."""
    cdef int sizes[3]
    if okcore_cell(name.encode(), 0, sizes) == NULL:
        raise ValueError(f"_simd/cells.h must name the step {name!r}")
    return sizes[0], sizes[1], sizes[2]


# ---- on whole arrays, for Python -------------------------------------------------------------------------------------


def is_finite(array):
    """Return whether no entry of an array of float32 or float64 is Inf or NaN."""
    cdef const float[::1] single
    cdef const double[::1] double_
    if not array.flags.c_contiguous or not array.flags.aligned:
        return bool(np.isfinite(array).all())
    if array.size == 0:
        return True
    if array.dtype == np.float32:
        single = array.reshape(-1)
        return all_finite[float](single.shape[0], &single[0])
    double_ = array.reshape(-1)
    return all_finite[double](double_.shape[0], &double_[0])


def contract(const floating[::1] v, const floating[:, ::1] u, const floating[:, :, ::1] A, floating[:, ::1] out):
    """out (P, m) = sum_i (v A_i)^T u_i."""
    cdef int N = A.shape[0], S = A.shape[1], P = A.shape[2], m = u.shape[1]
    cdef floating[:, ::1] rows = np.empty((N, P), np.asarray(out).dtype)
    with nogil:
        contract_sum[floating](N, S, P, m, &v[0], &u[0, 0], &A[0, 0, 0], &rows[0, 0], &out[0, 0])


def left_multiply(const floating[:, ::1] H, const floating[:, :, ::1] A, floating[:, :, ::1] out):
    """out_i = H A_i."""
    cdef int N = A.shape[0], T = H.shape[0], S = A.shape[1], P = A.shape[2]
    with nogil:
        left_multiply_factors[floating](N, T, S, P, &H[0, 0], &A[0, 0, 0], &out[0, 0, 0])


def multiply(
    const floating[:, :] A, const floating[:, :] B, floating[:, :] out, bint trans_a=False, bint trans_b=False,
    bint by_blas=False, int times=1,
):
    """out = op(A) op(B), so many times, as the engine does it or by BLAS: for measuring one against the other.

    The rows of each array are contiguous; there may be a distance between them.
    """
    cdef int m = out.shape[0], n = out.shape[1], k = A.shape[0] if trans_a else A.shape[1], _
    cdef int lda = A.strides[0] // sizeof(floating), ldb = B.strides[0] // sizeof(floating)
    cdef int ldc = out.strides[0] // sizeof(floating)
    with nogil:
        for _ in range(times):
            if by_blas:
                blas_gemm[floating](trans_a, trans_b, m, n, k, 1, &A[0, 0], lda, &B[0, 0], ldb, 0, &out[0, 0], ldc)
            else:
                gemm[floating](trans_a, trans_b, m, n, k, 1, &A[0, 0], lda, &B[0, 0], ldb, 0, &out[0, 0], ldc)


# ---- threads ---------------------------------------------------------------------------------------------------------

cdef bint forked = False


def _note_fork():
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


cdef int threads_of(int n) noexcept nogil:
    return 1 if forked else n
