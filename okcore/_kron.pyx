"""The kernels by themselves, on whole arrays: the compiled half of okcore.kron."""

from cython cimport floating

import numpy as np

from okcore._kernels cimport PANEL_STRIDE, gemm, gram_matrix
from okcore._carries.reduction cimport Outcome, mix_terms, reduce_terms, scratch_bytes, scratch_doubles


def contract(const floating[::1] v, const floating[:, ::1] u, const floating[:, :, ::1] A, floating[:, ::1] out):
    """out (P, m) = sum_i (v A_i)^T u_i."""
    cdef int N = A.shape[0], S = A.shape[1], P = A.shape[2], m = u.shape[1], i
    cdef floating[:, ::1] rows = np.zeros((N, P), np.asarray(out).dtype)
    with nogil:
        for i in range(N):
            gemm[floating](False, False, 1, P, S, 1, &v[0], S, &A[i, 0, 0], P, 0, &rows[i, 0], P)
        gemm[floating](True, False, P, m, N, 1, &rows[0, 0], P, &u[0, 0], m, 0, &out[0, 0], m)


def left_multiply(const floating[:, ::1] H, const floating[:, :, ::1] A, floating[:, :, ::1] out):
    """out_i = H A_i."""
    cdef int N = A.shape[0], S = A.shape[1], P = A.shape[2], rows = H.shape[0], i
    with nogil:
        for i in range(N):
            gemm[floating](False, False, rows, P, S, 1, &H[0, 0], S, &A[i, 0, 0], P, 0, &out[i, 0, 0], P)


def reduce(
    const floating[:, ::1] u, const floating[:, :, ::1] A, const double[::1] signs, double start,
    floating[:, ::1] u_new, floating[:, :, ::1] A_new,
):
    """N terms to len(u_new); signs None for systematic sampling. Returns (info, variance, mixed fraction)."""
    cdef int N = A.shape[0], m = u.shape[1], r = u_new.shape[0], info
    cdef Py_ssize_t size = A.shape[1] * A.shape[2]
    cdef double[::1] gram_u = np.zeros(N * N), gram_A = np.zeros(N * N)
    cdef double[::1] panel = np.zeros(N * PANEL_STRIDE)
    cdef double[::1] mix_u = np.zeros(N * r), mix_A = np.zeros(N * r), scratch = np.zeros(scratch_doubles(N))
    cdef double[::1] words = np.zeros(scratch_bytes(N) // 8 + 1)
    cdef floating[::1] casts = np.zeros(2 * N * r, np.asarray(u_new).dtype)
    cdef const double *draw = NULL
    cdef Outcome outcome
    if signs is not None:
        draw = &signs[0]
    with nogil:
        gram_matrix[floating](N, m, &u[0, 0], &panel[0], &gram_u[0])
        gram_matrix[floating](N, size, &A[0, 0, 0], &panel[0], &gram_A[0])
        info = reduce_terms(N, r, &gram_u[0], &gram_A[0], draw, start, &scratch[0], <void *> &words[0],
                            &mix_u[0], &mix_A[0], &outcome)
        if info == 0:
            mix_terms[floating](N, r, outcome.rank, m, size, &mix_u[0], &mix_A[0], &casts[0],
                                &u[0, 0], &A[0, 0, 0], &u_new[0, 0], &A_new[0, 0, 0], 1)
    return info, outcome.variance, outcome.mixed_fraction
