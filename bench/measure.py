"""Timing on noisy machines: run two jobs in turn and take the median of their ratios."""

import time

import numpy as np


def seconds(job, repeats=1):
    """Return the wall time of one call of `job`, averaged over `repeats`."""
    start = time.perf_counter()
    for _ in range(repeats):
        job()
    return (time.perf_counter() - start) / repeats


def repeats_for(job, at_least=0.02):
    """Return how often `job` must be called to last `at_least` seconds; warms it up."""
    job()
    return max(1, int(at_least / max(seconds(job), 1e-7)))


def paired(job, other, rounds=15, at_least=0.02):
    """Return (median ratio job / other, median seconds of job, of other), timed A B A B ..."""
    n_job, n_other = repeats_for(job, at_least), repeats_for(other, at_least)
    times = np.array([(seconds(job, n_job), seconds(other, n_other)) for _ in range(rounds)])
    return float(np.median(times[:, 0] / times[:, 1])), *np.median(times, axis=0)


def copy_bandwidth(size=1 << 26):
    """Return the bytes per second that a large copy reads and writes, the best of several."""
    source, target = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
    return 2 * source.nbytes / min(seconds(lambda: np.copyto(target, source)) for _ in range(7))
