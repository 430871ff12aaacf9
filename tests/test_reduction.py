"""Truths 5 and 6: one reduction is unbiased over all its draws, with the error that theory gives, and the least."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import okcore
from okcore import kron, reference
from tests.conftest import CELLS, DTYPES, EVERY_ESTIMATOR
from tests.helpers import assert_close, in_reference, make_cell, reference_of, stream

CASES = ["generic", "equal A", "equal u", "zero term", "graded", "unbalanced", "opposite"]


def problem(N, case="generic", dtype="float64", m=6, S=3, P=4, seed=0):
    rng = np.random.default_rng(seed)
    u, A = rng.normal(size=(N, m)), rng.normal(size=(N, S, P))
    if case == "equal A":
        A[0] = A[-1]
    elif case == "equal u":
        u[1] = -2 * u[0]
    elif case == "zero term":
        A[1] = 0
    elif case == "graded":
        u *= np.logspace(0, -5, N)[:, None]
    elif case == "unbalanced":
        u *= np.logspace(-4, 4, N)[:, None]
        A /= np.logspace(-4, 4, N)[:, None, None]
    elif case == "opposite":
        u[1], A[1] = u[0], -A[0]
    return u.astype(dtype), A.astype(dtype)


def theory(u, A, rank):
    """Return (variance, p) of the optimal reduction from the singular values, in float64 and by QR."""
    L, R = u.astype(np.float64).T, A.astype(np.float64).reshape(len(A), -1).T
    variance, p, _ = theory_of(np.linalg.svd(np.linalg.qr(L)[1] @ np.linalg.qr(R)[1].T, compute_uv=False), rank)
    return variance, p


def theory_of(sigma, rank, least=1e-12):
    """Return (variance, p, the share of the singular values that is mixed) of the optimal reduction."""
    sigma = sigma[sigma > least * sigma[0]]
    if len(sigma) <= rank:
        return 0.0, np.zeros(0), 0.0
    j = next(j for j in range(rank) if (rank - j) * sigma[j] <= sigma[j:].sum() * (1 + 1e-14))
    tail, k = sigma[j:], rank - j
    return tail.sum() ** 2 / k - (tail**2).sum(), k * tail / tail.sum(), tail.sum() / sigma.sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("N, rank", [(4, 3), (5, 3), (8, 3), (6, 1), (3, 2), (2, 1)])
def test_mean_over_all_signs_is_the_target_and_every_error_is_the_variance(N, rank, case, dtype):
    u, A = problem(N, case, dtype)
    J = kron.to_dense(u.astype(np.float64), A.astype(np.float64))
    variance, _ = theory(u, A, rank)
    draws = [
        kron.to_dense(*(x.astype(np.float64) for x in kron.reduce(u, A, rank, signs=np.array(signs))))
        for signs in itertools.product((-1, 1), repeat=N)
    ]
    # relative to the terms, which may cancel
    room = {"float32": 1e-5, "float64": 1e-11}[dtype]
    size = np.linalg.norm(u.astype(np.float64), axis=1) @ np.linalg.norm(A.astype(np.float64), axis=(1, 2))
    assert np.abs(np.mean(draws, axis=0) - J).max() < room * size
    errors = [np.square(draw - J).sum() for draw in draws]
    np.testing.assert_allclose(errors, variance, rtol=100 * room, atol=1e-2 * room * size**2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("N, rank", [(4, 3), (5, 3), (8, 3), (6, 1), (13, 4)])
def test_sampling_is_the_target_in_the_mean_over_its_start(N, rank, case, dtype):
    # The draw is piecewise constant in `start`, with breaks where the running sum of p is start + integer.
    u, A = problem(N, case, dtype)
    J = kron.to_dense(u.astype(np.float64), A.astype(np.float64))
    variance, p = theory(u, A, rank)
    breaks = np.unique(np.concatenate([[0, 1], np.cumsum(p) % 1]))
    mean, error = 0, 0
    for low, high in itertools.pairwise(breaks):
        if high - low < 1e-13:
            continue
        reduced = kron.reduce(u, A, rank, mixing="sampling", start=(low + high) / 2)
        draw = kron.to_dense(*(x.astype(np.float64) for x in reduced))
        mean = mean + (high - low) * draw
        error += (high - low) * np.square(draw - J).sum()
    room = {"float32": 1e-5, "float64": 1e-11}[dtype]
    assert_close(mean, J, dtype)
    np.testing.assert_allclose(error, variance, rtol=100 * room, atol=room * np.square(J).sum() * 1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, m, S, P", [(9, 2, 3, 4), (9, 6, 1, 2), (12, 3, 2, 2), (5, 1, 1, 1)])
def test_small_factors_make_small_cores(N, m, S, P, dtype):
    # At most min(m, S P) directions exist: a rank of that size is exact.
    u, A = problem(N, "generic", dtype, m, S, P)
    exact = kron.reduce(u, A, min(m, S * P))
    assert_close(kron.to_dense(*exact), kron.to_dense(u, A), dtype)


@pytest.mark.parametrize("mixing", ["signs", "sampling"])
def test_one_draw_is_the_references(mixing):
    rng = np.random.default_rng(1)
    for N, rank in [(4, 3), (9, 4), (20, 8), (40, 8)]:
        u, A = problem(N, m=50, S=7, P=9, seed=N)
        signs, start = np.where(rng.random(N) < 0.5, -1.0, 1.0), rng.random()
        draw = {"signs": signs} if mixing == "signs" else {"start": start}
        plain_u, plain_A, _ = reference.reduce(u, A, rank, **draw)
        compiled = kron.to_dense(*kron.reduce(u, A, rank, mixing=mixing, **draw))
        assert_close(compiled, kron.to_dense(plain_u, plain_A), "float64", factor=10)


def test_balanced_and_at_most_rank_terms_come_out():
    u, A = problem(9)
    u_new, A_new = kron.reduce(u, A, 4, rng=0)
    assert u_new.shape == (4, 6) and A_new.shape == (4, 3, 4)
    np.testing.assert_allclose(np.linalg.norm(u_new, axis=1), np.linalg.norm(A_new, axis=(1, 2)))
    for rank in (9, 20):
        same_u, same_A = kron.reduce(u, A, rank)
        assert np.array_equal(same_u, u) and np.array_equal(same_A, A) and same_u is not u
    zero = kron.reduce(0 * u, A, 4)
    assert not kron.to_dense(*zero).any()


def kf_variance(u, A):
    """Return KF-RTRL's variance of N terms to one, over all signs."""
    gram_u, gram_A = u @ u.T, np.einsum("isp,jsp->ij", A, A)
    norm = np.sqrt(np.diagonal(gram_u) * np.diagonal(gram_A))
    off = ~np.eye(len(u), dtype=bool)
    return (np.outer(norm, norm) + gram_u * gram_A)[off].sum()


