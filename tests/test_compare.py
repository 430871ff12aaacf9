"""Comparisons: numbers as from the estimators' public calls, training undisturbed, and a resume with the same bits."""

import itertools
import json
import re
import shutil
import sys

import numpy as np
import pytest

import okcore
from okcore.runs import checkpoint
from okcore.runs.compare import ComparingTrainer, Comparison
from okcore.runs.options import from_mapping, make_trainer, shadow_options
from okcore.runs.run import Run
from tests.helpers import assert_same_state, flat_state
from tests.test_runs import SMALL, has_lines, metrics, started, wait_for
from tests.test_runs import okcore as cli

LR = ["--lr", 0.02]
QUANTITIES = "cosine", "relative_error", "variance"
DECLARED = {"task": "copy", "hidden": 6, "batch": 3, "rank": 2, "block": 4, "threads": 1, "log_every": 5, "lr": 0.02}


def compared(folder, *specs, steps=40, options=(), status=0):
    shadows = [part for spec in specs for part in ("--with", spec)]
    return cli("compare", "copy", *SMALL, *LR, *options, "--steps", steps, *shadows, "--out", folder, status=status)


def stream(number, seed=0):
    return np.random.SeedSequence(seed, spawn_key=(4, number))


def rtrl(cell, number):
    return okcore.RTRL(cell, block=4, batch_size=3)


