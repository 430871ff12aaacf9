"""Sweeps: killed anywhere and started again on other processes, they are bitwise the runs of `okcore train`."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from okcore.runs import checkpoint, files, sweep
from okcore.runs.options import from_mapping
from tests.test_runs import assert_same_run, command, has_lines, metrics, okcore, started, wait_for

GRID = """
[defaults]
task = "copy"
hidden = 6
batch = 3
rank = 2
block = 4
steps = 4000
log-every = 20
lr = 0.01
[grid]
estimator = ["ok", "uoro"]
seed = [0, 1]
[[run]]
task = "series"
dtype = "float64"
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return what `okcore train` makes of the first run of the grid and of the last."""
    common = "--hidden 6 --batch 3 --rank 2 --block 4 --steps 4000 --log-every 20 --lr 0.01 --threads 1".split()
    runs = {
        "copy-ok-": ["copy", "--estimator", "ok", "--seed", 0],
        "series-": ["series", "--dtype", "float64"],
    }
    for name, arguments in runs.items():
        runs[name] = tmp_path_factory.mktemp("alone") / "run"
        okcore("train", *arguments, *common, "--out", runs[name])
    return runs


def folders(out):
    return sorted(folder for folder in out.iterdir() if folder.is_dir())


def assert_complete(out, alone):
    """Check that all five runs are there, and that two of them are what they are alone."""
    found = folders(out)
    assert len(found) == 5
    assert all(metrics(folder)[-1]["step"] == 4000 for folder in found)
    for name, folder in alone.items():
        assert_same_run(next(f for f in found if f.name.startswith(name) and "seed0" in f.name), folder)
    assert not list(out.glob(".sweep-*"))


# ---- what a grid is ------------------------------------------------------------------------------


def test_a_grid_multiplies_and_adds(grid, tmp_path):
    trials = sweep.read_grid(grid, tmp_path)
    said = [(t.options["task"], t.options["estimator"], t.options["seed"]) for t in trials]
    assert said == [
        ("copy", "ok", 0), ("copy", "uoro", 0), ("series", "ok", 0), ("copy", "ok", 1), ("copy", "uoro", 1)
    ]  # fmt: skip
    assert all(t.options["hidden"] == 6 and t.options["log_every"] == 20 and t.options["threads"] == 1 for t in trials)
    assert [t.options["dtype"] for t in trials] == ["float32"] * 2 + ["float64"] + ["float32"] * 2


def test_several_grids(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(
        '[defaults]\ntask = "copy"\n[[grid]]\nestimator = ["ok"]\nrank = [2, 4]\n[[grid]]\nestimator = ["tbptt"]\n'
        'block = [5]\nseed = [0, 1]\n'
    )
    said = [(t.options["estimator"], t.options["block"], t.options["seed"]) for t in sweep.read_grid(grid, tmp_path)]
    usual = from_mapping({"task": "copy"})["block"]
    assert said == [("ok", usual, 0), ("ok", usual, 0), ("tbptt", 5, 0), ("tbptt", 5, 1)]


def test_names_are_those_of_the_content():
    def name(**options):
        return sweep.name_of(from_mapping({"task": "copy"} | options))

    usual = name()
    assert usual.startswith("copy-ok-seed0-")
    same = {"steps": 9, "threads": 3, "save_every": 7.0, "log-every": 5, "time_limit": 5.0}
    for option, value in same.items():
        assert name(**{option: value}) == usual, option
    other = {
        "seed": 1, "lr": 0.5, "hidden": 8, "cell": "lstm", "estimator": "rtrl", "dtype": "float64", "init": "uniform",
        "rank": 3, "block": "auto", "batch": 4, "clip": 0, "optimizer": "sgd", "update-every": 2, "preset": "paper",
    }  # fmt: skip
    names = {name(**{option: value}) for option, value in other.items()}
    assert len(names | {usual}) == len(other) + 1
    assert name(rank=3, lr=0.5).startswith("copy-ok-lr0.5-rank3-seed0-")
    assert name(hidden=64) == usual  # the default, said or not


def test_the_longer_of_two_runs_that_differ_in_steps_alone_is_done(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text('[defaults]\ntask = "copy"\n[grid]\nsteps = [100, 300, 200]\n')
    assert [trial.steps for trial in sweep.read_grid(grid, tmp_path)] == [300]


@pytest.mark.parametrize("text, words", [
    ("[grid", "grid.toml"), ("[other]\n", "other"), ('[grid]\nseed = 3\n', "seed in \\[grid\\] must be a list"),
    ("[grid]\nseed = []\n", "seed"), ('[defaults]\ntask = "nothing"\n', "task must be one of copy, "),
    ('[defaults]\ntask = "copy"\nhiden = 3\n', "hiden"), ('[defaults]\ntask = "copy"\nhidden = 0\n', "hidden"),
    ('[defaults]\ntask = "copy"\n[[run]]\nlr = "fast"\n', "lr"), ('[defaults]\ntask = "copy"\nout = "x"\n', "out"),
    ('[defaults]\ntask = "copy"\nhidden = [3]\n', "hidden must be a string, a number"),
    ('[defaults]\ntask = "copy"\n[run]\nlr = 1\n', "\\[\\[run\\]\\]"), ("run = [3]\n", "\\[\\[run\\]\\]"),
    ("defaults = 3\n", "defaults must be a table"), ("grid = [3]\n", "grid must be a table"),
    ('[defaults]\ntask = "text"\n', "source"),
    ('[defaults]\ntask = "copy"\nhid = 3\n', "hid"), ("[defaults]\nseed = 1\n", "task must be one of"),
])  # fmt: skip
def test_grids_that_are_none(text, words, tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        sweep.read_grid(grid, tmp_path)
    assert str(grid) in str(error.value)
    _, errors = okcore("sweep", grid, "--dry-run", status=1)
    assert "okcore: error" in errors


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "x/2", "-1/2"])
def test_shards_that_are_none(shard, grid):
    done = subprocess.run(command("sweep", grid, f"--shard={shard}"), capture_output=True, text=True)
    assert done.returncode == 2 and "--shard" in done.stderr


def test_a_dry_run_says_how_far_each_is(grid, tmp_path):
    out = tmp_path / "out"
    said, _ = okcore("sweep", grid, "--dry-run", "--out", out)
    assert said.count(": new\n") == 5 and not out.exists()
    assert "3 runs" in okcore("sweep", grid, "--dry-run", "--out", out, "--shard", "1/2")[0]
    assert "2 runs" in okcore("sweep", grid, "--dry-run", "--out", out, "--shard", "2/2")[0]


# ---- carried out ---------------------------------------------------------------------------------


def test_killed_twice_and_gone_on_with_in_shards_and_on_dask(grid, alone, tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    arguments = ["sweep", grid, "--out", out]

    first, _, _, fourth, _ = (trial.folder for trial in sweep.read_grid(grid, out))
    with started(*arguments, "-j", 2) as process:
        wait_for(has_lines(first, 3), process)
        process.kill()  # its processes end by themselves
    with started(*arguments, "--shard", "2/2", "-j", 1) as process:
        wait_for(has_lines(fourth, 3), process)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and "Traceback" not in errors and "Stopped by SIGTERM" in said
    okcore(*arguments, "-j", 1, "--shard", "1/2")
    done = subprocess.run(command(*arguments, "--backend", "dask", "-j", 2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 runs are complete" in done.stdout
    assert_complete(out, alone)
    before = {folder: (folder / "checkpoint.npz").stat().st_mtime_ns for folder in folders(out)}
    assert "5 of 5" in okcore(*arguments)[0]
    assert before == {folder: (folder / "checkpoint.npz").stat().st_mtime_ns for folder in folders(out)}  # skipped


def children(pid):
    """Return the processes that `pid` has started, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            child, _, rest = stat.read_text().rpartition(")")
            if int(rest.split()[1]) == pid:
                found.append(int(child.split()[0]))
    return found + [further for child in found for further in children(child)]