def test_kf_variance_formula():
    u, A = problem(4)
    J = kron.to_dense(u, A)
    p = np.sqrt(np.linalg.norm(A, axis=(1, 2)) / np.linalg.norm(u, axis=1))
    errors = []
    for signs in itertools.product((-1, 1), repeat=4):
        c = np.array(signs)
        errors.append(np.square(np.multiply.outer(np.tensordot(c / p, A, 1), (c * p) @ u) - J).sum())
    np.testing.assert_allclose(np.mean(errors), kf_variance(u, A))


@pytest.mark.parametrize("seed", range(5))
def test_variance_is_the_smallest_and_falls_with_rank(seed):
    # r = 1: at most KF-RTRL's; r: at most that of r averaged copies, and of grouping terms and summing each group.
    u, A = problem(8, seed=seed)
    ok = [theory(u, A, rank)[0] for rank in range(1, 9)]
    kf = kf_variance(u, A)
    assert ok[0] <= kf * (1 + 1e-12)
    for rank, variance in enumerate(ok, 1):
        assert variance <= kf / rank * (1 + 1e-12)
        groups = np.array_split(np.arange(8), rank)
        assert variance <= sum(kf_variance(u[g], A[g]) for g in groups) * (1 + 1e-12) + 1e-12
    assert all(a > b for a, b in itertools.pairwise(ok[:6])) and ok[-1] == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    N=st.integers(1, 12), rank=st.integers(1, 6), m=st.integers(1, 8), S=st.integers(1, 4), P=st.integers(1, 4),
    seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
)
def test_any_input_gives_the_error_that_theory_gives(N, rank, m, S, P, seed, scale):
    # Integer entries: many exactly repeated, parallel and zero directions.
    rng = np.random.default_rng(seed)
    u = rng.integers(-1, 2, (N, m)) * scale
    A = rng.integers(-1, 2, (N, S, P)) / scale
    if not (np.abs(u).sum(axis=1) * np.abs(A).sum(axis=(1, 2))).any():
        assert not kron.to_dense(*kron.reduce(u, A, rank, rng=seed)).any()
        return
    J = kron.to_dense(u, A)
    draw = kron.to_dense(*kron.reduce(u, A, rank, rng=seed))
    size = np.square(np.linalg.norm(u, axis=1) @ np.linalg.norm(A, axis=(1, 2)))
    variance = theory(u / scale, A * scale, rank)[0]
    np.testing.assert_allclose(np.square(draw - J).sum(), variance if N > rank else 0, rtol=1e-8, atol=1e-10 * size)