# (estimator that trains, its name, shadows with the constructors' own calls, the reference, more options)
CASES = {
    "a shadow is exact": ("ok", "ok rank=2 block=4 tolerance=0.3", {
        "kf-rtrl": lambda cell, number: okcore.KFRTRL(cell, 2, 4, 3, rng=stream(number)),
        "rtrl": rtrl,
        "ok rank=1 block=1": lambda cell, number: okcore.OK(cell, 1, 1, "signs", 3, stream(number), tolerance=0.3),
        "rtrl block=1": lambda cell, number: okcore.RTRL(cell, block=1, batch_size=3),
    }, "rtrl", {}),
    "what trains is exact": ("rtrl", "rtrl block=4", {
        "rtrl block=7": lambda cell, number: okcore.RTRL(cell, block=7, batch_size=3),
        "uoro": lambda cell, number: okcore.UORO(cell, 3, rng=stream(number)),
        "tbptt block=2": lambda cell, number: okcore.TBPTT(cell, 2, 3),
    }, "rtrl block=4", {"update_every": 3, "clip": 0.01}),
    "none is exact": ("tbptt", "tbptt block=4", {
        "snap1": lambda cell, number: okcore.SnAp1(cell, 3),
    }, "tbptt block=4", {"cell": "lstm", "dtype": "float64"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_an_independent_loop(case, tmp_path):
    name, own, makers, reference, more = CASES[case]
    options = ["--estimator", name]
    for option, value in more.items():
        options += [f"--{option.replace('_', '-')}", value]
    compared(tmp_path / "run", *makers, options=options)

    trainer, task = make_trainer(from_mapping(DECLARED | more | {"estimator": name, "steps": 40}))
    cell, every = trainer.cell, more.get("update_every", 1)
    estimators = {own: trainer.estimator}
    estimators |= {spec: make(cell, number) for number, (spec, make) in enumerate(makers.items())}
    found, total, readout_total = [], 0, 0
    for step in range(1, 41):
        x, y, reset = next(task)
        hidden = [estimator.step(x, reset) for estimator in estimators.values()]
        loss, dh, readout_gradient = trainer.readout.loss(hidden[0], y)
        task.observe(loss)
        gradients = {name: estimator.gradient(dh).astype(np.float64) for name, estimator in estimators.items()}
        truth = gradients.pop(reference)
        found.append({
            name: (
                (g * truth).sum() / np.sqrt((g * g).sum() * (truth * truth).sum()),
                np.sqrt(((g - truth) ** 2).sum() / (truth**2).sum()),
                ((g - truth) ** 2).sum() / (truth**2).sum(),
            )
            for name, g in gradients.items()
        })  # fmt: skip
        total, readout_total = total + estimators[own].gradient(dh), readout_total + readout_gradient
        if step % every == 0:
            total, readout_total = total / every, readout_total / every
            total *= min(1, trainer.clip / np.linalg.norm(total))
            trainer.optimizer.update("theta", cell.theta, total.astype(cell.dtype))
            trainer.optimizer.update("readout", trainer.readout.weights, readout_total.astype(cell.dtype))
            total = readout_total = 0

    written = metrics(tmp_path / "run")
    assert [line["step"] for line in written] == list(range(5, 45, 5))
    for line, start in zip(written, range(0, 40, 5), strict=True):
        for row, quantity in enumerate(QUANTITIES):
            assert line[quantity].keys() == estimators.keys() - {reference}
            for name, value in line[quantity].items():
                expected = np.mean([step[name][row] for step in found[start : start + 5]])
                # the loop sums, averages and clips in another order: its theta differs in the last bits
                tolerance = {"rel": 2e-3, "abs": 1e-6} if cell.dtype == np.float32 else {"rel": 1e-7, "abs": 1e-13}
                assert value == pytest.approx(expected, **tolerance), (quantity, name, line["step"])
        assert line["step_ms"].keys() == estimators.keys() and min(line["step_ms"].values()) > 0
    exact = [name for name in estimators if name.startswith("rtrl") and name != reference]
    for line, name in itertools.product(written, exact):
        assert line["relative_error"][name] < 1e-5 and line["cosine"][name] > 1 - 1e-5


@pytest.mark.parametrize("more", [[], ["--update-every", 3, "--clip", 0.01]], ids=["", "update every 3"])
def test_training_is_that_without_shadows(more, tmp_path):
    compared(tmp_path / "compared", "rtrl", "uoro", options=more)
    cli("train", "copy", *SMALL, *LR, *more, "--steps", 40, "--out", tmp_path / "alone")
    ours, theirs = (checkpoint.read(tmp_path / name / "checkpoint.npz") for name in ("compared", "alone"))
    assert ours.keys() == theirs.keys() | {"shadow0", "shadow1", "comparison"}
    for group in theirs.keys() - {"run"}:
        assert_same_state(ours[group], theirs[group])
    for ours, theirs in zip(metrics(tmp_path / "compared"), metrics(tmp_path / "alone"), strict=True):
        assert all(ours[name] == theirs[name] for name in theirs.keys() - {"time_s"})


# ---- resume --------------------------------------------------------------------------------------

SHADOWS = "rtrl", "kf-rtrl", "ok rank=1 block=3", "uoro"


def timeless(folder):
    return [line | {"time_s": None, "step_ms": None} for line in metrics(folder)]


def assert_same_comparison(folder, expected):
    assert timeless(folder) == timeless(expected)
    ours, theirs = (checkpoint.flatten(checkpoint.read(f / "checkpoint.npz")) for f in (folder, expected))
    assert ours.keys() == theirs.keys()
    for name in theirs.keys() - {"run/time", "comparison/seconds"}:
        assert np.array_equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "whole"
    compared(folder, *SHADOWS, steps=1500)
    return folder


def test_a_comparison_that_was_stopped_goes_on_bitwise(whole, tmp_path):
    folder = tmp_path / "run"
    said, _ = compared(folder, *SHADOWS, steps=1500, options=["--time-limit", 1e-9], status=75)
    assert "Gradients at every step" not in said and not (folder / "comparison.svg").exists()
    own = checkpoint.read(folder / "checkpoint.npz")["comparison"]
    assert own["count"] == own["taken"] == 1 and (own["sums"][1] > -1).all()  # in the middle of a line's averages
    said, _ = cli("resume", folder, "--threads", 2)
    assert "Gradients at every step" in said and (folder / "comparison.svg").exists()
    assert_same_comparison(folder, whole)


def test_a_comparison_that_was_killed_goes_on_bitwise(whole, tmp_path):
    folder = tmp_path / "run"
    shadows = [part for spec in SHADOWS for part in ("--with", spec)]
    arguments = ["compare", "copy", *SMALL, *LR, "--steps", 1500, *shadows, "--out", folder, "--save-every", 0.02]
    with started(*arguments) as process:
        wait_for((folder / "checkpoint.previous.npz").exists, process)
        wait_for(has_lines(folder, 20), process)
        process.kill()
        process.wait()
    cli("resume", folder, "--save-every", 60)
    assert_same_comparison(folder, whole)


def test_more_steps_are_the_longer_comparison(whole, tmp_path):
    compared(tmp_path / "run", *SHADOWS, steps=500)
    cli("resume", tmp_path / "run", "--steps", 1500)
    assert_same_comparison(tmp_path / "run", whole)


def test_other_shadows_are_refused(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    description = json.loads((folder / "run.json").read_text())
    assert description["options"]["with"] == list(SHADOWS)
    description["options"]["with"][3] = "tbptt"
    (folder / "run.json").write_text(json.dumps(description))
    _, errors = cli("resume", folder, "--steps", 4000, status=1)
    assert "run.json: with must be" in errors and "'uoro'" in errors


@pytest.fixture
def comparison():
    options = from_mapping(DECLARED | {"steps": 100}) | {"with": ["rtrl", "uoro"]}
    run = Comparison(None, options)
    run.trainer.fit(run.task, 7, progress=False)
    return run


def spoiled(state, group, **entries):
    if entries:
        return state | {group: state[group] | entries}
    return {name: values for name, values in state.items() if name != group}


def test_a_state_that_does_not_fit_changes_nothing(comparison):
    trainer = comparison.trainer
    state = trainer.state_dict()
    trainer.fit(comparison.task, 3, progress=False)
    before = flat_state(trainer)
    for other, words in (
        (spoiled(state, "trainer"), "without trainer"), (spoiled(state, "comparison"), "comparison must be a dict"),
        (spoiled(state, "shadow1"), "state must be a dict"),
        (spoiled(state, "shadow1", steps=6), "uoro must be at step 7, got 6"),
        (spoiled(state, "comparison", count=-1), "count must be at least 0"),
        (spoiled(state, "comparison", sums=np.zeros((3, 1))), r"sums must have shape \(3, 2\)"),
        (spoiled(state, "comparison", seconds=np.full(3, np.nan)), "seconds must be finite"),
        (spoiled(state, "shadow0", algorithm="OK"), "another estimator"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=words):
            trainer.load_state_dict(other)
        assert_same_state(flat_state(trainer), before)
    trainer.load_state_dict(state)
    assert_same_state(flat_state(trainer), checkpoint.flatten(state))


# ---- what is measured ----------------------------------------------------------------------------


class Blind(okcore.TBPTT):
    """An estimator whose gradient is zero."""

    def gradient(self, dh, out=None):
        out[...] = 0
        return out


class Faulty(okcore.TBPTT):
    """An estimator that overflows."""

    def step(self, x, reset=None, out=None):
        raise FloatingPointError("the influence of lane 1 is not finite at step 3")


class Infinite(okcore.TBPTT):
    """An estimator whose gradient has overflown."""

    def gradient(self, dh, out=None):
        out[...] = np.inf
        return out


def with_shadow(cls):
    trainer, task = make_trainer(from_mapping(DECLARED | {"estimator": "rtrl"}))
    return ComparingTrainer(trainer, "rtrl", {"other": cls(trainer.cell, 4, 3)}), task


def test_a_zero_gradient():
    trainer, task = with_shadow(Blind)
    assert trainer.reference == "rtrl" and trainer.compared == ("other",)
    trainer.fit(task, 3, progress=False)
    averages = trainer.take_averages()
    assert [averages[name]["other"] for name in QUANTITIES] == [0, 1, 1]


def test_where_the_reference_is_zero_nothing_is_measured():
    trainer, task = with_shadow(okcore.TBPTT)
    trainer.readout.weights[...] = 0
    trainer.partial_fit(*next(task))  # no weights, no credit
    averages = trainer.take_averages()
    assert [averages[name]["other"] for name in QUANTITIES] == [None] * 3
    assert set(averages["step_ms"]) == {"rtrl", "other"}
    trainer.partial_fit(*next(task))
    assert trainer.take_averages()["cosine"]["other"] == pytest.approx(1, abs=1e-3)  # its window is whole


def test_errors_name_the_estimator():
    for cls, words in ((Faulty, "^other: the influence of lane 1"), (Infinite, "^other: the gradient is not finite")):
        trainer, task = with_shadow(cls)
        before = trainer.cell.theta.copy()
        with pytest.raises(FloatingPointError, match=words):
            trainer.fit(task, 1, progress=False)
        assert np.array_equal(trainer.cell.theta, before)


def test_estimators_out_of_step_are_not_saved(comparison):
    assert comparison._can_resume()
    comparison.trainer.estimators["uoro"].step(np.zeros(3, int))
    assert not comparison._can_resume()


# ---- the command ---------------------------------------------------------------------------------


def test_what_is_said_and_drawn(whole, tmp_path):
    said, errors = compared(tmp_path / "run", "rtrl", "uoro")
    assert errors == ""
    assert "with uoro: UORO(RHN(n_in=4, n_hidden=6" in said
    table = said[said.index("Gradients at every step against those of rtrl (exact)") :].splitlines()
    assert re.split("  +", table[1])[1:] == ["cosine", "relative error", "variance", "ms per step and gradient"]
    (run,) = okcore.load_runs(tmp_path / "run")
    own = "ok rank=2 block=4 tolerance=0.3"
    for row, name in zip(table[2:5], (own, "rtrl", "uoro"), strict=True):
        assert row.strip().startswith(name)
        numbers = [float(text) for text in row.replace(name, "", 1).split()]
        wanted = [f"{quantity}/{name}" for quantity in (*QUANTITIES, "step_ms")][-len(numbers) :]
        assert len(numbers) == (1 if name == "rtrl" else 4)
        assert numbers == pytest.approx([run.metrics[metric].mean() for metric in wanted], rel=6e-3)
    assert f"Figure: {tmp_path / 'run' / 'comparison.svg'}" in said
    drawn = (tmp_path / "run" / "comparison.svg").read_text()
    for word in ("uoro", own, "relative error against the", "cosine with the exact gradient"):
        assert word in drawn
    said, _ = cli("plot", tmp_path / "run", "-o", tmp_path / "again.svg")
    assert "uoro" in said and (tmp_path / "again.svg").read_text() == drawn


def test_what_is_said_where_none_is_exact(tmp_path):
    said, _ = compared(tmp_path, "uoro")
    assert "against those of ok rank=2 block=4 tolerance=0.3 (not exact: it is what trains)" in said


def test_without_matplotlib_the_rest_is_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said, _ = compared(tmp_path, "uoro")
    assert "No figure: figures need matplotlib: pip install matplotlib" in said and "Gradients at every step" in said
    assert not (tmp_path / "comparison.svg").exists()


def test_a_text(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    folder = tmp_path / "run"
    cli("compare", "text", tmp_path / "text.txt", *SMALL, "--steps", 20, "--with", "tbptt block=2", "--out", folder)
    assert metrics(folder)[-1]["valid_bpc"] > 0 and "tbptt block=2" in metrics(folder)[-1]["cosine"]
    with Run.open(folder) as run:
        assert isinstance(run, Comparison)


@pytest.mark.parametrize("specs, words", [
    (["bptt"], "--with must begin with one of ok, rtrl"), ([""], "--with must begin with one of ok, rtrl"),
    (["ok rank=0"], "--with 'ok rank=0'.*--rank.*must be at least 1"), (["ok rank"], "--with 'ok rank'.*--rank"),
    (["ok rank=two"], "--with 'ok rank=two'.*--rank.*two"), (["uoro rank=2"], "uoro takes no options, got 'rank'"),
    (["ok lr=1"], "ok takes rank, block, tolerance, got 'lr'"),
    (["ok --rank=1"], "ok takes rank, block, tolerance, got '--rank'"),
    (["uoro", " uoro "], "got 'uoro' twice"),
    (["ok  rank=2 block=4 tolerance=0.3"], r"got 'ok rank=2 block=4 tolerance=0.3' twice \('ok rank=2"),
])  # fmt: skip
def test_what_is_refused(specs, words, tmp_path):
    _, errors = compared(tmp_path / "run", *specs, status=1)
    assert re.search(words, errors) and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_a_shadow_leaves_open_is_the_runs():
    options = from_mapping(DECLARED | {"batch": 5})
    assert shadow_options("kf-rtrl", options) == options | {"estimator": "kf-rtrl"}
    assert shadow_options("ok rank=7", options) == options | {"rank": 7}
    assert shadow_options("ok block=auto rank=7", options) == options | {"block": "auto", "rank": 7}
