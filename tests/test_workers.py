"""Estimators and trainers go to the processes of joblib and dask, in mid-block, and come back with the same bits."""

import joblib
import pytest
from joblib.externals.loky import get_reusable_executor

import okcore
from tests.conftest import EVERY_ESTIMATOR
from tests.helpers import make_cell
from tests.test_copies import running
from tests.test_invariance import trace


def go_on(estimator):
    """Train a little in a worker; return what came out, and the estimator."""
    return trace(estimator), estimator


def fit(trainer, task):
    return trainer.fit(task, 7, progress=False).tobytes(), trainer, task


def estimators():
    """Return estimators of every kind in the middle of a block, each with a cell of its own."""
    return [running(make, make_cell("GRU"), 6) for make in EVERY_ESTIMATOR.values()]


def trainers():
    made = []
    for make in EVERY_ESTIMATOR.values():
        cell = make_cell("LSTM", n_in=4, dtype="float32")
        readout, task = okcore.SoftmaxReadout(5, 4, rng=0), okcore.tasks.Copy(2, rng=0, length=3)
        trainer = okcore.OnlineTrainer(cell, make(cell), readout, okcore.Adam(0.01), clip=1, update_every=3)
        trainer.fit(task, 10, progress=False)
        made.append((trainer, task))
    return made


@pytest.fixture
def on_joblib():
    pool = joblib.Parallel(n_jobs=2, backend="loky")
    yield lambda function, items: pool(joblib.delayed(function)(*item) for item in items)
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def on_dask(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=tmp_path
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield lambda function, items: client.gather([client.submit(function, *item, pure=False) for item in items])


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("where", ["on_joblib", "on_dask"])
def test_sent_and_back_with_the_same_bits(where, request):
    everywhere = request.getfixturevalue(where)
    for (found, returned), here in zip(everywhere(go_on, [(e,) for e in estimators()]), estimators(), strict=True):
        assert found == trace(here)
        assert trace(returned) == trace(here)  # and on from there
    for (found, *returned), here in zip(everywhere(fit, trainers()), trainers(), strict=True):
        assert found == fit(*here)[0]
        assert fit(*returned)[0] == fit(*here)[0]