def holder(folder, among):
    """Return the process among these that has a file of the folder open, or None."""
    for pid in among:
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if any(link.startswith(str(folder)) for link in links):
            return pid
    return None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux who holds a folder")
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_a_process_that_dies_takes_nothing_with_it(backend, grid, alone, tmp_path):
    if backend == "dask":
        pytest.importorskip("distributed")
    out = tmp_path / "out"
    with started("sweep", grid, "--out", out, "-j", 2, "--backend", backend) as process:
        deadline, killed = time.monotonic() + 60, None
        while killed is None:
            assert process.poll() is None and time.monotonic() < deadline
            for folder in folders(out) if out.exists() else []:
                if has_lines(folder, 3)() and (killed := holder(folder, children(process.pid))):
                    os.kill(killed, signal.SIGKILL)
                    break
            time.sleep(0.01)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert_complete(out, alone)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="blocks signals")
def test_processes_do_not_hear_ctrl_c_from_their_start():
    code = """
        import signal
        import joblib
        from okcore.runs.sweep import engine, terminal_signals_blocked

        with terminal_signals_blocked(), engine("loky", 2, None):
            blocked = joblib.Parallel()(joblib.delayed(signal.pthread_sigmask)(signal.SIG_BLOCK, []) for _ in range(2))
        assert all(signals >= {signal.SIGINT, signal.SIGHUP} for signals in blocked), blocked
    """
    # In a process of its own: this one may have started before what multiprocessing starts once
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_ctrl_c_saves_all_runs(grid, alone, tmp_path):
    out = tmp_path / "out"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # In a group of its own, all of which gets the signal, as from a terminal
    with subprocess.Popen(command("sweep", grid, "--out", out, "-j", 2), start_new_session=True, **pipes) as process:
        wait_for(lambda: out.exists() and any(has_lines(folder, 3)() for folder in folders(out)), process)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors and "Stopped by SIGINT" in said
    assert not list(out.glob(".sweep-*"))
    for folder in folders(out):
        if has_lines(folder, 0)():  # up to the last line: the end was saved
            assert checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"] >= metrics(folder)[-1]["step"]
    okcore("sweep", grid, "--out", out, "-j", 1)
    assert_complete(out, alone)


