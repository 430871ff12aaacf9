"""Every benchmark runs, once and at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import okcore

BENCH = Path(__file__).parent.parent / "bench"

RUN_ALL = """
import importlib, inspect, itertools, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import benchmarks, measure, okcore
PREFIXES = "time_", "track_"
seen = []
for found in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
    module = importlib.import_module(found.name)
    for name, thing in vars(module).items():
        inside = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else [(name, thing)]
        for job in (job for job, _ in inside if job.startswith(PREFIXES)):
            assert thing.__module__ == module.__name__, f"asv would take {name} twice, here in {module}"
            for arguments in itertools.product(*getattr(thing, "params", [])):
                bench = thing() if inspect.isclass(thing) else thing
                try:
                    getattr(bench, "setup", lambda *a: None)(*arguments)
                except NotImplementedError:  # asv skips it: PyTorch is optional
                    continue
                result = getattr(bench, job)(*arguments) if inspect.isclass(thing) else bench(*arguments)
                assert not job.startswith("track_") or isinstance(result, float) and json.dumps(result), (name, job)
                seen.append((module.__name__, *arguments))
for module in "benchmarks.estimators", "benchmarks.scaling":
    for name in okcore.estimators.ESTIMATORS:
        assert any(row[0] == module and name in row for row in seen), name
for cls in okcore.cells.CELLS.values():
    assert any(cls.__name__ in row for row in seen), cls
print(len(seen))
"""


def test_every_benchmark_runs():
    assert int(run("-W", "error", "-c", RUN_ALL, BENCH)) > 100


def test_asv_finds_the_repository_and_the_benchmarks():
    config = json.loads((BENCH / "asv.conf.json").read_text())
    assert (BENCH / config["repo"] / "pyproject.toml").exists() and (BENCH / config["benchmark_dir"]).is_dir()


def run(*command, **environment):
    environment = os.environ | {"OKCORE_BENCH_TOY": "1", "OPENBLAS_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_figures_are_drawn_with_words(tmp_path):
    pytest.importorskip("matplotlib")
    for instructions in "baseline", "":  # one more panel
        out = run(BENCH / "figures.py", "--out", tmp_path, HOME=str(tmp_path), OKCORE_INSTRUCTIONS=instructions)
        assert says_which_kernels_run(out)
    kept = sorted(tmp_path.glob("measurements-*.json"))
    assert len(kept) == len({"baseline", okcore._kernels.instructions()})
    assert set(json.loads(kept[0].read_text())) == {"date", "machine", "seconds", "bytes"}
    before = (tmp_path / "scaling.svg").read_bytes()
    assert b"<text" in before  # that can be searched and read aloud, not outlines
    assert before.count(b"Time per step, ") == len(kept)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    run(BENCH / "figures.py", "--out", tmp_path, "--redraw", HOME=str(tmp_path))
    assert (tmp_path / "scaling.svg").read_bytes() == before


def test_figures_in_the_docs_are_those_of_the_measurements():
    folder = BENCH.parent / "docs" / "figures"
    kept = sorted(folder.glob("measurements-*.json"))
    assert kept
    for path in kept:
        points = json.loads(path.read_text())["seconds"]["exact RTRL, textbook"]
        assert 3.4 < np.polyfit(np.log([int(n) for n in points]), np.log(list(points.values())), 1)[0] < 4.5
    assert {path.name for path in folder.iterdir()} == {*(path.name for path in kept), "scaling.svg", "scaling.png"}


def test_rivals_do_the_same_job():
    pytest.importorskip("torch")
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import rivals
rivals.RATE = np.float32(0.01)
for job in (*rivals.jobs(25), *rivals.jobs(1)):
    both, start = (rivals.Okcore(job), rivals.PyTorch(job)), job.make_cell().theta
    for adapter in both:
        adapter()
    ours, theirs = (adapter.parameters() for adapter in both)
    assert theirs.shape == start.shape and not np.allclose(ours, start, atol=1e-3)
    np.testing.assert_allclose(theirs, ours, atol=2e-4, err_msg=str(job))
"""
    run("-c", program, BENCH)


def test_targets_explain_themselves():
    help = run(BENCH / "targets.py", "--help")
    assert help.startswith("usage: ") and all(f"\n{row:>6}  " in help for row in (*range(1, 12), 14, "blocks"))


def test_targets_are_measured():
    rows = [line.split()[0] for line in run(BENCH / "targets.py", "1", "3", "10", "14").splitlines()]
    assert rows == ["okcore", *["1"] * 6, *["3"] * 6, "10", "14"]


def test_targets_are_met_or_missed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    from targets import missed

    for words, met, not_met in (
        ("at most 1.4 x floor", 1.4, 1.41), ("at least 4 x faster", 4, 3.9),
        ("within 0.15 of 2", 1.9, 1.8), ("within 0.15 of 3", 3.1, 3.2),
    ):  # fmt: skip
        assert missed(met, words) is False and missed(not_met, words) is True


def test_kernels_are_said_in_one_line():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import measure; print(measure.kernels())"
    line = says_which_kernels_run(run("-c", program, BENCH, OPENBLAS_CORETYPE="Haswell"))
    assert "OPENBLAS_CORETYPE = Haswell (unset it" in line


def says_which_kernels_run(output):
    """Return the first line, which names okcore's instruction set, every BLAS and OPENBLAS_CORETYPE."""
    line = output.splitlines()[0]
    assert line.startswith("okcore ") and "; BLAS " in line and "; OPENBLAS_CORETYPE " in line
    return line
