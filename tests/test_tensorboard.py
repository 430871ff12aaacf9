"""--tensorboard: event files with the numbers of metrics.jsonl, also of a run that was resumed or killed."""

import json
import os
import struct
import sys

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from okcore.runs import options
from tests.test_runs import SMALL, metrics, okcore, shell

TRAIN = ["train", "text", "python-docs", *SMALL, "--tensorboard"]


def events(folder):
    """Yield the events of all files, in the order of their writing."""
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # records of TensorFlow: length, its checksum, an event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder):
    """Return {tag: [(step, value)]} as TensorBoard shows them: a start drops what it has from that step on."""
    found = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def assert_same_numbers(folder):
    found = scalars(folder)
    assert found.keys() == {"time_s", "loss_bits", "valid_bpc"}
    for tag, points in found.items():
        lines = [line for line in metrics(folder) if line[tag] is not None]
        assert points == [(line["step"], np.float32(line[tag])) for line in lines], tag


def test_the_numbers_are_those_of_the_metrics(tmp_path):
    shell(*TRAIN, "--steps", 60, "--log-every", 2, "--out", tmp_path / "run")
    assert_same_numbers(tmp_path / "run")
    assert len(scalars(tmp_path / "run")["valid_bpc"]) == 10 < len(metrics(tmp_path / "run"))


def test_a_resumed_run_goes_on_without_repetition(tmp_path):
    folder = tmp_path / "run"
    okcore(*TRAIN, "--steps", 20, "--out", folder)
    okcore("resume", folder, "--steps", 30)
    assert_same_numbers(folder)
    assert [event.step for event in events(folder) if event.summary.value] == [
        line["step"] for line in metrics(folder) for value in list(line.values())[1:] if value is not None
    ]
    # As if killed at step 30, ten steps after its last checkpoint
    os.replace(folder / "checkpoint.previous.npz", folder / "checkpoint.npz")
    okcore("resume", folder, "--steps", 45)
    assert_same_numbers(folder)


def test_a_comparison_has_a_curve_per_estimator(tmp_path):
    shadows = ["--with", "uoro", "--with", "ok rank=1"]
    okcore("compare", "copy", *SMALL, *shadows, "--steps", 30, "--tensorboard", "--out", tmp_path)
    found, lines = scalars(tmp_path), metrics(tmp_path)
    for tag, name in (("uoro", "uoro"), ("ok_rank_1", "ok rank=1")):  # TensorBoard's tags have no spaces
        for what in ("cosine", "relative_error", "variance", "step_ms"):
            expected = [(line["step"], np.float32(line[what][name])) for line in lines if line[what][name] is not None]
            assert found[f"{what}/{tag}"] == expected != []


def test_it_can_be_switched_on_and_off(tmp_path):
    folder = tmp_path / "run"
    okcore("train", "copy", *SMALL, "--steps", 20, "--out", folder)
    assert not (folder / "tensorboard").exists()
    okcore("resume", folder, "--steps", 30, "--tensorboard")
    okcore("resume", folder, "--steps", 40)
    okcore("resume", folder, "--steps", 50, "--no-tensorboard")
    assert [step for step, _ in scalars(folder)["copy_length"]] == [25, 30, 35, 40]
    assert json.loads((folder / "run.json").read_text())["options"]["tensorboard"] is False


def test_without_tensorboardx_it_says_what_to_install(tmp_path, monkeypatch):
    okcore("train", "copy", *SMALL, "--steps", 5, "--out", tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for command in (["train", "copy", *SMALL, "--out", tmp_path / "new"], ["resume", tmp_path / "run"]):
        _, errors = okcore(*command, "--tensorboard", status=1)
        assert 'pip install "okcore[tensorboard]"' in errors
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_in_a_grid_it_is_a_boolean():
    plain = options.from_mapping({"task": "copy"})
    for wanted in (True, False):
        found = options.from_mapping({"task": "copy", "tensorboard": wanted})
        assert found == plain | {"tensorboard": wanted}
        assert options.content(found) == options.content(plain)
    with pytest.raises(ValueError, match="steps"):
        options.from_mapping({"task": "copy", "steps": True})
