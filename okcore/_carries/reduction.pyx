# The reduction, as a small problem. With the terms' Gram matrices known, everything that decides a reduction is
# N x N: the tall factors are read once for their Gram matrix and once for the final (r, N)(N, S P) mixing, here
# expressed as two coefficient matrices.
#
# Terms are first scaled to |u_i| = |A_i| = 1 with weights w_i = |u_i| |A_i|, so that the Gram matrices are
# correlations and balance is exact. With K_u^T K_u = corr_u + delta I (and K_A alike), the core is
#     C = K_u diag(w) K_A^T = U diag(sigma) V^T,
# new factors are unit-u K_u^-1 Y_u and unit-A K_A^-1 Y_A, and E[Y_u Y_A^T] = C makes them unbiased whatever
# invertible K_u, K_A are used. The shift delta keeps both invertible when directions repeat. A singular vector
# made of nothing but the shift (delta |K^-1 y|^2 > 1/2) stands for a direction that the terms do not have: it
# would add noise sqrt(sigma_r sigma_i) for a component of size zero, and is left out.

from cython cimport floating
from libc.math cimport fabs, frexp, isfinite, ldexp, sqrt
from libc.string cimport memcpy, memset

import numpy as np

from okcore._blas cimport cholesky_upper, solve_upper, svd, svd_lwork
from okcore._kernels cimport (
    ALIGNMENT,
    aligned,
    all_finite,
    gemm,
    gram_matrix,
    largest_magnitude,
    mix_terms,
    packed_doubles,
)

cdef double EPS = 2.220446049250313e-16
cdef double LARGE = 1024   # coefficients of terms that are parallel to about 1e-3
cdef double BEYOND = 1e30  # coefficients that float32 may not hold


cdef Py_ssize_t scratch_doubles(int N) noexcept nogil:
    return 9 * <Py_ssize_t> N * N + 6 * N + svd_lwork(N)


cdef Py_ssize_t scratch_bytes(int N) noexcept nogil:
    return 64 * <Py_ssize_t> N + 4 * N + 8


cdef int factorise(int n, const double *correlations, double *K, double *delta) noexcept nogil:
    # Upper triangular K (n, n), K^T K = correlations + delta I with the smallest delta that works.
    cdef int i, col, _attempt
    delta[0] = 8 * n * EPS
    for _attempt in range(12):
        memcpy(K, correlations, n * n * sizeof(double))
        for i in range(n):
            K[i * n + i] += delta[0]
        if cholesky_upper(n, K, n) == 0:
            for i in range(n):
                for col in range(i):
                    K[i * n + col] = 0
            return 0
        delta[0] *= 16
    return 2


cdef bint from_shift(int n, int column, const double *X, double delta) noexcept nogil:
    # X = K^-1 [y_1 .. y_n]: is y_column there only thanks to the shift?
    cdef int i
    cdef double norm = 0
    for i in range(n):
        norm += X[i * n + column] * X[i * n + column]
    return delta * norm > 0.5


cdef void rotate_rows(int k, double *a, double *b, double cosine, double sine) noexcept nogil:
    # (a, b) <- (cosine a - sine b, sine a + cosine b)
    cdef int col
    cdef double old
    for col in range(k):
        old = a[col]
        a[col] = cosine * old - sine * b[col]
        b[col] = sine * old + cosine * b[col]


