"""What the benchmarks share. OKCORE_BENCH_TOY=1 makes every size tiny, for the test suite."""

import os

import numpy as np

import okcore

TOY = os.environ.get("OKCORE_BENCH_TOY") == "1"

CELLS = [cls.__name__ for cls in okcore.cells.CELLS.values()]


def maker(name, **options):
    """Return make(cell, batch_size) for a registered estimator: rank 8, block "auto", unless `options` differ."""

    def make(cell, batch_size):
        usual = {"rank": 8, "block": "auto", "batch": batch_size, "threads": 1, "update_every": 1}
        return okcore.estimators.ESTIMATORS[name].from_options(cell, usual | options, rng=0)

    return make


ESTIMATORS = {name: maker(name) for name in okcore.estimators.ESTIMATORS}
ESTIMATORS |= {  # in the published forms
    "rtrl-block1": maker("rtrl", block=1), "ok-block1": maker("ok", block=1), "kf-rtrl": maker("kf-rtrl", rank=1)
}


def sizes(*values):
    """Return the sizes, or as many toy sizes."""
    return [3 + i for i in range(len(values))] if TOY else list(values)


class Stream:
    """An estimator on a random stream: one call is a step and a gradient."""

    def __init__(self, estimator):
        cell, B = estimator.cell, estimator.batch_size
        rng = np.random.default_rng(0)
        self.estimator = estimator
        self.xs = list(rng.normal(size=(97, B, cell.n_in)).astype(cell.dtype))
        self.dh = rng.normal(size=(B, cell.n_hidden)).astype(cell.dtype)
        self.h, self.g = np.empty_like(self.dh), np.empty_like(cell.theta)
        self.taken = 0

    def __call__(self):
        self.estimator.step(self.xs[self.taken % 97], out=self.h)
        self.estimator.gradient(self.dh, out=self.g)
        self.taken += 1

    @property
    def period(self):
        """The number of steps in whole blocks, at least 8."""
        return self.estimator.block * -(-8 // self.estimator.block)

    def block(self):
        """Take `period` steps, with a gradient at each."""
        for _ in range(self.period):
            self()

    def run(self):
        """Take `period` steps in one call, with one gradient for all of them."""
        at = [(self.taken + t) % 97 for t in range(self.period)]
        dhs = np.broadcast_to(self.dh, (self.period, *self.dh.shape))
        self.estimator.run(np.stack([self.xs[i] for i in at]), dhs)
        self.taken += self.period
