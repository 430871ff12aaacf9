"""Runs beside each other, and every way in which one can end: nothing is lost, nothing is shared."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from okcore import _config
from okcore.runs import checkpoint, files, options
from okcore.runs import run as runs
from tests.test_runs import SMALL, assert_same_run, command, has_lines, metrics, okcore, started, wait_for

LONG = ["train", "copy", *SMALL, "--steps", 10**7]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a finished run of 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    okcore("train", "copy", *SMALL, "--steps", 20, "--out", folder)
    return folder


@pytest.fixture
def copied(small, tmp_path):
    return Path(shutil.copytree(small, tmp_path / "run"))


# ---- one folder, one process -----------------------------------------------------------------------------------------


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    arguments = command("train", "copy", *SMALL, "--steps", 30)
    processes = [
        subprocess.Popen([*arguments, "--seed", str(seed)], cwd=tmp_path, stdout=subprocess.PIPE) for seed in range(6)
    ]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == [f"copy-00{i}" for i in range(1, 7)]
    seeds = [json.loads((folder / "run.json").read_text())["options"]["seed"] for folder in folders]
    assert sorted(seeds) == list(range(6))
    for folder in folders:
        assert [line["step"] for line in metrics(folder)] == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize("how", ["train", "resume"])
def test_a_second_process_is_refused_by_name(how, tmp_path):
    folder = tmp_path / "run"
    with started(*LONG, "--out", folder) as process:
        wait_for(has_lines(folder, 2), process)
        arguments = ["resume", folder] if how == "resume" else [*LONG, "--out", folder]
        _, errors = okcore(*arguments, status=1)
        assert "in use by another process" in errors and str(folder) in errors
        process.kill()
        process.wait()
    lock = files.hold(folder)  # it died with its process
    os.close(lock)


def test_without_locks_there_is_a_warning(monkeypatch, tmp_path):
    def no_locks(handle, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    _, errors = okcore("train", "copy", *SMALL, "--steps", 5, "--out", tmp_path / "run")
    assert "no lock" in errors and "Operation not supported" in errors
    assert metrics(tmp_path / "run")[-1]["step"] == 5


# ---- every end saves -------------------------------------------------------------------------------------------------


def resumes_like_an_undisturbed_run(folder, tmp_path):
    """Resume for some steps; compare with a run of as many."""
    steps = checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"] + 7
    okcore("resume", folder, "--steps", steps)
    okcore("train", "copy", *SMALL, "--steps", steps, "--out", tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_saves(name, tmp_path):
    folder = tmp_path / "run"
    with started(*LONG, "--out", folder) as process:
        wait_for(has_lines(folder, 2), process)
        process.send_signal(getattr(signal, name))
        said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "") and name in said
    resumes_like_an_undisturbed_run(folder, tmp_path)


def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    folder = tmp_path / "run"
    nohup = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, sys.argv[1:])
"""
    arguments = command("train", "copy", *SMALL, "--steps", 3000, "--out", folder)
    with subprocess.Popen([sys.executable, "-c", nohup, *arguments], stdout=subprocess.PIPE, text=True) as process:
        wait_for(has_lines(folder, 2), process)
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "SIGHUP" not in said and metrics(folder)[-1]["step"] == 3000


def test_a_closed_standard_output_saves(tmp_path):
    folder = tmp_path / "run"
    arguments = command("train", "copy", *SMALL, "--steps", 10**6, "--log-every", 5, "--out", folder)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        # a line is printed for every twentieth part of the run: ask for its end instead
        wait_for(has_lines(folder, 2), process)
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read()
        assert process.wait(timeout=30) == 0
    assert "Traceback" not in errors and "everything is saved" in errors
    resumes_like_an_undisturbed_run(folder, tmp_path)


@pytest.mark.parametrize("lines_read", [0, 1, 2])
def test_a_closed_standard_output_ends_the_run_at_its_next_line(lines_read, tmp_path):
    folder = tmp_path / "run"
    arguments = command("train", "copy", *SMALL, "--steps", 20_000, "--out", folder)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(lines_read):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "closed standard output" in errors and "Traceback" not in errors
    assert 0 < checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"] < 20_000
    resumes_like_an_undisturbed_run(folder, tmp_path)


def test_a_terminal_that_goes_away_saves(tmp_path):
    folder = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        time.sleep(0.2)  # until the window has its size
        os.execv(sys.executable, command(*LONG, "--out", folder))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    seen, deadline = b"", time.monotonic() + 30
    while not (has_lines(folder, 2)() and b"step/s" in seen) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096)
    os.close(terminal)  # sends SIGHUP, and writing to it fails from now on
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended[0] == child and os.waitstatus_to_exitcode(ended[1]) == 0
    assert b"step/s" in seen  # there was a progress bar
    resumes_like_an_undisturbed_run(folder, tmp_path)


