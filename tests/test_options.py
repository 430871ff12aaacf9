"""The options of a run: the paper's presets, the defaults, and what comes before what."""

import os

import numpy as np
import pytest

from okcore import Adam, _config
from okcore.runs import options
from okcore.runs.command_line import make_parser


def resolved(*arguments):
    return options.resolve(vars(make_parser().parse_args([str(argument) for argument in arguments])))


PAPER = {
    "copy": {"hidden": 128, "rank": 16, "block": 16, "batch": 16, "clip": 1, "steps": 2_000_000},
    "text": {"hidden": 256, "rank": 8, "batch": 32, "clip": 100, "steps": 1_000_000},
}


@pytest.mark.parametrize("task", PAPER)
def test_the_paper_preset_is_the_papers(task):
    source = ["python-docs"] if task == "text" else []
    found = resolved("train", task, *source, "--preset", "paper")
    common = {"cell": "rhn", "init": "normal", "optimizer": "adam", "estimator": "ok", "update_every": 1}
    for name, value in (PAPER[task] | common).items():
        assert found[name] == value, name
    assert f"{found['lr']:.2e}" == f"{10**-3.5:.2e}"
    trainer, made = options.make_trainer(found | {"hidden": 100, "rank": 1, "batch": 2})
    assert trainer.clip == PAPER[task]["clip"] and trainer.update_every == 1
    optimizer = trainer.optimizer
    assert type(optimizer) is Adam and optimizer.learning_rate == found["lr"]
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.999, 1e-8)
    if task == "text":
        assert made.reset_every == 100
    for drawn in (trainer.cell.theta, trainer.readout.weights):
        # within five standard errors: a false alarm in a million, had the seed not been fixed
        assert drawn.std() == pytest.approx(0.01, rel=5 / np.sqrt(2 * drawn.size))


def test_what_is_said_comes_before_the_preset_and_the_preset_before_the_default():
    preset, said = ["--preset", "paper"], ["--clip", 9, "--hidden", 7, "--init", "uniform"]
    small, paper, both = (resolved("train", "copy", *more) for more in ([], preset, [*preset, *said]))
    assert (both["clip"], both["hidden"], both["init"]) == (9, 7, "uniform")
    changed = {name for name in paper if paper[name] != both[name]}
    assert changed == {"clip", "hidden", "init"}
    assert small["hidden"] < paper["hidden"] and small["steps"] < paper["steps"]


def test_the_tolerance_reaches_the_estimator():
    small = ["--hidden", 4, "--batch", 1]
    for said, tolerance in ([], options.TOLERANCE), (["--tolerance", 0], 0.0), (["--tolerance", 0.25], 0.25):
        found = resolved("train", "copy", *small, *said)
        assert found["tolerance"] == tolerance
        assert options.make_trainer(found)[0].estimator.tolerance == tolerance


LANES_ON_PROCESSORS = [(1, 16, 1), (2, 16, 2), (5, 16, 5), (64, 16, 16), (5, 3, 3), (5, 1, 1)]


@pytest.mark.parametrize("usable, batch, threads", LANES_ON_PROCESSORS)
def test_lanes_are_spread_over_all_processors_by_default(usable, batch, threads, monkeypatch):
    monkeypatch.setattr(_config, "usable_processors", lambda: usable)
    found = resolved("train", "copy", "--batch", batch, "--hidden", 4)
    assert found["threads"] == threads
    assert options.make_trainer(found)[0].estimator.n_threads == threads
    assert resolved("train", "copy", "--batch", batch, "--threads", 7)["threads"] == 7


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="asks the scheduler")
def test_usable_processors_are_those_of_this_process():
    assert _config.usable_processors() == len(os.sched_getaffinity(0))
