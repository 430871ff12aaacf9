"""The exponent of time in n, fitted: n^4 for textbook RTRL, n^3 for blocked RTRL and OK, n^2 for UORO and TBPTT."""

import time

import numpy as np

import okcore

from .common import ESTIMATORS, TOY, Stream

SIZES = {"rtrl-block1": (96, 128, 192, 256)}
DEFAULT = (96, 128, 192, 256, 384, 512)


def seconds_a_step(name, n, rounds=3):
    """Return the seconds of a step with its gradient, averaged over blocks: the best of `rounds`."""
    stream = Stream(ESTIMATORS[name](okcore.RNN(16, n, rng=0), 1))
    stream.block()
    best = np.inf
    for _ in range(rounds):
        before, start = stream.taken, time.perf_counter()
        stream.block()
        best = min(best, (time.perf_counter() - start) / (stream.taken - before))
    return best


class Exponent:
    params = [list(ESTIMATORS)]
    param_names = ["estimator"]
    timeout = 600

    def track_exponent(self, estimator):
        sizes = (4, 8) if TOY else SIZES.get(estimator, DEFAULT)
        seconds = [seconds_a_step(estimator, n) for n in sizes]
        return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
