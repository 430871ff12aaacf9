"""Runs are loaded as they were written; what is no run, or is damaged, is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

import okcore
from tests.test_runs import SMALL
from tests.test_runs import okcore as cli

OPTIONS = {"task": "copy", "estimator": "ok", "cell": "rhn", "seed": 0, "rank": 8, "block": 16}


def write_run(folder, lines, **options):
    """Write what a run writes: run.json and metrics.jsonl; return the folder."""
    folder.mkdir(parents=True)
    description = {"options": OPTIONS | options, "parameters": 12, "versions": {"okcore": "0"}}
    (folder / "run.json").write_text(json.dumps(description))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def lines(values, name="copy_length", every=10, seconds=0.5):
    """Return lines of metrics with these values."""
    return [
        {"step": every * t, "time_s": seconds * t, "loss_bits": 1 / t, name: value} for t, value in enumerate(values, 1)
    ]


def test_a_trained_run(tmp_path):
    folder = tmp_path / "run"
    cli("train", "series", *SMALL, "--steps", 43, "--seed", 3, "--out", folder)
    (run,) = okcore.load_runs(folder)
    assert run.folder == folder and "run" in repr(run)
    assert run.options["task"] == "series" and run.options["seed"] == 3 and run.options["block"] == 4
    assert run.parameters == json.loads((folder / "run.json").read_text())["parameters"]
    assert run.versions["numpy"] == np.__version__
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert set(run.metrics) == {"step", "time_s", "loss_bits", "valid_nrmse"}
    assert run.metrics["step"].dtype == np.int64
    for name, array in run.metrics.items():
        assert array.tolist() == [line[name] for line in written]


def test_null_and_missing_are_nan_and_nested_names_are_joined(tmp_path):
    write_run(tmp_path / "run", [
        {"step": 1, "loss_bits": 2, "valid_bpc": None, "cosine": {"uoro": 0.5, "ok rank=4": None}},
        {"step": 2, "loss_bits": 1.5, "valid_bpc": 3.25, "later": 7},
    ])  # fmt: skip
    metrics = okcore.load_runs(tmp_path / "run")[0].metrics
    expected = {
        "step": [1, 2], "loss_bits": [2, 1.5], "valid_bpc": [np.nan, 3.25], "cosine/uoro": [0.5, np.nan],
        "cosine/ok rank=4": [np.nan, np.nan], "later": [np.nan, 7],
    }  # fmt: skip
    assert metrics.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(metrics[name], values)
        assert metrics[name].dtype == (np.int64 if name == "step" else np.float64)


def test_folders_patterns_and_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a", "c[1]"):
        write_run(tmp_path / "runs" / name, lines([1]))
    (tmp_path / "runs" / "notes.txt").write_text("not a folder")
    a, b, c = (Path("runs") / name for name in ("a", "b", "c[1]"))
    for given, expected in (
        ("runs/*", [a, b, c]), (Path("runs/*"), [a, b, c]), (["runs/b", a], [b, a]), ("runs/c[1]", [c]),
        (["runs/b", "runs/*"], [b, a, c]), ((path for path in (c, a)), [c, a]), ("**/a", [a]),
    ):  # fmt: skip
        assert [run.folder for run in okcore.load_runs(given)] == expected


def test_a_run_that_has_just_started(tmp_path):
    folder = write_run(tmp_path / "run", lines([1, 2]))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "time_')
    assert okcore.load_runs(folder)[0].metrics["step"].tolist() == [10, 20]
    (folder / "metrics.jsonl").write_text("")
    assert okcore.load_runs(folder)[0].metrics["step"].shape == (0,)
    (folder / "metrics.jsonl").unlink()
    assert set(okcore.load_runs(folder)[0].metrics) == {"step"}


def test_what_is_no_run(tmp_path):
    write_run(tmp_path / "runs" / "a", lines([1]))
    (tmp_path / "runs" / "logs").mkdir()
    for given, words in (
        (tmp_path / "runs" / "*", "logs.*must be the folder of a run"), (tmp_path / "none", "none.*must be the folder"),
        (tmp_path / "none*", "no folder matches.*none"), (tmp_path / "runs/a/run.json", "run.json.*must be the folder"),
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=words):
            okcore.load_runs(given)
    with pytest.raises(ValueError, match="at least one folder"):
        okcore.load_runs([])
    for given in (3, [3], None):
        with pytest.raises(TypeError, match="runs must be folders or patterns"):
            okcore.load_runs(given)


@pytest.mark.parametrize("line, words", [
    ('{"step": 2', "line 2, is damaged"), ("[1]", "must be a dict"), ('{"loss_bits": 1}', "step must be an integer"),
    ('{"step": 2.5}', "step must be an integer"), ('{"step": 2, "loss_bits": "low"}', "loss_bits must be a number"),
    ('{"step": 2, "cosine": {"uoro": [1]}}', "cosine/uoro must be a number or null"), ("\udcff", "line 2"),
    ('{"step": 2, "late": true}', "late must be a number"),
])  # fmt: skip
def test_damaged_metrics_are_named_by_line(line, words, tmp_path):
    folder = write_run(tmp_path / "run", lines([1]))
    with open(folder / "metrics.jsonl", "a", errors="surrogateescape") as file:
        file.write(line + "\n" + json.dumps({"step": 30}) + "\n")
    with pytest.raises(ValueError, match=words) as error:
        okcore.load_runs(folder)
    assert str(folder / "metrics.jsonl") + ", line 2" in str(error.value)


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"options": 7, "parameters": 1, "versions": {}}',
    '{"options": {"task": "copy"}, "parameters": 1, "versions": {}}',
])  # fmt: skip
def test_a_damaged_description_is_named(text, tmp_path):
    folder = write_run(tmp_path / "run", lines([1]))
    (folder / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        okcore.load_runs(folder)