def test_kronecker_order():
    u, A = problem(3)
    J = sum(np.kron(A_i, u_i[None]) for A_i, u_i in zip(A, u, strict=True))
    np.testing.assert_allclose(kron.to_dense(u, A).reshape(3, -1), J)


@pytest.mark.parametrize("dtype", DTYPES)
def test_contract_and_left_multiply_are_products_with_the_dense_matrix(dtype):
    rng = np.random.default_rng(0)
    for N, S, P, m in [(1, 1, 1, 1), (3, 4, 5, 6), (16, 30, 60, 35)]:
        u, A = problem(N, "generic", dtype, m, S, P)
        J, v, H = kron.to_dense(u, A), rng.normal(size=S).astype(dtype), rng.normal(size=(S, S)).astype(dtype)
        assert_close(kron.contract(v, u, A), np.tensordot(v, J, 1), dtype)
        assert_close(kron.to_dense(u, kron.left_multiply(H, A)), np.tensordot(H, J, 1), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_and_read_only_inputs_change_nothing(dtype):
    u, A = problem(7, dtype=dtype)
    signs = np.ones(7)
    expected = kron.reduce(u, A, 3, signs=signs)
    fortran = np.asfortranarray(u), np.asfortranarray(A)
    strided = np.repeat(u, 2, axis=1)[:, ::2], np.repeat(A, 2, axis=2)[:, :, ::2]
    shifted = np.zeros(A.nbytes + 1, np.uint8)[1:].view(dtype).reshape(A.shape)  # not aligned
    shifted[...] = A
    frozen = u.copy(), A.copy()
    for array in frozen:
        array.flags.writeable = False
    for pair in (fortran, strided, (u, shifted), frozen):
        for one, other in zip(kron.reduce(*pair, 3, signs=signs), expected, strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(kron.contract(A[0, :, 0].copy(), *pair), kron.contract(A[0, :, 0].copy(), u, A))


def test_few_terms_beside_zero_ones_are_kept_exactly():
    rng = np.random.default_rng(0)
    u, A = problem(3)
    u[1], A[1], A[2] = u[0] + 1e-6 * rng.normal(size=6), -A[0], 0
    np.testing.assert_array_equal(kron.to_dense(*kron.reduce(u, A, 2)), kron.to_dense(u, A))


@pytest.mark.parametrize("scale_u, scale_A", [(1e200, 1e-200), (1e-300, 1e304), (1e-165, 1e150), (1e150, 1e-10)])
def test_range_of_float64(scale_u, scale_A):
    u, A = problem(5)
    size = scale_u * scale_A
    reduced = kron.to_dense(*kron.reduce(u * scale_u, A * scale_A, 3, signs=np.ones(5))) / size
    assert_close(reduced, kron.to_dense(*kron.reduce(u, A, 3, signs=np.ones(5))), "float64", factor=100)


@pytest.mark.parametrize("dtype, least, most", [("float32", 1e-44, 1e37), ("float64", 5e-323, 1e307)])
def test_ends_of_the_range(dtype, least, most):
    u, A = np.full((2, 1), least, dtype), np.full((2, 1, 1), most, dtype)
    assert_close(kron.to_dense(*kron.reduce(u, A, 1)), kron.to_dense(u, A), dtype, factor=10)


# ---- what an estimator says about its reductions -----------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", [kind for kind in EVERY_ESTIMATOR if kind.startswith("ok")])
def test_stats_are_those_of_the_terms_that_were_reduced(kind, name, dtype):
    # Before the step that closes a block, the dense influence is the very sum that is going to be reduced: its singular
    # values, as a matrix (S P, m), are those of the terms.
    cell = make_cell(name, dtype=dtype, gain=1.5)
    estimator = EVERY_ESTIMATOR[kind](cell, 2)
    room = {"float32": 1e-4, "float64": 1e-9}[dtype]
    reductions = 0
    for t, (x, _, _) in enumerate(stream(cell, 30, 2)):
        reset = np.array([t == 13, False])
        closes = t > 0 and t % estimator.block == 0
        influence = estimator.influence().astype(np.float64)
        before = estimator.stats
        estimator.step(x, reset)
        for lane in range(2):
            variance, mixed = (estimator.stats[figure][lane] for figure in ("variance", "mixed_fraction"))
            if not closes:
                assert (variance, mixed) == (before["variance"][lane], before["mixed_fraction"][lane])
                continue
            sigma = np.linalg.svd(influence[lane].reshape(-1, cell.theta.shape[1]), compute_uv=False)
            rank = estimator.rank if estimator.tolerance is None else estimator.stats["rank"][lane]
            expected, _, share = theory_of(sigma, rank, least=1e-6 if dtype == "float32" else 1e-12)
            assert variance == pytest.approx(expected, rel=room, abs=room * sigma[0] ** 2)
            assert mixed == pytest.approx(share, rel=room, abs=room)
            reductions += expected > 1e-2 * sigma[0] ** 2
    assert reductions >= 3  # that are worth the name


@pytest.mark.parametrize("name", [name for name in CELLS if in_reference(name)])
@pytest.mark.parametrize("kind", [kind for kind in EVERY_ESTIMATOR if kind.startswith("ok")])
def test_variance_is_the_references(kind, name):
    compiled = EVERY_ESTIMATOR[kind](make_cell(name, gain=1.5), 2, rng=5)
    cell = getattr(reference, name)(3, 5, dtype="float64", rng=1)
    cell.theta *= 1.5
    plain = reference_of(compiled, cell, rng=5)
    largest = 0
    for x, _, reset in stream(cell, 25, 2, reset_rate=0.1):
        if reset.all():
            reset[0] = False  # a reset of all lanes makes the reference's carries anew
        compiled.step(x, reset)
        plain.step(x, reset)
        expected = [carry.variance for carry in plain.carries]
        largest = max(largest, *expected)
        np.testing.assert_allclose(compiled.stats["variance"], expected, rtol=1e-8, atol=1e-12)
    assert largest > 0.1


@pytest.mark.parametrize("which", ["u", "A", "both"])
@pytest.mark.parametrize("distance", [1e-7, 3e-7, 5e-7, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("N, rank", [(3, 2), (4, 1), (5, 3)])
def test_nearly_parallel_terms_in_float32(N, rank, distance, which):
    # Coefficients of some 1 / distance let the terms cancel: that is done in double.
    for seed in range(3):
        rng = np.random.default_rng(seed)
        u, A = problem(N, seed=seed)
        if which != "A":
            u[1] = u[0] + distance * np.linalg.norm(u[0]) * rng.normal(size=6) / np.sqrt(6)
        if which != "u":
            A[1] = A[0] + distance * np.linalg.norm(A[0]) * rng.normal(size=(3, 4)) / np.sqrt(12)
        u, A = u.astype(np.float32), A.astype(np.float32)
        wide_u, wide_A = u.astype(np.float64), A.astype(np.float64)
        draws = [
            kron.to_dense(*(x.astype(np.float64) for x in kron.reduce(u, A, rank, signs=np.array(signs))))
            for signs in itertools.product((-1, 1), repeat=N)
        ]
        size = np.linalg.norm(wide_u, axis=1) @ np.linalg.norm(wide_A, axis=(1, 2))
        assert np.abs(np.mean(draws, axis=0) - kron.to_dense(wide_u, wide_A)).max() < 1e-6 * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 2, 3, 7])
def test_weights_of_any_spread_keep_the_variance_finite(rank, dtype):
    rng = np.random.default_rng(0)
    for span in (10, 13, 14, 15, 16):
        u, A = problem(8, m=9, S=4, P=5)
        u = np.linalg.qr(rng.normal(size=(9, 8)))[0].T * np.logspace(0, -span, 8)[:, None]
        A = np.linalg.qr(rng.normal(size=(20, 8)))[0].T.reshape(8, 4, 5)
        u, A = u.astype(dtype), A.astype(dtype)
        for options in ({"signs": np.ones(8)}, {"mixing": "sampling", "start": 0.5}):
            reduced = kron.reduce(u, A, rank, **options)
            error = kron.to_dense(*reduced).astype(float) - kron.to_dense(u, A)
            assert np.isfinite(error).all() and np.abs(error).max() <= 10
    cell = okcore.RNN(9, 3, dtype=dtype, rng=0)
    estimator = okcore.OK(cell, 2, 1, rng=0)
    for t in range(40):  # inputs whose size falls by 1e-14
        estimator.step(np.full((1, 9), 10.0 ** (-14 * (t % 4) / 3), dtype))
        assert np.isfinite(estimator.stats["variance"]).all()
    estimator.clone()


# ---- a tolerance of noise ------------------------------------------------------------------------


def least_variance(sigma, rank):
    """Return the least variance of an unbiased estimate of that rank: over every number of components kept exactly.

    Keeping j is possible where no probability k sigma_i / s1 of the others exceeds 1.
    """
    if len(sigma) <= rank:
        return 0.0
    found = []
    for j in range(rank):
        k, tail = rank - j, sigma[j:]
        if k * tail[0] <= tail.sum() * (1 + 1e-12):
            found.append(tail.sum() ** 2 / k - np.square(tail).sum())
    return min(found)


def fewest_terms(sigma, rank, tolerance):
    """Return the least rank whose noise is within the tolerance, or None where rounding decides."""
    allowed = tolerance * np.linalg.norm(sigma)
    noises = [np.sqrt(max(0, least_variance(sigma, r))) for r in range(1, rank)]
    if tolerance > 0 and any(abs(noise - allowed) < 1e-9 * sigma[0] for noise in noises):
        return None
    return next((r for r, noise in enumerate(noises, 1) if noise <= allowed), min(rank, len(sigma)))


def singular_values(u, A):
    J = kron.to_dense(u.astype(np.float64), A.astype(np.float64))
    sigma = np.linalg.svd(J.reshape(-1, u.shape[1]), compute_uv=False)
    return sigma[sigma > 1e-12 * sigma[0]]


def count(u, A):
    """Return the number of terms that are not zero; they come first."""
    used = np.abs(u).max(axis=1) * np.abs(A).max(axis=(1, 2)) > 0
    assert not used[used.sum() :].any() and not u[used.sum() :].any() and not A[used.sum() :].any()
    return used.sum()


def test_the_fewest_terms_within_the_tolerance_come_out():
    rng = np.random.default_rng(0)
    ranks, checked = set(), 0
    for seed in range(300):
        N, rank = rng.integers(1, 12), rng.integers(1, 10)
        u, A = problem(N, m=9, S=3, P=4, seed=seed)
        u *= np.logspace(0, -rng.uniform(0, 4), N)[:, None]
        tolerance = float(rng.choice([0, 10 ** rng.uniform(-3, 0.5)]))
        sigma = singular_values(u, A)
        expected = fewest_terms(sigma, rank, tolerance)
        mixing = rng.choice(["signs", "sampling"])
        reduced = kron.reduce(u, A, rank, rng=seed, mixing=mixing, tolerance=tolerance)
        assert len(reduced[0]) == len(reduced[1]) == min(N, rank)
        if expected is None:
            continue
        assert count(*reduced) == expected
        if mixing == "signs":
            error = np.linalg.norm(kron.to_dense(*reduced) - kron.to_dense(u, A))
            np.testing.assert_allclose(error, np.sqrt(max(0, least_variance(sigma, expected))), rtol=1e-6, atol=1e-7)
            assert error <= tolerance * np.linalg.norm(sigma) + 1e-7 or expected == min(rank, len(sigma))
        ranks.add((expected, min(N, rank)))
        checked += 1
    assert checked > 280 and len(ranks) > 30


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("N, rank", [(4, 4), (4, 9), (5, 3), (7, 5)])
def test_a_tolerance_leaves_the_mean_as_it_is(N, rank, case, dtype):
    # Over all signs, also where all terms would fit.
    u, A = problem(N, case, dtype)
    J = kron.to_dense(u.astype(np.float64), A.astype(np.float64))
    size = np.linalg.norm(u.astype(np.float64), axis=1) @ np.linalg.norm(A.astype(np.float64), axis=(1, 2))
    room = {"float32": 1e-5, "float64": 1e-11}[dtype]
    counts = []
    for tolerance in (0.0, 0.1, 0.5, 2.0):
        draws = []
        for signs in itertools.product((-1, 1), repeat=N):
            reduced = kron.reduce(u, A, rank, signs=np.array(signs), tolerance=tolerance)
            draws.append(kron.to_dense(*(x.astype(np.float64) for x in reduced)))
            counts.append(count(*reduced))
        assert len(set(counts[-len(draws) :])) == 1  # the draw has no say
        assert np.abs(np.mean(draws, axis=0) - J).max() < room * size
        errors = [np.linalg.norm(draw - J) for draw in draws]
        if counts[-1] < min(rank, N):
            assert max(errors) <= tolerance * np.linalg.norm(J) + room * size
    assert counts == sorted(counts, reverse=True)


def test_a_tolerance_of_zero_drops_zeros_alone():
    u, A = problem(6)
    same = kron.reduce(u, A, 6, tolerance=0.0)
    assert np.array_equal(same[0], u) and np.array_equal(same[1], A) and same[0] is not u
    A[2] = A[4] = 0
    assert count(*kron.reduce(u, A, 6, rng=0, tolerance=0.0)) == 4
    u[1] = 3 * u[0]  # one term would do for the two
    reduced = kron.reduce(u, A, 6, rng=0, tolerance=0.0)
    assert count(*reduced) == 3
    assert_close(kron.to_dense(*reduced), kron.to_dense(u, A), "float64")
    assert count(*kron.reduce(0 * u, A, 3, tolerance=0.0)) == 0


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_a_tolerance_holds_where_squares_leave_the_range(scale):
    u, A = problem(6)
    for tolerance in (0.3, 0.5, 1.0):
        scaled, plain = (kron.reduce(size * u, A, 5, tolerance=tolerance) for size in (scale, 1))
        assert count(*scaled) == count(*plain) < 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("name", CELLS)
def test_terms_in_use_are_the_fewest_within_the_tolerance(name, block, dtype):
    cell = make_cell(name, n_in=4, n_hidden=8, dtype=dtype)
    tolerance, rank, lanes, seen, checked = 0.05, 12, 2, set(), 0
    estimator = okcore.OK(cell, rank, block, batch_size=lanes, rng=0, tolerance=tolerance)
    assert estimator.stats["rank"].tolist() == [0, 0] and estimator.stats["rank"].shape == (lanes,)
    for t, (x, _, reset) in enumerate(stream(cell, 40, lanes, reset_rate=0.05)):
        reset[0] = False
        influence = estimator.influence().astype(np.float64)
        before = estimator.stats["rank"]
        estimator.step(x, reset)
        for lane in range(lanes):
            used = estimator.stats["rank"][lane]
            if t == 0 or t % block:
                assert used == before[lane]
                continue
            sigma = np.linalg.svd(influence[lane].reshape(-1, cell.theta.shape[1]), compute_uv=False)
            noise = np.sqrt(max(0, least_variance(sigma, used)))
            assert noise <= tolerance * np.linalg.norm(sigma) * (1 + 1e-4) or used == rank
            expected = fewest_terms(sigma[sigma > 1e-6 * sigma[0]], rank, tolerance)
            checked += used == expected
            assert abs(used - expected) <= (dtype == "float32")  # where rounding decides
            seen.add(used)
    assert len(seen) > 2 and min(seen) < rank and checked > 60 / block


@pytest.mark.parametrize("mixing", ["signs", "sampling"])
def test_a_tolerance_shortens_what_would_fit(mixing):
    cell = make_cell("RNN", n_in=4, n_hidden=8, gain=0.3)
    whole, short = (okcore.OK(cell, 40, 4, mixing, rng=0, tolerance=tolerance) for tolerance in (None, 0.05))
    exact = okcore.RTRL(cell)
    error = size = 0
    for x, dh, _ in stream(cell, 40, 1):
        for estimator in (whole, short, exact):
            estimator.step(x)
        error += np.square(short.gradient(dh) - exact.gradient(dh)).sum()
        size += np.square(exact.gradient(dh)).sum()
    assert whole.stats["rank"][0] == 36 and 2 <= short.stats["rank"][0] < 10
    assert 0 < error < 0.1**2 * size
    assert short.stats["variance"][0] > 0 and whole.stats["variance"][0] == 0


@pytest.mark.parametrize("lanes, n_threads", [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_nothing_is_computed_with_terms_that_are_not_in_use(lanes, n_threads):
    # NaN in their place changes nothing: products, Gram matrices, mixing and contraction pass them by.
    cell = make_cell("RNN", n_in=4, n_hidden=40, gain=0.5, dtype="float32")
    plain, spoilt = (
        okcore.OK(cell, 9, 3, batch_size=lanes, rng=0, tolerance=0.3, n_threads=n_threads) for _ in range(2)
    )
    arrays = spoilt.carry.arrays
    for x, dh, reset in stream(cell, 30, lanes, reset_rate=0.05):
        for lane, used in enumerate(spoilt.stats["rank"]):
            arrays["u"][lane, used:] = arrays["A"][lane, used:] = np.nan
        reset[0] = False
        assert plain.step(x, reset).tobytes() == spoilt.step(x, reset).tobytes()
        assert plain.gradient(dh).tobytes() == spoilt.gradient(dh).tobytes()
        assert plain.influence().tobytes() == spoilt.influence().tobytes()
        assert (plain.stats["rank"] == spoilt.stats["rank"]).all() and plain.stats["rank"].max() < 9


def test_states_with_and_without_a_tolerance_are_told_apart():
    cell = make_cell("RNN")
    plain, tolerant = okcore.OK(cell, 3, 4), okcore.OK(cell, 3, 4, tolerance=0.1)
    assert "argument.tolerance" not in plain.state_dict()  # as in older checkpoints
    assert tolerant.state_dict()["argument.tolerance"] == tolerant.clone().tolerance == tolerant.tolerance == 0.1
    for one, other in ((plain, tolerant), (tolerant, plain), (okcore.OK(cell, 3, 4, tolerance=0.2), tolerant)):
        with pytest.raises(ValueError, match=r"argument\.tolerance must be"):
            one.load_state_dict(other.state_dict())