def test_an_exception_saves(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real = runs.Run._log

    def failing(self, metrics, bar, output):
        if self.trainer.steps == 30:
            raise OSError("no space left on device")
        return real(self, metrics, bar, output)

    monkeypatch.setattr(runs.Run, "_log", failing)
    _, errors = okcore("train", "copy", *SMALL, "--steps", 50, "--out", folder, status=1)
    assert "no space left" in errors and "last checkpoint" in errors
    assert checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"] == 30


def test_the_first_checkpoint_is_early_and_the_others_as_asked(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(runs.Run, "save", lambda self: saved.append(round(self.time)))
    now = iter(range(10**6))
    monkeypatch.setattr(runs.time, "monotonic", lambda: next(now))
    for save_every, expected in ((60, [6, 67, 128, 189, 200]), (20, [6, 27, 48]), (3, [4, 8, 12])):
        saved.clear()
        okcore("train", "copy", *SMALL, "--steps", 200, "--save-every", save_every, "--out", tmp_path / str(save_every))
        assert saved[: len(expected)] == expected


def test_hints_can_be_copied_into_a_shell(tmp_path):
    folder = tmp_path / "with a space and 'quotes'"
    said, _ = okcore("train", "copy", *SMALL, "--steps", 5, "--out", folder)
    hint = next(line for line in said.splitlines() if " resume " in line)
    done = subprocess.run(hint.strip(), shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert metrics(folder)[-1]["step"] == 10


# ---- what is left by a killed process, or planted, or edited ---------------------------------------------------------


def test_partial_files_are_removed(copied):
    for name in ("checkpoint.npz.abc.partial", "run.json.partial", "metrics.jsonl.x.partial"):
        (copied / name).write_text("half")
    okcore("resume", copied, "--steps", 25)
    assert not list(copied.glob("*.partial"))


def test_links_are_not_followed(copied, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    for name in ("metrics.jsonl.partial", "run.json.partial", "checkpoint.partial"):
        (copied / name).symlink_to(outside)
    okcore("resume", copied, "--steps", 25)
    assert outside.read_text() == "precious"


def edit(folder, **changes):
    description = json.loads((folder / "run.json").read_text())
    description["options"] |= changes
    (folder / "run.json").write_text(json.dumps(description))


@pytest.mark.parametrize("name, value", [
    ("lr", 0.5), ("clip", 9.0), ("seed", 1), ("rank", 3), ("optimizer", "sgd"), ("update_every", 2), ("block", 5),
    ("init", "uniform"), ("tolerance", 0.5),
])  # fmt: skip
def test_an_edited_option_is_refused_by_name(name, value, copied):
    before = (copied / "metrics.jsonl").read_bytes()
    edit(copied, **{name: value})
    _, errors = okcore("resume", copied, "--steps", 25, status=1)
    assert "run.json" in errors and f"{name} must be" in errors and "Traceback" not in errors
    assert (copied / "metrics.jsonl").read_bytes() == before


def test_a_run_from_before_the_tolerance_had_a_default_resumes(tmp_path):
    made = {"task": "copy", "hidden": 6, "batch": 3, "rank": 2, "block": 4, "threads": 1, "steps": 20}
    with runs.Run.create(tmp_path / "run", options.from_mapping(made) | {"tolerance": None}) as run:
        run.train(output=sys.stderr)
    okcore("resume", tmp_path / "run", "--steps", 25)
    assert metrics(tmp_path / "run")[-1]["step"] == 25


@pytest.mark.parametrize("name", ["log_every", "valid_every", "steps", "threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None])
def test_numbers_in_run_json_are_checked(name, value, copied):
    edit(copied, **{name: value})
    _, errors = okcore("resume", copied, status=1)
    assert "run.json" in errors and name in errors and errors.count("\n") == 1


def test_metrics_that_are_not_text_are_named(copied):
    lines = (copied / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_bytes(lines[0] + b"\xff\xfe" + lines[1])
    _, errors = okcore("resume", copied, status=1)
    assert "metrics.jsonl, line 2" in errors and errors.count("\n") == 1


def test_a_checkpoint_that_unpacks_to_much_more_is_refused_unread(copied):
    path = copied / "checkpoint.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        header = np.lib.format.header_data_from_array_1_0(np.zeros(0, np.uint8)) | {"shape": (2**31,)}
        with file.open("trainer/theta.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for _ in range(512):
                entry.write(bytes(2**22))
    assert path.stat().st_size < 2**22
    with pytest.raises(ValueError, match="compressed"):
        checkpoint.read(path)


def test_another_installation_is_named(copied):
    description = json.loads((copied / "run.json").read_text())
    description["versions"] |= {"numpy": "1.0", "instructions": "avx1024"}
    (copied / "run.json").write_text(json.dumps(description))
    _, errors = okcore("resume", copied, "--steps", 22)
    assert "last bits" in errors and "instead of 1.0" in errors and "instead of avx1024" in errors
    _, errors = okcore("resume", copied, "--steps", 25)  # by now it is the same
    assert errors == ""


# ---- interrupted before and after ------------------------------------------------------------------------------------


def test_ctrl_c_before_the_first_step_and_after_the_last_is_no_traceback(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    for name in ("create", "summary"):
        with monkeypatch.context() as patch:
            patch.setattr(runs.Run, name, interrupted)
            _, errors = okcore("train", "copy", *SMALL, "--steps", 5, "--out", tmp_path / name, status=130)
            assert "interrupted" in errors
    assert metrics(tmp_path / "summary")[-1]["step"] == 5  # everything was saved before


# ---- processors ------------------------------------------------------------------------------------------------------


def test_processors_respect_openmps_variable_and_quotas(monkeypatch):
    monkeypatch.setattr(_config.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(_config, "_cgroup_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _config.usable_processors() == 8
    for value, expected in (("1", 1), ("3", 3), ("4,2", 4), ("", 8), ("0", 8), ("many", 8), ("99", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert _config.usable_processors() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    for quota, expected in ((0.5, 1), (1.5, 2), (2.0, 2), (16.0, 8)):
        monkeypatch.setattr(_config, "_cgroup_quota", lambda quota=quota: quota)
        assert _config.usable_processors() == expected


def test_an_import_leaves_the_environment_as_it_was():
    program = """
import os
before = dict(os.environ)
import sys
sys.modules["okcore._engine.tape"] = None if len(sys.argv) > 1 else sys.modules.get("okcore._engine.tape", ...)
if sys.modules["okcore._engine.tape"] is ...:
    del sys.modules["okcore._engine.tape"]
try:
    import okcore
except ImportError:
    print("failed")
assert dict(os.environ) == before
"""
    for arguments, said in (([], ""), (["broken"], "failed\n")):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
