"""The exported kernels: their signatures are locked, they are bitwise okcore.kron's, and any thread may call them.

They are called through ctypes, which holds no lock of the interpreter's meanwhile. What compilers make of them is in
test_consumers.py.
"""

import json
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest

from okcore import cython_kernels, kron
from tests.conftest import DTYPES
from tests.helpers import assert_close, exported_kernel, signature_of
from tests.test_reduction import CASES, problem, theory

PXD = Path(cython_kernels.__file__).parent / "cython_kernels.pxd"
SIGNATURES = Path(__file__).parent / "cython_kernels.json"
CANARY = 64  # bytes behind each result and workspace that must stay as they are
SIZES = [  # N, rank, m, S, P
    (1, 1, 1, 1, 1), (2, 1, 3, 2, 1), (3, 1, 1, 4, 5), (4, 4, 5, 3, 7), (5, 9, 4, 2, 3), (7, 3, 40, 20, 31),
    (12, 11, 37, 4, 70), (25, 9, 67, 16, 48),
]  # fmt: skip


def kernel(name, dtype):
    return exported_kernel({"float32": "s", "float64": "d"}[dtype] + name)


class Guarded:
    """Memory that holds no number yet, with a canary behind it; `offset` puts it at an odd address."""

    def __init__(self, nbytes, offset=0):
        self.memory = np.full(offset + nbytes + CANARY, 0xFF, np.uint8)
        self.inside, self.canary = self.memory[offset : offset + nbytes], self.memory[offset + nbytes :]

    def __enter__(self):
        return self.inside

    def __exit__(self, *exception):
        assert (self.canary == 0xFF).all()


def results(dtype, *shapes):
    return [Guarded(int(np.prod(shape)) * np.dtype(dtype).itemsize) for shape in shapes]


def reduce(u, A, rank, signs=None, start=0.0):
    """Return (terms that came out, u, A, variance), from a workspace at an odd address."""
    (N, m), dtype = u.shape, u.dtype.name
    size, variance = A.shape[1] * A.shape[2], np.full(1, np.nan)
    workspace = Guarded(kernel("kron_reduce_workspace", dtype)(N, rank), offset=1)
    held = results(dtype, (rank, m), (rank, size))
    with workspace as scratch, held[0] as u_new, held[1] as A_new:
        count = kernel("kron_reduce", dtype)(
            N, rank, m, size, u, A, signs, start, u_new, A_new, scratch, variance)
    return count, u_new.view(dtype).reshape(rank, m), A_new.view(dtype).reshape(rank, *A.shape[1:]), variance[0]


