"""Kernels on plain pointers: products, Jacobian-times-factor, Gram matrices, contraction, mixing.

Notation is that of docs/mathematics.md: lanes B, units n, gates G, P = G n rows of
pre-activations, state blocks k, S = k n, terms per step q, augmented input of length m. A "grid" of diagonals
is `d` (k, G, n) for D (S, P), or `c` (k, k, n) for C (S, S). All matrices are row-major and contiguous.
"""

from cython cimport floating

cdef enum:
    ALIGNMENT = 64   # bytes of a cache line

# The first place in a workspace where a cache line starts; ALIGNMENT bytes are there for that.
cdef inline void *aligned(void *workspace) noexcept nogil:
    return <void *> ((<size_t> workspace + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)

# C (m, n) <- alpha op(A) op(B) + beta C, op(A) (m, k), op(B) (k, n), leading dimension = row stride; not both
# transposed. 2 m n k flops; hand-written, by BLAS in the baseline.
cdef void gemm(
    bint trans_a, bint trans_b, int m, int n, int k,
    floating alpha, const floating *A, int lda, const floating *B, int ldb, floating beta, floating *C, int ldc,
) noexcept nogil

# Where in `count` rows does part `part` of `parts` begin?  At a multiple of `grain`; the last part takes the rest.
cdef int part_start(int count, int grain, int part, int parts) noexcept nogil

# In how many parts do `work` multiply-adds over `count` rows pay?  1 where a row's result would depend on the parts.
cdef int parts_that_pay(int count, int grain, Py_ssize_t work, int threads) noexcept nogil

# C (m, n) <- alpha A^T B + beta C, A (k, m), with rows of C over threads; the same bits for any number of them.
cdef void transposed_gemm(
    int m, int n, int k, floating alpha, const floating *A, int lda, const floating *B, int ldb,
    floating beta, floating *C, int ldc, int threads,
) noexcept nogil

# C (m, n) <- alpha op(A) B + beta C, with columns of C over threads; the same bits for any number of them.
cdef void gemm_by_columns(
    bint trans_a, int m, int n, int k, floating alpha, const floating *A, int lda, const floating *B, int ldb,
    floating beta, floating *C, int ldc, int threads,
) noexcept nogil

# u_hat (B, q, m) of the inputs, the previous state (B, S) and the bias columns.
# x (B, v), or NULL when `symbols` (B,) stand for one-hot rows.
cdef void augmented_input(
    int lanes, int q, int v, int n, int S,
    const floating *x, const long long *symbols, const floating *state, floating *u_hat,
) noexcept nogil

# Y (columns, rows) = X^T, rows of Y ldy apart
cdef void transpose(int rows, int columns, const floating *X, floating *Y, int ldy) noexcept nogil

# How far apart rows of a copy of theta^T lie: P is often a power of two, and its columns would share few cache sets.
cdef inline int theta_T_row(int P) noexcept nogil:
    return P + 16

# pre (B, q, P) = u_hat (B, q, m) theta^T; theta_T (m, theta_T_row(P)) holds theta^T, or is NULL
cdef void preactivations(
    int lanes, int q, int v, int n, int P, const floating *u_hat, const floating *theta, const floating *theta_T,
    floating *pre,
) noexcept nogil

# gradient (P, m) = (or += if add) sum e^T u_hat over `rows` rows, each `every`-th one of e (.., q, P) and u_hat
# (.., q, m); `sums` (q, P) is scratch.
cdef void outer_products(
    int rows, int every, int q, int v, int n, int P, const floating *e, const floating *u_hat, floating *sums,
    floating *gradient, bint add, int threads,
) noexcept nogil

# A (S, P) = Phi D, Phi (S, S); Phi NULL stands for the identity.
cdef void immediate_factor(
    int k, int G, int n, const floating *Phi, const floating *d, floating *A,
) noexcept nogil

# M (S, n) = D* W_h, the dense part of the state Jacobian H = D* W_h E_h + C.
cdef void dense_part(int k, int G, int n, const floating *d_rec, const floating *W_h, floating *M) noexcept nogil

# Phi_next (S, S) = Phi H = Phi M E_h + Phi C; Phi NULL stands for the identity.
cdef void transition_times_jacobian(
    int k, int n, const floating *Phi, const floating *M, const floating *c, floating *Phi_next,
) noexcept nogil

# e (B, q, P): rows delta D^j of every lane, delta (B, S), d (B, q, k, G, n).
cdef void credit_times_immediate(
    int lanes, int q, int k, int G, int n, const floating *delta, const floating *d, floating *e,
) noexcept nogil

# delta_before (B, S) = delta H = (delta D*) W_h E_h + delta C, with delta D* read from the last row of e (B, q, P).
cdef void credit_times_jacobian(
    int lanes, int q, int k, int G, int n,
    const floating *e, const floating *W_h, const floating *c, const floating *delta, floating *delta_before,
) noexcept nogil

# J (k, G, n, m) <- H J + sum_j d_j (x) u_j, J what a unit's own rows of theta do to its own state; H (k, k, n),
# d (q, k, G, n), u (q, m).  False if something in J is then not finite.
cdef bint own_unit_update(
    int k, int q, int G, int n, int m, const floating *H, const floating *d, const floating *u, floating *J,
) noexcept nogil

# gradient (P, m) = (or += if add) delta J, with delta (k, n) and J (k, G, n, m) as above
cdef void own_unit_contract(
    int k, int G, int n, int m, const floating *delta, const floating *J, bint add, floating *gradient,
) noexcept nogil

# gram (N, N) = X X^T in float64, X (N, columns) given by its rows, times their scales (N,) unless those are NULL;
# packed (packed_doubles) is scratch
cdef void gram_matrix(
    int N, Py_ssize_t columns, const floating **rows, const double *scales, double *packed, double *gram,
) noexcept nogil

# x . y and x . x, accumulated in float64
cdef double dot_in_double(Py_ssize_t size, const floating *x, const floating *y) noexcept nogil
cdef double sum_of_squares(Py_ssize_t size, const floating *x) noexcept nogil

# y <- a x + b y
cdef void axpby(Py_ssize_t size, double a, const floating *x, double b, floating *y) noexcept nogil

# outputs (rows, columns) <- scale (softmax of each row - one at its symbol y); returns the sum of -log softmax[y]
cdef double softmax_credit(
    Py_ssize_t rows, Py_ssize_t columns, const long long *y, double scale, floating *outputs,
) noexcept nogil

# mean <- beta1 mean + (1 - beta1) g, square <- beta2 square + (1 - beta2) g^2,
# parameter <- parameter - rate mean / (sqrt(correction square) + eps), in place; or, unless `write`, only a test of
# whether they would all be finite.
cdef bint adam(
    bint write, Py_ssize_t size, double beta1, double beta2, double eps, double rate, double correction,
    const floating *gradient, floating *parameter, floating *mean, floating *square,
) noexcept nogil

cdef bint all_finite(Py_ssize_t size, const floating *x) noexcept nogil

# max |x|, NaN apart
cdef double largest_magnitude(Py_ssize_t size, const floating *x) noexcept nogil

# A test for Inf and NaN of one dtype
ctypedef bint (*finite_function)(Py_ssize_t size, const void *x) noexcept nogil
cdef finite_function finite_function_for(bint single) noexcept nogil

# X_new (rank, columns) = mix^T X for X (N, columns) given by its rows, times their scales (N,) unless those are NULL,
# mix (N, r). X_new may be where rows of X are. casts (N r of the dtype) and packed (packed_doubles per thread) are
# scratch. `precise`: in double, for coefficients so large that the terms cancel. Columns go over threads; the same bits
# for any number of them.
cdef Py_ssize_t packed_doubles(int N, int r) noexcept nogil
cdef void mix_terms(
    int N, int r, int rank, Py_ssize_t columns, const double *mix, bint precise, floating *casts, double *packed,
    const floating **rows, const double *scales, floating *X_new, int threads,
) noexcept nogil

# X (S, columns) <- Phi X, Phi (S, S), where rows of X are ldx apart; copy is scratch of 512 S bytes, and (S, columns)
cdef void multiply_in_place(
    int S, int columns, const floating *Phi, floating *X, int ldx, floating *copy,
) noexcept nogil

# y (n,) <- x (k,) B (k, n) + beta y, bound by reading B, over at most `threads` threads; all_entries, those of B among
# them, are read before B is read again
cdef void contract_matrix(
    Py_ssize_t all_entries, int n, int k, const floating *x, const floating *B, floating beta, floating *y, int threads,
) noexcept nogil

# gradient (P, m) = sum_i (v A_i)^T u_i, v (S,), u (N, m), A (N, S, P); rows (N, P) is scratch
cdef void contract_sum(
    int N, int S, int P, int m, const floating *v, const floating *u, const floating *A, floating *rows,
    floating *gradient,
) noexcept nogil

# out_i (T, P) = H (T, S) A_i (S, P) for N factors
cdef void left_multiply_factors(
    int N, int T, int S, int P, const floating *H, const floating *A, floating *out,
) noexcept nogil

# The pointwise step of a built-in cell, by its name in _simd/cells.h; NULL if there is none.
ctypedef void (*pointwise_function)(
    Py_ssize_t lanes, Py_ssize_t n, void *pre, const void *state, void *state_next, void *d, void *c,
) noexcept nogil
cdef pointwise_function pointwise_step(const char *name, bint single) noexcept nogil

# The threads to use of n: 1 in a forked child, whose parent's OpenMP threads are not there
cdef int threads_of(int n) noexcept nogil
