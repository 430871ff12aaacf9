"""Versions, BLAS, threads and build flags of this installation."""

import os
import platform
import sys
from importlib.metadata import version

import numpy as np
import scipy
from threadpoolctl import threadpool_info

from okcore import _kernels
from okcore._engine import engine


def config():
    """Return versions, BLAS, threads and build flags as a dict of plain values."""
    return {
        "okcore": version("okcore"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": usable_processors(),
        "build": engine.build_flags(),
        "instructions": _kernels.instructions(),
        "thread_pools": [
            {key: pool.get(key) for key in ("user_api", "internal_api", "version", "architecture", "num_threads")}
            for pool in threadpool_info()
        ],
    }


def usable_processors():
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def show_config(file=None):
    """Print versions, BLAS, threads and build flags."""
    file = sys.stdout if file is None else file
    for name, value in config().items():
        if isinstance(value, list):
            for item in value:
                print(f"{name}: " + ", ".join(f"{key} {entry}" for key, entry in item.items()), file=file)
        else:
            print(f"{name}: {value}", file=file)
