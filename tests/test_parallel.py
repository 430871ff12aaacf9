"""Ranks that train one batch together do what one process does, and end together. With a real mpiexec."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from okcore.runs import checkpoint, files

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="mpi4py and mpiexec are not installed"
)

OPTIONS = "--hidden 8 --rank 2 --block 5 --batch 4 --dtype float64 --seed 3 --threads 1 --log-every 1".split()

# okcore's command line, with something done to one rank after some steps, from its own thread or inside a step
DISTURBED = """
import os, pathlib, signal, sys, threading, time
from mpi4py import MPI
from okcore.runs import command_line
what, rank, after, folder, *arguments = sys.argv[1:]

def disturb():
    lines = pathlib.Path(folder, "metrics.jsonl")
    while not lines.exists() or len(lines.read_text().splitlines()) < int(after):
        time.sleep(0.01)
    os.kill(os.getpid(), getattr(signal, what))

if MPI.COMM_WORLD.rank == int(rank):
    if what.startswith("SIG"):
        threading.Thread(target=disturb, daemon=True).start()
    else:
        import okcore
        step = okcore.Estimator.step
        def disturbed(self, *arguments, **more):
            if self.steps == int(after):
                if what == "theta":
                    self.cell.theta[0, 0] += 1e-9
                elif what == "overflow":
                    raise FloatingPointError("the state of lane 0 is not finite")
                elif what == "bug":
                    raise RuntimeError("no such thing")
                elif what == "exit":
                    os._exit(3)
            return step(self, *arguments, **more)
        okcore.Estimator.step = disturbed
sys.exit(command_line.main(arguments))
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(bytes(np.random.default_rng(0).integers(97, 103, size=900, dtype=np.uint8)))
    return str(path)


def call(*command, timeout=100):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout)


def okcore(*arguments, n=1, disturb=None):
    """Run the command line on `n` ranks; disturb: (what, rank, after how many steps, folder)."""
    start = [] if n == 1 else [MPIEXEC, "-n", n]
    if disturb is None:
        return call(*start, sys.executable, *([] if n == 1 else ["-m", "mpi4py"]), "-m", "okcore", *arguments)
    return call(*start, sys.executable, "-m", "mpi4py", "-c", DISTURBED, *disturb, *arguments)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return np.array([line["loss_bits"] for line in lines])


