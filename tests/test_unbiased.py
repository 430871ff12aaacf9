"""Truth 7, statistical: over seeds, OK's, KF-RTRL's and UORO's gradients have RTRL's as their mean."""

import numpy as np
import pytest
from scipy import stats

import okcore
from tests.conftest import CELLS, ESTIMATORS, RANDOM, maker
from tests.helpers import make_cell, stream

DRAWS = 4000
FALSE_ALARM = 1e-6  # a test: the chance that an unbiased estimator fails it, had the seeds not been fixed


def last_gradients(make, cell, steps):
    """Return the gradients at the last step of DRAWS independent estimators on one stream."""
    out = np.empty((DRAWS, *cell.theta.shape))
    generators = np.random.SeedSequence(3).spawn(DRAWS)
    data = list(stream(cell, steps, 1))
    for i, seed in enumerate(generators):
        estimator = make(cell, 1, seed)
        for x, dh, _ in data:  # noqa: B007 (the last dh is what counts)
            estimator.step(x)
        out[i] = estimator.gradient(dh)
    return out


# Whatever draws is unbiased; small ranks and blocks, so that much is compressed within a few steps
MAKERS = {kind: maker(kind, rank=2, block=3) if kind in ESTIMATORS else RANDOM[kind] for kind in RANDOM}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", MAKERS)
def test_mean_gradient_is_rtrls(kind, name):
    # z = (mean - exact) . direction / standard error in fixed random directions; Bonferroni over the directions.
    cell = make_cell(name, n_in=2, n_hidden=3, gain=1.5)
    exact = okcore.RTRL(cell, 1)
    for x, dh, _ in stream(cell, 7, 1):  # noqa: B007
        exact.step(x)
    target = exact.gradient(dh)
    samples = last_gradients(MAKERS[kind], cell, 7) - target
    directions = np.random.default_rng(4).normal(size=(20, *target.shape))
    projected = np.tensordot(samples, directions, axes=((1, 2), (1, 2)))
    assert (projected.std(axis=0) > 1e-8).all()  # an estimate, not the exact gradient
    z = projected.mean(axis=0) / (projected.std(axis=0, ddof=1) / np.sqrt(DRAWS))
    assert np.abs(z).max() < stats.norm.isf(FALSE_ALARM / 2 / len(directions)), z


def test_noise_falls_from_uoro_to_kf_to_ok_and_with_blocks_and_rank():
    # Measured, not proved: a whole sequence, fixed seeds, ratios far from one.
    cell = make_cell("RHN", n_in=4, n_hidden=16)
    data = list(stream(cell, 40, 4))
    exact = okcore.RTRL(cell, 8, 4)
    for x, dh, _ in data:  # noqa: B007
        exact.step(x)
    target = exact.gradient(dh)

    def error(estimator):
        for x, dh, _ in data:  # noqa: B007
            estimator.step(x)
        return np.linalg.norm(estimator.gradient(dh) - target) / np.linalg.norm(target)

    def mean_error(make):
        return np.mean([error(make(seed)) for seed in range(5)])

    uoro = mean_error(lambda seed: okcore.UORO(cell, 4, rng=seed))
    kf = mean_error(lambda seed: okcore.KFRTRL(cell, batch_size=4, rng=seed))
    ok = {
        (rank, block): mean_error(lambda seed, r=rank, K=block: okcore.OK(cell, r, K, batch_size=4, rng=seed))
        for rank, block in [(2, 1), (8, 1), (8, 8)]
    }
    assert uoro > 2 * kf > 4 * ok[2, 1] and ok[2, 1] > 2 * ok[8, 1] and ok[8, 1] > 1.3 * ok[8, 8]