cdef void orthonormal_with_row_norms(int size, int k, const double *p, double *Z) noexcept nogil:
    # Z (size, k): orthonormal columns, |Z_i|^2 = p_i for p descending in [0, 1] with sum k (Schur-Horn).
    # Start from [I; 0]: the first k rows are too long, the others too short. Rotate a long row against a short
    # one until the one that is nearer to its length has it; each rotation finishes a row.
    cdef int high = 0, low = k, col
    cdef double long_, short_, inner, excess, target, a, b, root, t, cosine
    cdef double *row_high
    cdef double *row_low
    memset(Z, 0, size * k * sizeof(double))
    for col in range(k):
        Z[col * k + col] = 1
    while high < k and low < size:
        row_high = Z + high * k
        row_low = Z + low * k
        long_ = short_ = inner = 0
        for col in range(k):
            long_ += row_high[col] * row_high[col]
            short_ += row_low[col] * row_low[col]
            inner += row_high[col] * row_low[col]
        excess = long_ - p[high]
        if excess <= p[low] - short_:
            target = p[high]                    # finish the long row
        else:
            target = long_ + short_ - p[low]    # finish the short one
        # |cosine row_high - sine row_low|^2 = target: a t^2 + 2 inner t - b = 0 for t = tan
        a = target - short_
        b = long_ - target
        if b > 0 and a > 0:
            root = sqrt(inner * inner + a * b)
            t = b / (inner + root) if inner >= 0 else b / (inner - root)
            cosine = 1 / sqrt(1 + t * t)
            rotate_rows(k, row_high, row_low, cosine, t * cosine)
        if excess <= p[low] - short_:
            high += 1
        else:
            low += 1


cdef int kept_components(int n, int r, const double *sigma, double *tails) noexcept nogil:
    # The smallest j with (r - j) sigma_{j+1} <= sum_{i > j} sigma_i (1-based): those before it are kept exactly. n > r.
    # tails (n,) is scratch. Sums start from the smallest, so that tails[j] >= sigma[j] whatever the spread: j < r.
    cdef int i, j
    tails[n - 1] = sigma[n - 1]
    for i in range(n - 2, -1, -1):
        tails[i] = tails[i + 1] + sigma[i]
    for j in range(r - 1):
        if (r - j) * sigma[j] <= tails[j] * (1 + 4 * EPS):
            return j
    return r - 1


cdef double mixing_variance(int size, int k, const double *sigma, double s1) noexcept nogil:
    # s1^2 / k - s2 of a tail that k slots take, as a sum of what each component adds: nothing cancels.
    cdef int i
    cdef double variance = 0
    for i in range(size):
        variance += sigma[i] * max(0.0, s1 / k - sigma[i])
    return variance


cdef int fewest_terms(int n, int r, const double *sigma, double tolerance, double *spare) noexcept nogil:
    # The least rank up to r whose noise is at most tolerance |sigma|, or r. n >= r. spare (2 n,). Singular values are
    # taken relative to the largest, so that their squares stay in range.
    cdef double *tails = spare
    cdef double *relative = spare + n
    cdef double norm = 0
    cdef int i, j, rank
    for i in range(n):
        relative[i] = sigma[i] / sigma[0]
        norm += relative[i] * relative[i]
    for rank in range(1, r):
        j = kept_components(n, rank, relative, tails)
        if sqrt(mixing_variance(n - j, rank - j, relative + j, tails[j])) <= tolerance * sqrt(norm):
            return rank
    return r


cdef void keep_terms(int N, int r, int n, const int *active, double *mix_u, double *mix_A) noexcept nogil:
    # The n active terms come out as they are.
    cdef int i
    memset(mix_u, 0, N * r * sizeof(double))
    memset(mix_A, 0, N * r * sizeof(double))
    for i in range(n):
        mix_u[active[i] * r + i] = mix_A[active[i] * r + i] = 1


cdef double largest(int n, int columns, const double *X) noexcept nogil:
    # The largest entry, in size, of the first columns of X (n, n)
    cdef int i, col
    cdef double found = 0
    for i in range(n):
        for col in range(columns):
            found = max(found, fabs(X[i * n + col]))
    return found