@pytest.fixture(scope="module")
def alone(tmp_path_factory, text):
    """One process, undisturbed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = okcore("train", "text", text, *OPTIONS, "--steps", 600, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_run(folder, other):
    """Same losses and same checkpoint, to the rounding of a sum over lanes."""
    found, expected = losses(folder), losses(other)
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1e-9
    found, expected = (checkpoint.flatten(checkpoint.read(path / "checkpoint.npz")) for path in (folder, other))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.asarray(found[name]).dtype == np.asarray(value).dtype, name
        if np.asarray(value).dtype.kind == "f" and name != "run/time":
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-8, err_msg=name)
        elif name != "run/time":
            np.testing.assert_array_equal(found[name], value, name)


def test_ranks_train_as_one_process_does(tmp_path, text, alone):
    # Each lane of the text is reset at a step of its own, so a rank with one lane is often reset as a whole.
    for n in (2, 3):
        done = okcore("train", "text", text, *OPTIONS, "--steps", 600, "--out", tmp_path / str(n), n=n)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert f"4 lanes on {n} processes" in done.stdout
        assert done.stdout.count("step 600 of 600") == 1
        assert_same_run(tmp_path / str(n), alone)


@pytest.mark.parametrize("options", ["--estimator rtrl --update-every 4", "--estimator tbptt --cell lstm --clip 0.01"])
def test_a_run_moves_between_numbers_of_ranks(tmp_path, options):
    arguments = "train", "copy", *OPTIONS, "--lr", "3e-2", *options.split()
    assert okcore(*arguments, "--steps", 90, "--out", tmp_path / "alone").returncode == 0
    assert okcore(*arguments, "--steps", 30, "--out", tmp_path / "run", n=2).returncode == 0
    for n, steps in ((1, 50), (3, 71), (2, 90)):  # 30, 50, and 71 steps are inside a mean over 4
        done = okcore("resume", tmp_path / "run", "--steps", steps, n=n)
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_rank_stops_all(tmp_path, text, alone, rank):
    folder = tmp_path / "run"
    arguments = "train", "text", text, *OPTIONS, "--steps", 600, "--out", folder
    done = okcore(*arguments, n=2, disturb=("SIGTERM", rank, 20, folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Stopped by SIGTERM after step") == 1
    stopped = checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"]
    assert 20 <= stopped < 600
    assert len(losses(folder)) == stopped
    done = okcore("resume", folder, n=3 - rank)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, alone)


def test_a_killed_rank_leaves_a_checkpoint(tmp_path, text):
    folder = tmp_path / "run"
    arguments = "train", "text", text, *OPTIONS, "--steps", 1_000_000, "--save-every", 0.2, "--out", folder
    done = okcore(*arguments, n=2, disturb=("SIGKILL", 1, 3000, folder))
    assert done.returncode != 0
    saved = checkpoint.read_newest(folder / "checkpoint.npz")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[:-1]]
    time_of = {line["step"]: line["time_s"] for line in lines}
    assert lines[-1]["time_s"] - time_of[saved["trainer"]["steps"]] < 5  # 0.2 and a write, on a busy machine
    done = okcore("resume", folder, "--steps", saved["trainer"]["steps"] + 10)
    assert done.returncode == 0, done.stderr


def test_the_time_limit_holds_on_all_ranks(tmp_path, text):
    arguments = "train", "text", text, *OPTIONS, "--steps", 1_000_000, "--out", tmp_path / "run", "--time-limit", 0.5
    done = okcore(*arguments, n=2)
    assert done.returncode == 75
    assert done.stderr == ""
    assert done.stdout.count("Stopped by the time limit") == 1


def test_a_failure_on_one_rank_ends_all(tmp_path, text):
    def failed(what, *options):
        folder = tmp_path / "".join([what, *options])
        arguments = "train", "text", text, *OPTIONS, "--steps", 600, "--out", folder, *options
        done = okcore(*arguments, n=2, disturb=(what, 1, 50, folder))
        return folder, done

    folder, done = failed("overflow")
    assert done.returncode == 1
    where = "on rank 1, whose lane 0 is the batch's 2"
    expected = f"okcore: error: the state of lane 0 is not finite ({where}); try a smaller --lr or --clip\n"
    assert done.stderr == expected
    assert not (folder / "checkpoint.npz").exists()  # rank 1 did not take the step that rank 0 took

    folder, done = failed("overflow", "--update-every", "4")
    assert (done.returncode, done.stderr) == (1, expected)

    folder, done = failed("bug")
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: no such thing") == 2  # as raised on rank 1, and again by rank 0
    assert "on rank 1:" in done.stderr

    folder, done = failed("theta")
    assert done.returncode == 1
    assert "okcore: error: the parameters of rank 1 differ from those of rank 0 at step 51 " in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (folder / "checkpoint.npz").exists()

    folder, done = failed("exit")
    assert done.returncode != 0
    assert len(losses(folder)) == 50


def test_what_is_refused_is_refused_once(tmp_path, text, alone):
    def refused(*arguments, status=1):
        done = okcore(*arguments, n=2)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.count("error:") == 1
        return done.stderr

    short = "train", "text", text, "--steps", 5, "--hidden", 4
    assert "--batch must be at least 2, the number of MPI processes, got 1" in refused(*short, "--batch", 1)
    assert "which holds a run: use okcore resume" in refused(*short, "--out", alone)
    assert "without a run.json" in refused("resume", tmp_path)
    assert "--steps must be at least the 600 already taken" in refused("resume", alone, "--steps", 7)
    assert "source must be a text file" in refused("train", "text", tmp_path / "none.txt")
    assert "invalid choice" in refused("train", "text", text, "--cell", "no", status=2)
    damaged = tmp_path / "damaged"
    shutil.copytree(alone, damaged)
    groups = checkpoint.read(alone / "checkpoint.npz")
    groups["estimator"]["rng"] = groups["estimator"]["rng"][:3]
    checkpoint.write(damaged / "checkpoint.npz", groups)
    assert "rng must have 4 lanes" in refused("resume", damaged)
    groups["estimator"] = checkpoint.read(alone / "checkpoint.npz")["estimator"]
    groups["estimator"]["state"][3] = np.nan  # of a lane of rank 1
    checkpoint.write(damaged / "checkpoint.npz", groups)
    assert "state must be finite" in refused("resume", damaged)


def test_a_run_in_use_is_refused_on_all_ranks(alone):
    handle = files.hold(alone)
    try:
        done = okcore("resume", alone, n=2)
    finally:
        os.close(handle)
    assert done.returncode == 1
    assert done.stderr.count("is in use by another process") == 1
