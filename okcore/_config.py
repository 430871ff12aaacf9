"""Versions, BLAS, threads, build flags and headers of this installation."""

import math
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import scipy
from threadpoolctl import threadpool_info

from okcore import _kernels
from okcore._engine import engine

CPUINFO = Path("/proc/cpuinfo")

def config() -> dict[str, Any]:
    """Return versions, processor, BLAS, threads and build flags as a dict of plain values."""
    return {
        "okcore": version("okcore"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": ", ".join([f"{platform.system()} {platform.machine()}", *_processor()]),
        "processors": usable_processors(),
        "build": engine.build_flags(),
        "instructions": _kernels.instructions(),
        "thread_pools": [
            {key: pool.get(key) for key in ("user_api", "internal_api", "version", "architecture", "num_threads")}
            for pool in threadpool_info()
        ],
    }


def _processor() -> list[str]:
    """Return the processor's name, family and model, as far as Linux says: a virtual machine may hide the name."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    words = {"model name": "", "cpu family": "family ", "model": "model "}
    return [word + found[name] for name, word in words.items() if name in found]


def usable_processors() -> int:
    """Return the number of processors this process may use: by affinity, cgroup quota and OMP_NUM_THREADS."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (quota := _cgroup_quota()) is not None:
        found = min(found, max(1, math.ceil(quota)))
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(found, int(asked)) if asked.isdigit() and int(asked) > 0 else found


def _cgroup_quota() -> float | None:
    """Return the processors' worth of time that the control group allows, or None (Linux; versions 2 and 1)."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.partition("::")[2] for line in lines if line.startswith("0::")), "/")
    except OSError:
        own = "/"
    limits = []
    for folder in (root / own.strip("/"), *(root / own.strip("/")).parents):
        for name, split in (("cpu.max", True), ("cpu/cpu.cfs_quota_us", False), ("cpu.cfs_quota_us", False)):
            try:
                text = (folder / name).read_text().split()
                period = text[1] if split else (folder / name).with_name("cpu.cfs_period_us").read_text()
                if text[0] not in ("max", "-1"):
                    limits.append(int(text[0]) / int(period))
            except (OSError, ValueError, IndexError):
                continue
        if folder == root:
            break
    return min(limits, default=None)


def get_include() -> str:
    """Return the folder that holds ``cython_kernels_api.h``, through which C and C++ call okcore's kernels.

    Examples
    --------
    >>> import os, okcore
    >>> "cython_kernels_api.h" in os.listdir(okcore.get_include())
    True
    """
    return str(Path(__file__).parent)


def show_config(file: TextIO | None = None) -> None:
    """Print versions, processor, BLAS, threads and build flags."""
    file = sys.stdout if file is None else file
    for name, value in config().items():
        if isinstance(value, list):
            for item in value:
                print(f"{name}: " + ", ".join(f"{key} {entry}" for key, entry in item.items()), file=file)
        else:
            print(f"{name}: {value}", file=file)
