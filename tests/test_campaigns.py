"""The short forms of the campaigns, which `make kill-test` runs at length."""

import pytest

from okcore.estimators import ESTIMATORS
from tests.campaigns import kill


@pytest.mark.slow
def test_runs_that_are_interrupted_at_random_resume_bitwise():
    table, runs, failures = kill.campaign(kills=len(ESTIMATORS), seed=0, kills_per_run=1)
    assert not failures, "\n".join(failures)
    assert table.total() >= len(ESTIMATORS) and runs.keys() == ESTIMATORS.keys()


def test_every_algorithm_meets_every_task():
    rounds = [kill.case(number, 0) for number in range(len(ESTIMATORS) * len(kill.TASKS))]
    assert {case[:2] for case in rounds} == {(name, task) for name in ESTIMATORS for task in kill.TASKS}