def test_a_time_limit_exits_with_75(grid, tmp_path):
    out = tmp_path / "out"
    said, _ = okcore("sweep", grid, "--out", out, "-j", 1, "--time-limit", 0.05, status=75)
    assert "Stopped by the time limit" in said
    assert 0 < len(folders(out)) < 5


def test_a_runs_own_time_limit_stops_that_run_alone(grid, tmp_path):
    limited = "[[run]]\nsteps = 1_000_000\ntime-limit = 0.2\n"
    grid.write_text(f'[defaults]\ntask = "copy"\nhidden = 6\nsteps = 40\n{limited}[[run]]\nseed = 1\n')
    for _ in range(2):  # the second time as the run is resumed
        said, errors = okcore("sweep", grid, "--out", tmp_path / "out", "-j", 1, status=1)
        assert "1 of 2 runs are complete" in said and "stopped by the time limit" in errors


def test_tokens_of_dead_sweeps_are_removed_where_there_are_locks(grid, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    left, alive = out / ".sweep-left", out / ".sweep-alive"
    for token in (left, alive):
        token.touch()
    handle = files.hold(alive)
    okcore("sweep", grid, "--out", out, "-j", 1, "--time-limit", 0.05, status=75)
    assert alive.exists() and not left.exists()
    os.close(handle)

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)  # nobody can tell that the sweep is dead
    okcore("sweep", grid, "--out", out, "-j", 1, "--time-limit", 0.05, status=75)
    assert alive.exists()


def test_a_sweep_whose_token_is_taken_away_ends(grid, tmp_path, monkeypatch):
    def taken_away(trial, token):
        token.unlink(missing_ok=True)
        return trial.folder, "not started"

    monkeypatch.setattr(sweep, "_with_folder", taken_away)
    said, errors = okcore("sweep", grid, "--out", tmp_path / "out", "-j", 1, status=1)
    assert "0 of 5 runs are complete" in said and errors.count("not started") == 5


def test_a_run_that_fails_is_reported_and_the_others_go_on(grid, tmp_path):
    more = "[[run]]\ntask = \"text\"\nsource = \"gone.txt\"\n[[run]]\nlr = 1e39\nsteps = 100\noptimizer = \"sgd\"\n"
    grid.write_text(GRID + more)
    out = tmp_path / "out"
    said, errors = okcore("sweep", grid, "--out", out, "-j", 1, status=1)
    assert "5 of 7 runs are complete" in said
    assert "FileNotFoundError" in errors and "gone.txt" in errors
    diverged = next(folder for folder in folders(out) if "lr1e+39" in folder.name)
    assert f"{diverged.name}: failed: FloatingPointError" in errors
    assert "FloatingPointError" in (diverged / "log.txt").read_text()


def test_a_run_that_another_process_holds_is_left_to_it(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "BUSY_SECONDS", 0.1)
    out = tmp_path / "out"
    first = sweep.read_grid(grid, out)[0]
    with sweep.Run.create(first.folder, first.options):
        said, errors = okcore("sweep", grid, "--out", out, "-j", 1, status=1)
    assert "4 of 5 runs are complete" in said and f"{first.folder.name}: another process" in errors
    assert "5 of 5" in okcore("sweep", grid, "--out", out, "-j", 1)[0]


def test_more_steps_continue_the_runs(grid, tmp_path):
    out = tmp_path / "out"
    grid.write_text(GRID.replace("steps = 4000", "steps = 60"))
    okcore("sweep", grid, "--out", out, "-j", 1)
    names = folders(out)
    grid.write_text(GRID.replace("steps = 4000", "steps = 90"))
    okcore("sweep", grid, "--out", out, "-j", 1)
    assert folders(out) == names and all(metrics(folder)[-1]["step"] == 90 for folder in names)


def test_what_is_missing_is_said(grid, tmp_path, monkeypatch):
    assert "GRID.toml" in okcore("sweep", tmp_path / "none.toml", status=1)[1]
    _, errors = okcore("sweep", grid, "--backend", "dask", "--scheduler-file", tmp_path / "none.json", status=1)
    assert "--scheduler-file" in errors or "okcore[dask]" in errors
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "okcore[dask]" in okcore("sweep", grid, "--backend", "dask", "--out", tmp_path / "out", status=1)[1]


EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.toml"))


@pytest.mark.parametrize("grid", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_are_grids(grid, tmp_path):
    assert len(sweep.read_grid(grid, tmp_path)) > 1
