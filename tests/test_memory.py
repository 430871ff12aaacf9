"""After warm-up a step with out= allocates nothing, in Python or in C, and many steps grow by nothing.

Everything is measured in children of the test process, where nobody else allocates: this file, run as a script,
calls one of the functions under "in the child" and prints what it returns.  count_allocations.c is what counts.
"""

import ctypes
import gc
import itertools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tracemalloc
from pathlib import Path

import numpy as np

import okcore

ALGORITHMS = {
    "ok": lambda cell, **more: okcore.OK(cell, rank=3, block=4, rng=0, **more),
    "ok sampling": lambda cell, **more: okcore.OK(cell, rank=2, block=1, mixing="sampling", rng=0, **more),
    "rtrl": lambda cell, **more: okcore.RTRL(cell, block=4, **more),
    "kf-rtrl": lambda cell, **more: okcore.KFRTRL(cell, copies=2, block=3, rng=0, **more),
    "uoro": lambda cell, **more: okcore.UORO(cell, rng=0, **more),
    "tbptt": lambda cell, **more: okcore.TBPTT(cell, horizon=4, **more),
}
CELLS = {"rnn": okcore.RNN, "rhn": okcore.RHN, "lstm": okcore.LSTM, "gru": okcore.GRU}
DTYPES = "float32", "float64"
N_IN = 5


# ---- in the child --------------------------------------------------------------------------------------------


class Nothing:
    """An estimator that does nothing: with it, a loop costs what the loop itself costs."""

    def step(self, x, reset=None, out=None):
        return out

    def gradient(self, dh, out=None):
        return out

    def accumulate(self, dh):
        pass

    def flush(self, out=None):
        return out


class Job:
    """An estimator and all that its steps need, made once."""

    def __init__(self, algorithm, cell, dtype, n_hidden, batch_size, n_threads=1, symbols=False, resets=False):
        rng = np.random.default_rng(0)
        self.cell = CELLS[cell](N_IN, n_hidden, dtype=dtype, rng=0)
        self.estimator = ALGORITHMS[algorithm](self.cell, batch_size=batch_size, n_threads=n_threads)
        if symbols:
            self.xs = list(rng.integers(N_IN, size=(8, batch_size)))
        else:
            self.xs = list(rng.standard_normal((8, batch_size, N_IN)).astype(dtype))
        self.masks = [None]
        if resets:  # some lanes, all, none, at several places of a block
            self.masks = [*(rng.random((9, batch_size)) < 0.2), np.ones(batch_size, bool), None]
        self.dh = rng.standard_normal((batch_size, n_hidden)).astype(dtype)
        self.h = np.empty_like(self.dh)
        self.g = np.empty_like(self.cell.theta)
        self.rate = np.asarray(1e-6, dtype)

    def descend(self):
        np.multiply(self.g, self.rate, out=self.g)
        np.subtract(self.cell.theta, self.g, out=self.cell.theta)

    def steps(self, steps, estimator=None):
        estimator = estimator or self.estimator
        for t in range(steps):
            estimator.step(self.xs[t % len(self.xs)], reset=self.masks[t % len(self.masks)], out=self.h)
            estimator.gradient(self.dh, out=self.g)
            self.descend()
            estimator.accumulate(self.dh)
            if t % 5 == 2:
                estimator.flush(out=self.g)
                self.descend()


class Counter:
    def __init__(self):
        self.library = ctypes.CDLL(os.environ["LD_PRELOAD"].split(":")[0])
        self.library.count_stop.restype = ctypes.c_long

    def __call__(self, function, *arguments, backtraces=0):
        self.library.count_start(ctypes.c_long(backtraces))
        function(*arguments)
        return self.library.count_stop()


def allocations(algorithm):
    """Count what steps allocate after warm-up."""
    count = Counter()
    found = {}
    def one(*options):
        job = Job(algorithm, *options)
        job.steps(60)
        b = count(job.steps, 120, Nothing())
        c = [count(job.steps, 120, backtraces=1 if i==2 else 0) for i in range(3)]
        if c != [b]*3:
            found[str(options)] = b, c
        job.estimator.stats
    for cell, dtype, n_threads, symbols, resets in itertools.product(CELLS, DTYPES, (1, 2), (False, True), (False, True)):
        one(cell, dtype, 8, 3, n_threads, symbols, resets)
    for cell, dtype, n_threads in itertools.product(("rnn", "gru"), DTYPES, (1,2)):
        one(cell, dtype, 48, 4, n_threads)
        one(cell, dtype, 4, 160, n_threads, True, True)
    return found

if __name__ == "__main__":
    import time
    t = time.time()
    gc.disable()
    r = globals()[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(r, indent=1))
    print(time.time()-t)
