"""How time and memory grow with n: n^4 for textbook RTRL, n^3 for blocked RTRL and OK, n^2 for UORO and TBPTT."""

import ctypes
import gc
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import okcore

from .common import ESTIMATORS, TOY, Stream

TIME_SIZES = {"rtrl-block1": (96, 128, 192, 256)}
MEMORY_SIZES = dict.fromkeys(("rtrl", "rtrl-block1"), (128, 192, 256, 384, 512))
LARGE = (96, 128, 192, 256, 384, 512), (256, 384, 512, 768, 1024)  # so large that Python's own memory matters little


def sizes_for_time(name):
    """Return the sizes n over which the time per step is fitted."""
    return (4, 8) if TOY else TIME_SIZES.get(name, LARGE[0])


def sizes_for_memory(name):
    """Return the sizes n over which memory is fitted."""
    return (4, 8) if TOY else MEMORY_SIZES.get(name, LARGE[1])


def exponent(sizes, values):
    """Return the slope of a straight line fitted to log(value) against log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def stream(name, n):
    """Return the estimator of that name for an RNN with 16 inputs and one lane, on a random stream."""
    return Stream(ESTIMATORS[name](okcore.RNN(16, n, rng=0), 1))


def seconds_a_step(name, n, flushed=False, rounds=3, at_least=0.05):
    """Return the seconds per step over whole blocks, the best of several rounds.

    Each step has a gradient or, if `flushed`, all steps of a period (whole blocks) share one.
    """
    job = stream(name, n)
    take = job.run if flushed else job.block
    take()
    return min(seconds_of(job, take, at_least) for _ in range(rounds))


def seconds_of(job, take, at_least):
    """Return the seconds per step while `take` is called at least once and for `at_least` seconds."""
    before, start = job.taken, time.perf_counter()
    while job.taken == before or time.perf_counter() - start < at_least:
        take()
    return (time.perf_counter() - start) / (job.taken - before)


def memory_bytes(name, n, processes=3):
    """Return the bytes of touched pages that an estimator adds to a fresh process, the least of several (Linux)."""
    program = f"from benchmarks.scaling import print_memory; print_memory({name!r}, {n})"
    command, folder = [sys.executable, "-c", program], Path(__file__).parent.parent
    return min(
        int(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)
        for _ in range(processes)
    )


def print_memory(name, n):
    """Print the growth of anonymous memory. Nothing is freed in between, so this is the peak."""

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    stream(name, 8).block()  # so that libraries have made their buffers
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before = anonymous()
    job = stream(name, n)
    for _ in range(2):
        job.run()
        job()
    print(anonymous() - before)


class Exponent:
    """Fitted exponents: rows 4 and 5 of the targets."""

    params = [list(ESTIMATORS)]
    param_names = ["estimator"]
    timeout = 600

    def track_time_gradient_at_every_step(self, estimator):
        sizes = sizes_for_time(estimator)
        return exponent(sizes, [seconds_a_step(estimator, n) for n in sizes])

    def track_time_gradient_once_a_block(self, estimator):
        sizes = sizes_for_time(estimator)
        return exponent(sizes, [seconds_a_step(estimator, n, flushed=True) for n in sizes])

    def track_memory(self, estimator):
        sizes = sizes_for_memory(estimator)
        return exponent(sizes, [memory_bytes(estimator, n) for n in sizes])
