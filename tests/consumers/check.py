"""python check.py MODULE: what a consumer computes, compared bit for bit with okcore.kron and otherwise with NumPy."""

import importlib
import sys

import numpy as np

import okcore
from okcore import kron


def check_reduce(consumer, u, A, rng):
    N = len(u)
    for rank in (1, N - 1, N, N + 2):
        u_new = np.full((rank, u.shape[1]), np.nan, u.dtype)
        A_new = np.full((rank, *A.shape[1:]), np.nan, u.dtype)
        used = min(N, rank)
        for signs, start in ((rng.choice([-1.0, 1.0], N), 0.0), (None, rng.random())):
            count, variance = consumer.reduce(u, A, signs, u_new, A_new, start)
            mixing = {"mixing": "sampling", "start": start} if signs is None else {"signs": signs}
            expected = kron.reduce(u, A, rank, **mixing)
            assert count == used and (variance > 0) == (rank < N)
            assert u_new[:used].tobytes() == expected[0].tobytes() and not u_new[used:].any()
            assert A_new[:used].tobytes() == expected[1].tobytes() and not A_new[used:].any()
    broken = u.copy()
    broken[0, 0] = np.nan
    assert consumer.reduce(broken, A, None, u_new, A_new, 0.5)[0] == -1


def check_contract(consumer, u, A, rng):
    v = rng.normal(size=A.shape[1]).astype(u.dtype)
    rows, gradient = np.empty((len(A), A.shape[2]), u.dtype), np.empty((A.shape[2], u.shape[1]), u.dtype)
    consumer.contract(v, u, A, rows, gradient)
    assert gradient.tobytes() == kron.contract(v, u, A).tobytes()


def check_left_multiply(consumer, u, A, rng):
    H = rng.normal(size=(3, A.shape[1])).astype(u.dtype)
    out = np.empty((len(A), 3, A.shape[2]), u.dtype)
    consumer.left_multiply(H, A, out)
    assert out.tobytes() == kron.left_multiply(H, A).tobytes()


def check_jacobian_times_factor(consumer, u, A, rng):
    k, G, n = 2, 3, 5
    S, P = k * n, G * n
    arrays = [rng.normal(size=shape).astype(u.dtype) for shape in ((k, G, n), (k, k, n), (P, n), (S, S))]
    d, c, W_h, Phi = arrays
    factor, M, Phi_next = (np.empty(shape, u.dtype) for shape in ((S, P), (S, n), (S, S)))
    D, H = (np.block([[np.diag(diagonal) for diagonal in row] for row in grid]) for grid in (d, c))
    H[:, :n] += D @ W_h
    for transition in (Phi, None):
        consumer.jacobian_times_factor(d, c, W_h, transition, factor, M, Phi_next)
        before = np.eye(S, dtype=u.dtype) if transition is None else transition
        np.testing.assert_allclose(factor, before @ D, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(M, D @ W_h, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(Phi_next, before @ H, rtol=1e-5, atol=1e-5)


def check_gemm(consumer, u, A, rng):
    left, right = u[:, :5].copy(), A[0]
    C = np.ones((len(left), right.shape[1]), u.dtype)
    consumer.gemm(left, right, C, 2, -1)
    np.testing.assert_allclose(C, 2 * left @ right - 1, rtol=1e-4, atol=1e-4)


def check_gram(consumer, u, A, rng):
    gram = np.empty((len(u), len(u)))
    consumer.gram(u, gram)
    np.testing.assert_allclose(gram, u.astype(np.float64) @ u.T.astype(np.float64), rtol=1e-13, atol=1e-13)


def check_api_version(consumer, u, A, rng):
    assert consumer.api_version() >= 1


consumer, checked = importlib.import_module(sys.argv[1]), []
for name, check in list(globals().items()):
    if name.startswith("check_") and hasattr(consumer, name.removeprefix("check_")):
        checked.append(name.removeprefix("check_"))
        for dtype in ("float32", "float64"):
            rng = np.random.default_rng(0)
            u, A = rng.normal(size=(6, 17)).astype(dtype), rng.normal(size=(6, 5, 33)).astype(dtype)
            check(consumer, u, A, rng)
print(okcore.__file__, consumer.__file__, *checked, sep="\n")
