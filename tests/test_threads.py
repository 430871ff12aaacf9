"""An estimator is one stream: a second thread is refused, different estimators run side by side, Ctrl-C is heard."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import okcore
from tests.conftest import EVERY_ESTIMATOR
from tests.helpers import make_cell, stream
from tests.test_invariance import trace

CALLS = {
    "step": lambda e, x, dh: e.step(x),
    "gradient": lambda e, x, dh: e.gradient(dh),
    "accumulate": lambda e, x, dh: e.accumulate(dh),
    "flush": lambda e, x, dh: e.flush(),
    "run": lambda e, x, dh: e.run(x[None], dh[None]),
    "reset": lambda e, x, dh: e.reset(),
    "state": lambda e, x, dh: e.state,
    "set state": lambda e, x, dh: setattr(e, "state", np.zeros_like(e.state)),
    "influence": lambda e, x, dh: e.influence(),
    "state_dict": lambda e, x, dh: e.state_dict(),
    "load_state_dict": lambda e, x, dh: e.load_state_dict({}),
    "clone": lambda e, x, dh: e.clone(),
}


class Waiting(okcore.Cell):
    """A cell whose step waits inside the estimator until it is let go."""

    inside, go = None, None

    def pointwise(self, pre, state):
        if self.inside is not None:
            self.inside.set()
            assert self.go.wait(30)
        h = np.tanh(pre[:, 0])
        return h, (1 - h**2)[:, None, None], np.zeros_like(state)[:, None]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["ok", "tbptt"])
def test_a_second_thread_is_refused_by_name(kind, call):
    cell = Waiting(3, 4, dtype="float64", rng=0)
    estimator, twin = (EVERY_ESTIMATOR[kind](cell) for _ in range(2))
    x, dh = np.ones((2, 3)), np.ones((2, 4))
    for one in (estimator, twin):
        one.step(x)
    cell.inside, cell.go = threading.Event(), threading.Event()
    thread = threading.Thread(target=estimator.step, args=(x,))
    thread.start()
    assert cell.inside.wait(30)
    with pytest.raises(RuntimeError, match=f"{type(estimator).__name__} is in use"):
        CALLS[call](estimator, x, dh)
    cell.go.set()
    thread.join()
    twin.step(x)  # the first thread's call went on as if nothing had been
    assert estimator.state_dict()["state"].tobytes() == twin.state.tobytes()
    assert estimator.gradient(dh).tobytes() == twin.gradient(dh).tobytes()


def test_an_error_leaves_the_estimator_free():
    estimator = okcore.RTRL(make_cell("RNN"), 2)
    for call in (lambda: estimator.step(None), lambda: estimator.gradient(1), lambda: estimator.load_state_dict({})):
        with pytest.raises((TypeError, ValueError)):
            call()
    estimator.step(np.zeros((1, 3)))


def test_many_threads_in_one_estimator_harm_nothing():
    # Whatever the order: every call is either done as a whole or refused.
    cell = make_cell("GRU", n_hidden=16)
    estimator, refused, taken = okcore.OK(cell, 3, 4, batch_size=4, rng=0), [], []
    data = list(stream(cell, 50, 4))

    def work():
        for x, dh, _ in data:
            try:
                estimator.step(x)
                taken.append(1)
                estimator.gradient(dh)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert estimator.steps == len(taken) and all("in use" in message for message in refused)
    assert np.isfinite(estimator.influence()).all()


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_estimators_run_side_by_side_on_one_cell(kind):
    cell = make_cell("LSTM", n_hidden=12)
    rng = np.random.default_rng(0)
    xs, dhs = rng.normal(size=(200, 2, 3)), rng.normal(size=(200, 2, 12))
    expected = EVERY_ESTIMATOR[kind](cell).run(xs, dhs)
    found = {}

    def work(i):
        found[i] = EVERY_ESTIMATOR[kind](cell, n_threads=1 + i % 2).run(xs, dhs)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hs, gradient in found.values():
        assert hs.tobytes() == expected[0].tobytes() and gradient.tobytes() == expected[1].tobytes()


def test_run_hears_ctrl_c_and_keeps_what_was_done():
    cell = okcore.RNN(3, 64, rng=0)
    estimator = okcore.OK(cell, 4, 8, rng=0)
    xs = np.random.default_rng(0).normal(size=(400_000, 1, 3)).astype("f")
    dhs = np.ones((len(xs), 1, 64), "f")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        estimator.run(xs, dhs)
    timer.join()
    steps = estimator.steps
    assert 0 < steps < len(xs)
    twin = okcore.OK(cell, 4, 8, rng=0)
    _, gradient = twin.run(xs[:steps], dhs[:steps])
    assert estimator.flush().tobytes() == gradient.tobytes()
    assert trace(estimator) == trace(twin)


def test_ctrl_c_ends_a_process_in_run_soon():
    program = """
import numpy as np, okcore
estimator = okcore.RTRL(okcore.RNN(16, 96, rng=0), 1)
print("running", flush=True)
estimator.run(np.zeros((10**5, 1, 16), "f"))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"running\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)  # the whole run would take minutes
        assert b"KeyboardInterrupt" in process.stderr.read()