cdef int reduce_terms(
    int N, int r, double tolerance, double *gram_u, double *gram_A, const double *signs, double start,
    double *scratch, void *bytes, double *mix_u, double *mix_A, Outcome *outcome,
) noexcept nogil:
    cdef int i, col, n = 0, live, j, k, tail, rank, at
    cdef double *K_u = scratch
    cdef double *K_A = K_u + N * N
    cdef double *core = K_A + N * N
    cdef double *X_u = core + N * N       # U, then K_u^-1 U
    cdef double *X_A = X_u + N * N        # V, then K_A^-1 V
    cdef double *V_T = X_A + N * N
    cdef double *spare = V_T + N * N
    cdef double *Z = spare + N * N
    cdef double *weighted = Z + N * N
    cdef double *norm_u = weighted + N * N
    cdef double *norm_A = norm_u + N
    cdef double *sigma = norm_A + N
    cdef double *p = sigma + N
    cdef double *work = p + 3 * N
    cdef int *active = <int *> bytes
    cdef void *iwork = <void *> (<char *> bytes + 4 * ((N + 1) // 2 * 2))
    cdef double delta_u = 0, delta_A = 0, s1 = 0, total = 0, value, amplitude, position
    outcome.rank = 0
    outcome.variance = 0
    outcome.mixed_fraction = 0
    outcome.precise_u = outcome.precise_A = False

    # Terms that are not zero, their norms, and the correlations between them
    for i in range(N):
        if not (isfinite(gram_u[i * N + i]) and isfinite(gram_A[i * N + i])):
            return 1
        if gram_u[i * N + i] > 0 and gram_A[i * N + i] > 0:
            active[n] = i
            norm_u[n] = sqrt(gram_u[i * N + i])
            norm_A[n] = sqrt(gram_A[i * N + i])
            n += 1
    if n == 0 or (n <= r and tolerance < 0):  # the others are zero: nothing to reduce
        outcome.rank = n
        keep_terms(N, r, n, active, mix_u, mix_A)
        return 0
    for i in range(n):
        for col in range(n):
            at = active[i] * N + active[col]
            X_u[i * n + col] = gram_u[at] / norm_u[i] / norm_u[col]
            X_A[i * n + col] = gram_A[at] / norm_A[i] / norm_A[col]
    if factorise(n, X_u, K_u, &delta_u) or factorise(n, X_A, K_A, &delta_A):
        return 1  # only NaN or Inf off the diagonal can do that

    # Core C = K_u diag(w) K_A^T and its SVD
    for i in range(n):
        for col in range(n):
            weighted[i * n + col] = K_u[i * n + col] * norm_u[col] * norm_A[col]
    gemm[double](False, True, n, n, n, 1.0, weighted, n, K_A, n, 0.0, core, n)
    if svd(n, core, X_u, sigma, V_T, spare, work, iwork) != 0:
        return 2
    # Signs of the singular vectors, fixed so that a draw means the same whatever LAPACK returns: the term that
    # is most like component col, K_u^T U_l at its largest, is like it with a plus.
    gemm[double](True, False, n, n, n, 1.0, K_u, n, X_u, n, 0.0, spare, n)
    for col in range(n):
        at = 0
        for i in range(n):
            if fabs(spare[i * n + col]) > fabs(spare[at * n + col]) * (1 + 1e-8):
                at = i
        value = -1 if spare[at * n + col] < 0 else 1
        for i in range(n):
            X_u[i * n + col] *= value
            X_A[i * n + col] = value * V_T[col * n + i]
    solve_upper(n, n, K_u, n, X_u, n)
    solve_upper(n, n, K_A, n, X_A, n)

    # Components that exist, in descending order
    live = 0
    for col in range(n):
        if sigma[col] <= n * EPS * sigma[0]:
            break
        if from_shift(n, col, X_u, delta_u) or from_shift(n, col, X_A, delta_A):
            continue
        if live != col:
            sigma[live] = sigma[col]
            for i in range(n):
                X_u[i * n + live] = X_u[i * n + col]
                X_A[i * n + live] = X_A[i * n + col]
        live += 1

    # How many terms come out: that depends on the singular values alone, never on the draw.
    rank = min(live, r)
    if tolerance >= 0:
        rank = fewest_terms(live, rank, sigma, tolerance, p)
    outcome.rank = rank
    if rank == n:
        keep_terms(N, r, n, active, mix_u, mix_A)
        return 0

    # X holds coefficients of terms of norm 1. Where they are large, terms cancel in the mixing, and float32's rounding
    # would show: it grows with the root of their size.
    outcome.precise_u = largest(n, live, X_u) > LARGE
    outcome.precise_A = largest(n, live, X_A) > LARGE

    # Keep j, mix the tail into k slots
    j = live if live == rank else kept_components(live, rank, sigma, p)
    k = rank - j
    tail = live - j
    for col in range(live):
        total += sigma[col]
    for col in range(j, live):
        s1 += sigma[col]
    if tail > 0:
        outcome.variance = mixing_variance(tail, k, sigma + j, s1)
        outcome.mixed_fraction = s1 / total
        for col in range(tail):
            p[col] = min(1.0, k * sigma[j + col] / s1)
        if signs != NULL:
            orthonormal_with_row_norms(tail, k, p, Z)
            for col in range(tail):
                for i in range(k):
                    Z[col * k + i] *= signs[j + col]
        else:
            # Systematic sampling: slot i takes the component where the running sum of p passes start + i.
            memset(Z, 0, tail * k * sizeof(double))
            position = 0
            at = 0
            for col in range(tail):
                position += p[col]
                if at < k and (start + at < position or col == tail - (k - at)):
                    Z[col * k + at] = 1
                    at += 1
    amplitude = sqrt(s1 / k) if tail > 0 else 0.0

    # mix = diag(1 / norm) K^-1 [U_j sqrt(sigma_j), sqrt(s1 / k) U_T diag(signs) Z], rows back to all N terms
    memset(mix_u, 0, N * r * sizeof(double))
    memset(mix_A, 0, N * r * sizeof(double))
    if tail > 0:
        gemm[double](False, False, n, k, tail, amplitude, X_u + j, n, Z, k, 0.0, K_u, k)
        gemm[double](False, False, n, k, tail, amplitude, X_A + j, n, Z, k, 0.0, K_A, k)
    for i in range(n):
        at = active[i] * r
        for col in range(j):
            value = sqrt(sigma[col])
            mix_u[at + col] = X_u[i * n + col] * value / norm_u[i]
            mix_A[at + col] = X_A[i * n + col] * value / norm_A[i]
        for col in range(k):
            mix_u[at + j + col] = K_u[i * k + col] / norm_u[i]
            mix_A[at + j + col] = K_A[i * k + col] / norm_A[i]
    # The coefficient of a tiny term may be beyond float32 though their product is not: double holds it.
    outcome.precise_u = outcome.precise_u or largest(1, N * r, mix_u) > BEYOND
    outcome.precise_A = outcome.precise_A or largest(1, N * r, mix_A) > BEYOND
    return 0


cdef void balance(
    int N, int m, Py_ssize_t size, const floating *u, const floating *A, double *scales_u, double *scales_A,
) noexcept nogil:
    # Powers of two that bring u_i and A_i to one exponent: squares of 1e-200 or 1e200 then stay in float64's range, and
    # coefficients in float32's. Their product is 1, so the term is the same. The bound keeps the scales in range.
    cdef int i, exponent_u = 0, exponent_A = 0, shift
    for i in range(N):
        frexp(largest_magnitude[floating](m, u + <Py_ssize_t> i * m), &exponent_u)
        frexp(largest_magnitude[floating](size, A + i * size), &exponent_A)
        shift = max(-1000, min(1000, (exponent_A - exponent_u) >> 1))
        scales_u[i] = ldexp(1, shift)
        scales_A[i] = ldexp(1, -shift)


cdef Py_ssize_t reduce_workspace(int N, int rank) noexcept nogil:
    # In the order of `reduce_sum`
    cdef Py_ssize_t n = N, r = min(rank, N)
    cdef Py_ssize_t doubles = 3 * n * r + 2 * n * n + 2 * n + scratch_doubles(N) + packed_doubles(N, <int> r)
    cdef Py_ssize_t pointers = 2 * n
    return (
        ALIGNMENT + doubles * <Py_ssize_t> sizeof(double) + pointers * <Py_ssize_t> sizeof(void *) + scratch_bytes(N))


cdef int reduce_sum(
    int N, int rank, int m, Py_ssize_t size, double tolerance, const floating *u, const floating *A,
    const double *signs, double start, floating *u_new, floating *A_new, void *workspace, double *variance,
) noexcept nogil:
    cdef int i, info, r = min(rank, N), found = FAILED
    cdef Py_ssize_t n = N
    cdef double *mix_u = <double *> aligned(workspace)
    cdef double *mix_A = mix_u + n * r
    cdef double *casts = mix_A + n * r          # of either type
    cdef double *gram_u = casts + n * r
    cdef double *gram_A = gram_u + n * n
    cdef double *scales_u = gram_A + n * n
    cdef double *scales_A = scales_u + n
    cdef double *scratch = scales_A + n
    cdef double *packed = scratch + scratch_doubles(N)
    cdef const floating **rows_u = <const floating **> (packed + packed_doubles(N, r))
    cdef const floating **rows_A = rows_u + n
    cdef void *bytes = <void *> (rows_A + n)
    cdef Outcome outcome
    outcome.variance = 0
    if rank >= N and tolerance < 0:
        if all_finite[floating](n * m, u) and all_finite[floating](n * size, A):
            found = N
    else:
        for i in range(N):
            rows_u[i] = u + <Py_ssize_t> i * m
            rows_A[i] = A + i * size
        balance[floating](N, m, size, u, A, scales_u, scales_A)
        gram_matrix[floating](N, m, rows_u, scales_u, packed, gram_u)
        gram_matrix[floating](N, size, rows_A, scales_A, packed, gram_A)
        info = reduce_terms(
            N, r, tolerance, gram_u, gram_A, signs, start, scratch, bytes, mix_u, mix_A, &outcome)
        if info == 2:
            found = NO_SVD
        elif info == 0 and outcome.rank < N:
            mix_terms[floating](N, r, outcome.rank, m, mix_u, outcome.precise_u, <floating *> casts, packed,
                                rows_u, scales_u, u_new, 1)
            mix_terms[floating](N, r, outcome.rank, size, mix_A, outcome.precise_A, <floating *> casts, packed,
                                rows_A, scales_A, A_new, 1)
            if (all_finite[floating](<Py_ssize_t> outcome.rank * m, u_new)
                    and all_finite[floating](outcome.rank * size, A_new)):
                found = outcome.rank
        elif info == 0:
            found = N
    if found == N:  # as they are
        memcpy(u_new, u, n * m * sizeof(floating))
        memcpy(A_new, A, n * size * sizeof(floating))
    i = max(0, found)
    memset(u_new + <Py_ssize_t> i * m, 0, (rank - i) * <Py_ssize_t> m * sizeof(floating))
    memset(A_new + i * size, 0, (rank - i) * size * sizeof(floating))
    if variance != NULL:
        variance[0] = outcome.variance if found >= 0 else 0
    return found


def reduce(
    const floating[:, ::1] u, const floating[:, :, ::1] A, double tolerance, const double[::1] signs, double start,
    floating[:, ::1] u_new, floating[:, :, ::1] A_new,
):
    """Reduce N terms to at most len(u_new), for `okcore.kron`: `reduce_sum` on whole arrays."""
    cdef int N = A.shape[0], m = u.shape[1], rank = u_new.shape[0], found
    cdef Py_ssize_t size = A.shape[1] * A.shape[2]
    cdef unsigned char[::1] workspace = np.empty(reduce_workspace(N, rank), np.uint8)
    cdef const double *draw = NULL
    if signs is not None:
        draw = &signs[0]
    with nogil:
        found = reduce_sum[floating](
            N, rank, m, size, tolerance, &u[0, 0], &A[0, 0, 0], draw, start, &u_new[0, 0], &A_new[0, 0, 0],
            &workspace[0], NULL)
    if found == NO_SVD:
        raise np.linalg.LinAlgError("reduce: LAPACK's SVD did not converge, gesdd and gesvd both")
    if found == FAILED:
        raise FloatingPointError(
            f"reduce: an inner product of terms, or the result, is not finite in {np.asarray(u_new).dtype}")
