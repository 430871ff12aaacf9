"""Every benchmark runs, once and at toy size."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"

RUN_ALL = """
import importlib, inspect, itertools, sys, warnings
sys.path.insert(0, sys.argv[1])
count = 0
for name in ("kernels", "estimators", "scaling"):
    module = importlib.import_module(f"benchmarks.{name}")
    stray = [name for name, thing in vars(module).items() if name.startswith(("time_", "track_", "peakmem_"))]
    assert not stray, f"asv would take {stray} for benchmarks"
    for cls in vars(module).values():
        if not (inspect.isclass(cls) and hasattr(cls, "params") and cls.__module__ == module.__name__):
            continue
        for job in [m for m in dir(cls) if m.startswith(("time_", "track_", "peakmem_"))]:
            for arguments in itertools.product(*cls.params):
                bench = cls()
                getattr(bench, "setup", lambda *a: None)(*arguments)
                result = getattr(bench, job)(*arguments)
                assert not job.startswith("track_") or isinstance(result, float), (cls, job)
                count += 1
print(count)
"""


def test_every_benchmark_runs():
    environment = {"OKCORE_BENCH_TOY": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_ALL, str(BENCH)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_asv_finds_the_repository_and_the_benchmarks():
    config = json.loads((BENCH / "asv.conf.json").read_text())
    assert (BENCH / config["repo"] / "pyproject.toml").exists() and (BENCH / config["benchmark_dir"]).is_dir()
