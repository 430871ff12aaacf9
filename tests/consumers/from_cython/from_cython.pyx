"""Every kernel that okcore exports, called from Cython on arrays of either type, without the interpreter's lock."""

from cython cimport floating
from libc.stdlib cimport free, malloc

from okcore cimport cython_kernels
from okcore.cython_kernels cimport dkron_reduce, dkron_reduce_workspace, skron_reduce, skron_reduce_workspace


def reduce(
    const floating[:, ::1] u, const floating[:, :, ::1] A, const double[::1] signs, floating[:, ::1] u_new,
    floating[:, :, ::1] A_new, double start=0,
):
    """Return (terms that came out, variance); start counts where signs is None."""
    cdef int N = u.shape[0], rank = u_new.shape[0], m = u.shape[1], count
    cdef Py_ssize_t SP = A.shape[1] * A.shape[2]
    cdef double variance
    cdef const double *draw = NULL if signs is None else &signs[0]
    cdef void *workspace
    with nogil:
        if floating is float:
            workspace = malloc(skron_reduce_workspace(N, rank))
            count = skron_reduce(
                N, rank, m, SP, &u[0, 0], &A[0, 0, 0], draw, start, &u_new[0, 0], &A_new[0, 0, 0], workspace, &variance)
        else:
            workspace = malloc(dkron_reduce_workspace(N, rank))
            count = dkron_reduce(
                N, rank, m, SP, &u[0, 0], &A[0, 0, 0], draw, start, &u_new[0, 0], &A_new[0, 0, 0], workspace, &variance)
        free(workspace)
    return count, variance


def contract(
    const floating[::1] v, const floating[:, ::1] u, const floating[:, :, ::1] A, floating[:, ::1] rows,
    floating[:, ::1] gradient,
):
    cdef int N = A.shape[0], S = A.shape[1], P = A.shape[2], m = u.shape[1]
    with nogil:
        if floating is float:
            cython_kernels.skron_contract(N, S, P, m, &v[0], &u[0, 0], &A[0, 0, 0], &rows[0, 0], &gradient[0, 0])
        else:
            cython_kernels.dkron_contract(N, S, P, m, &v[0], &u[0, 0], &A[0, 0, 0], &rows[0, 0], &gradient[0, 0])


def left_multiply(const floating[:, ::1] H, const floating[:, :, ::1] A, floating[:, :, ::1] out):
    cdef int N = A.shape[0], T = H.shape[0], S = A.shape[1], P = A.shape[2]
    with nogil:
        if floating is float:
            cython_kernels.skron_left_multiply(N, T, S, P, &H[0, 0], &A[0, 0, 0], &out[0, 0, 0])
        else:
            cython_kernels.dkron_left_multiply(N, T, S, P, &H[0, 0], &A[0, 0, 0], &out[0, 0, 0])


def jacobian_times_factor(
    const floating[:, :, ::1] d, const floating[:, :, ::1] c, const floating[:, ::1] W_h, const floating[:, ::1] Phi,
    floating[:, ::1] A, floating[:, ::1] M, floating[:, ::1] Phi_next,
):
    """A = Phi D and Phi_next = Phi H; Phi may be None, for the identity."""
    cdef int k = d.shape[0], G = d.shape[1], n = d.shape[2]
    cdef const floating *transition = NULL if Phi is None else &Phi[0, 0]
    with nogil:
        if floating is float:
            cython_kernels.simmediate_factor(k, G, n, transition, &d[0, 0, 0], &A[0, 0])
            cython_kernels.sjacobian_dense_part(k, G, n, &d[0, 0, 0], &W_h[0, 0], &M[0, 0])
            cython_kernels.stransition_times_jacobian(k, n, transition, &M[0, 0], &c[0, 0, 0], &Phi_next[0, 0])
        else:
            cython_kernels.dimmediate_factor(k, G, n, transition, &d[0, 0, 0], &A[0, 0])
            cython_kernels.djacobian_dense_part(k, G, n, &d[0, 0, 0], &W_h[0, 0], &M[0, 0])
            cython_kernels.dtransition_times_jacobian(k, n, transition, &M[0, 0], &c[0, 0, 0], &Phi_next[0, 0])


def gemm(const floating[:, ::1] A, const floating[:, ::1] B, floating[:, ::1] C, double alpha, double beta):
    """C = alpha A B + beta C."""
    cdef int m = A.shape[0], n = B.shape[1], k = B.shape[0]
    with nogil:
        if floating is float:
            cython_kernels.sgemm(m, n, k, <float> alpha, &A[0, 0], &B[0, 0], <float> beta, &C[0, 0])
        else:
            cython_kernels.dgemm(m, n, k, alpha, &A[0, 0], &B[0, 0], beta, &C[0, 0])


def gram(const floating[:, ::1] X, double[:, ::1] out):
    cdef int N = X.shape[0]
    cdef Py_ssize_t columns = X.shape[1]
    cdef void *workspace
    with nogil:
        if floating is float:
            workspace = malloc(cython_kernels.sgram_workspace(N))
            cython_kernels.sgram(N, columns, &X[0, 0], workspace, &out[0, 0])
        else:
            workspace = malloc(cython_kernels.dgram_workspace(N))
            cython_kernels.dgram(N, columns, &X[0, 0], workspace, &out[0, 0])
        free(workspace)


def api_version():
    return cython_kernels.api_version()
