"""The short forms of the campaigns, which `make kill-test` and `make fuzz` run at length."""

import numpy as np
import pytest

import okcore
from okcore import kron
from okcore.estimators import ESTIMATORS
from tests.campaigns import fuzz, kill


@pytest.mark.slow
def test_runs_that_are_interrupted_at_random_resume_bitwise():
    table, runs, failures = kill.campaign(kills=len(ESTIMATORS), seed=0, kills_per_run=1)
    assert not failures, "\n".join(failures)
    assert table.total() >= len(ESTIMATORS) and runs.keys() == ESTIMATORS.keys()


def test_every_algorithm_meets_every_task():
    rounds = [kill.case(number, 0) for number in range(len(ESTIMATORS) * len(kill.TASKS))]
    assert {case[:2] for case in rounds} == {(name, task) for name in ESTIMATORS for task in kill.TASKS}


@pytest.mark.slow
def test_bad_arguments_of_any_call_are_refused_and_change_nothing():
    counts, failures = fuzz.campaign(calls=4000, seed=2)
    assert not failures, "\n".join(failures)
    called = {name for _, name in counts}
    assert called >= {*okcore.__all__, *kron.__all__} - fuzz.LEFT_OUT - {"kron", "tasks"}
    assert called >= {"step", "gradient", "accumulate", "flush", "run", "reset", "set state", "influence", "state_dict"}
    assert called >= {"load_state_dict", "clone", "pickle", "partial_fit", "fit", "loss", "update", "__next__"}
    outcomes = {outcome for row in counts.values() for outcome in row}
    assert outcomes >= {"done", "TypeError", "ValueError", "FloatingPointError", "MemoryError"}


@pytest.mark.parametrize("broken, word", [
    (lambda e, value: e.cell.theta.fill(0), "changed"),
    (lambda e, value: value.__setitem__(..., 0), "argument"),
    (lambda e, value: np.float32(np.nan), "not finite"),
    (lambda e, value: {}["a KeyError"], "KeyError"),
])  # fmt: skip
def test_the_campaign_sees_what_is_wrong(broken, word, monkeypatch):
    class Broken(fuzz.AnEstimator):
        def make(self):
            super().make()
            self.calls = {"gradient": fuzz.named(lambda value: broken(self.estimator, value), value="new_state")}

    monkeypatch.setattr(fuzz, "SUBJECTS", [Broken])
    _, failures = fuzz.part(60, seed=0)
    assert any(word in failure for failure in failures)