def same_bits(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_signatures_are_the_recorded_ones():
    # By the API version that added them. An addition is a new version; what stands in the file is never edited.
    recorded = {int(version): added for version, added in json.loads(SIGNATURES.read_text()).items()}
    assert list(recorded) == [*range(1, exported_kernel("api_version")() + 1)]
    exported = {name: signature_of(name) for name in cython_kernels.__pyx_capi__}
    assert exported == {name: signature for added in recorded.values() for name, signature in added.items()}


def test_declarations_need_nothing_but_c():
    argument = r"(const )?(int|Py_ssize_t|float|double|void) \*?\w+"
    declaration = rf"cdef (int|Py_ssize_t|void) \w+\(({argument}(, {argument})*)?\) noexcept nogil"
    text = re.sub(r'(?s)""".*?"""', "", PXD.read_text())
    lines = re.sub(r"[ \n]+", " ", re.sub("#.*", "", text)).strip().replace(" cdef", "\ncdef").split("\n")
    lines = [line.replace("( ", "(") for line in lines]
    assert [line for line in lines if not re.fullmatch(declaration, line)] == []
    assert len(lines) == len(cython_kernels.__pyx_capi__)


# ---- sums of Kronecker products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixing", ["signs", "sampling"])
@pytest.mark.parametrize("N, rank, m, S, P", SIZES)
def test_reductions_are_bitwise_those_of_kron(N, rank, m, S, P, mixing, dtype):
    for case in CASES if N > 1 else ["generic"]:
        u, A = problem(N, case, dtype, m, S, P, seed=N)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            draw = {"signs": rng.choice([-1.0, 1.0], N)} if mixing == "signs" else {"start": rng.random()}
            count, u_new, A_new, variance = reduce(u, A, rank, **draw)
            expected = kron.reduce(u, A, rank, mixing=mixing, **draw)
            used = min(N, rank)
            assert same_bits(u_new[:used], expected[0]) and same_bits(A_new[:used], expected[1])
            assert not u_new[max(0, count) :].any() and not A_new[max(0, count) :].any()
            if N <= rank:
                assert (count, variance) == (N, 0)
            else:
                assert (u_new[:count].any(axis=1) & A_new[:count].any(axis=(1, 2))).all()
                assert_close(variance, theory(u, A, rank)[0], dtype, factor=1e3) if case == "generic" else None


@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions_near_the_ends_of_the_range_are_those_of_kron(dtype):
    least, most = {"float32": (1e-44, 1e37), "float64": (5e-323, 1e307)}[dtype]
    u, A = problem(5, dtype=dtype)
    for scale_u, scale_A in ((least, most), (1 / most, most), (most, 1 / most)):
        pair = u * u.dtype.type(scale_u), A * u.dtype.type(scale_A)
        count, u_new, A_new, _ = reduce(*pair, 3, np.ones(5))
        expected = kron.reduce(*pair, 3, signs=np.ones(5))
        assert count == 3 and same_bits(u_new, expected[0]) and same_bits(A_new, expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_terms_and_no_terms(dtype):
    u, A = problem(6, dtype=dtype)
    A[[0, 2, 5]] = 0
    count, u_new, A_new, variance = reduce(u, A, 4, np.ones(6))
    expected = kron.reduce(u, A, 4, signs=np.ones(6))
    assert (count, variance) == (3, 0) and same_bits(u_new, expected[0]) and same_bits(A_new, expected[1])
    for zero in ((0 * u, A), (u, 0 * A), (u[:0], A[:0])):
        count, u_new, A_new, variance = reduce(*zero, 4)
        assert (count, variance) == (0, 0) and not u_new.any() and not A_new.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [3, 8])
def test_what_is_not_finite_is_minus_one(rank, dtype):
    for value in (np.nan, np.inf, -np.inf):
        for which in (0, 1):
            for term in range(6):
                pair = problem(6, dtype=dtype)
                pair[which][term].flat[-1] = value
                count, u_new, A_new, variance = reduce(*pair, rank, np.ones(6))
                assert (count, variance) == (-1, 0) and not u_new.any() and not A_new.any()
    if rank == 3:  # finite terms whose sum is not
        u, A = (np.full_like(array, np.finfo(dtype).max) for array in problem(6, dtype=dtype))
        count, u_new, A_new, _ = reduce(u, A, rank, np.ones(6))
        assert count == -1 and not u_new.any() and not A_new.any()
        with pytest.raises(FloatingPointError, match="not finite"):
            kron.reduce(u, A, rank, signs=np.ones(6))


def test_a_variance_that_nobody_wants_is_not_written():
    u, A = problem(5)
    workspace = np.empty(kernel("kron_reduce_workspace", "float64")(5, 2), np.uint8)
    u_new, A_new = np.empty((2, 6)), np.empty((2, 3, 4))
    assert kernel("kron_reduce", "float64")(5, 2, 6, 12, u, A, None, 0.5, u_new, A_new, workspace, None) == 2
    assert same_bits(u_new, kron.reduce(u, A, 2, mixing="sampling", start=0.5)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_workspaces_grow_with_both_sizes(dtype):
    sizes = [kernel("kron_reduce_workspace", dtype)(N, 7) for N in range(0, 40)]
    assert sizes == sorted(sizes)
    sizes = [kernel("kron_reduce_workspace", dtype)(20, rank) for rank in range(1, 40)]
    assert sizes == sorted(sizes)
    assert kernel("kron_reduce_workspace", dtype)(40000, 20) > 11 * 8 * 40000**2  # beyond an int


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, rank, m, S, P", SIZES)
def test_products_with_a_sum_are_bitwise_those_of_kron(N, rank, m, S, P, dtype):
    u, A = problem(N, dtype=dtype, m=m, S=S, P=P)
    rng = np.random.default_rng(1)
    v, H = rng.normal(size=S).astype(dtype), rng.normal(size=(rank, S)).astype(dtype)
    rows, gradient, out = results(dtype, (N, P), (P, m), (N, rank, P))
    with rows as scratch, gradient as found, out as factors:
        kernel("kron_contract", dtype)(N, S, P, m, v, u, A, scratch, found)
        kernel("kron_left_multiply", dtype)(N, rank, S, P, H, A, factors)
    assert same_bits(found.view(dtype).reshape(P, m), kron.contract(v, u, A))
    assert same_bits(factors.view(dtype).reshape(N, rank, P), kron.left_multiply(H, A))


# ---- Jacobian-times-factor, products ---------------------------------------------------------------------------------


def dense(grid):
    """Return the matrix (k n, G n) whose blocks are diagonal, from its diagonals (k, G, n)."""
    return np.block([[np.diag(diagonal) for diagonal in row] for row in grid])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k, G, n", [(1, 1, 1), (1, 3, 5), (2, 4, 19), (3, 2, 8)])
def test_jacobian_times_factor(k, G, n, dtype):
    rng = np.random.default_rng(0)
    S, P = k * n, G * n
    Phi, d, c, W_h = (rng.normal(size=shape).astype(dtype) for shape in ((S, S), (k, G, n), (k, k, n), (P, n)))
    D, H = dense(d), dense(c)
    M = D @ W_h
    H[:, :n] += M
    held = results(dtype, (S, n), *[(S, P)] * 2, *[(S, S)] * 2)
    found = [guarded.inside.view(dtype) for guarded in held]
    kernel("jacobian_dense_part", dtype)(k, G, n, d, W_h, found[0])
    for i, transition in enumerate((Phi, None)):
        kernel("immediate_factor", dtype)(k, G, n, transition, d, found[1 + i])
        kernel("transition_times_jacobian", dtype)(k, n, transition, found[0], c, found[3 + i])
    for one, expected, guarded in zip(found, (M, Phi @ D, D, Phi @ H, H), held, strict=True):
        assert_close(one.reshape(expected.shape), expected, dtype)
        with guarded:
            pass


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (1, 9, 4), (5, 1, 3), (3, 7, 0), (1, 7, 0), (17, 33, 20), (40, 50, 60)])
def test_gemm(m, n, k, dtype):
    rng = np.random.default_rng(0)
    A, B, C = (rng.normal(size=shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    for alpha, beta in ((1, 0), (2, 1), (0, 0.5), (-0.5, -3)):
        out = np.full_like(C, np.nan) if beta == 0 else C.copy()  # it is not read then
        kernel("gemm", dtype)(m, n, k, alpha, A, B, beta, out)
        assert_close(out, alpha * A.astype(float) @ B + beta * C, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, columns", [(1, 1), (2, 300), (3, 0), (5, 256), (13, 1000)])
def test_gram(N, columns, dtype):
    X = np.random.default_rng(0).normal(size=(N, columns)).astype(dtype)
    workspace, out = Guarded(kernel("gram_workspace", dtype)(N), offset=3), Guarded(8 * N * N)
    with workspace as scratch, out as found:
        kernel("gram", dtype)(N, columns, X, scratch, found)
    gram = found.view(np.float64).reshape(N, N)
    assert_close(gram, X.astype(np.float64) @ X.T.astype(np.float64), "float64")
    assert same_bits(gram, np.ascontiguousarray(gram.T))


# ---- threads --------------------------------------------------------------------------------------------------------


def test_many_threads_at_once_change_no_bit():
    u, A = problem(24, m=65, S=16, P=32, dtype="float32")
    pairs = [(u, A), (u[:11].astype("float64"), A[:11].astype("float64"))]

    def work(seed):
        signs = np.random.default_rng(seed % 4).choice([-1.0, 1.0], 24)
        count, *terms, variance = reduce(*pairs[seed % 2], 8, signs)
        return count, *(array.tobytes() for array in terms), variance

    expected = [work(seed) for seed in range(4)]
    with ThreadPool(8) as pool:
        found = pool.map(work, range(200), chunksize=1)
    assert all(found[seed] == expected[seed % 4] for seed in range(200))
