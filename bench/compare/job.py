"""The job: `horizon` time steps of every lane with a credit dl/dh at each, the gradient of all of them, and one step of
gradient descent. There is no readout.

An adapter is a class in its own file. It is made from a Job and called once per repetition; `parameters()` returns theta
(P, m) in okcore's layout. All adapters start from the same parameters, get the same inputs and credits, and keep the state
between calls.
"""

from dataclasses import dataclass

import numpy as np

import okcore

RATE = np.float32(1e-6)


@dataclass(repr=False)
class Job:
    """Cell ("RNN", "LSTM" or "GRU"), hidden units, lanes, and steps per update."""

    cell: str
    n: int
    lanes: int
    horizon: int
    n_in: int = 16

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.xs = rng.normal(size=(self.horizon, self.lanes, self.n_in)).astype(np.float32)
        self.dhs = rng.normal(size=(self.horizon, self.lanes, self.n)).astype(np.float32)

    def __repr__(self):
        return f"{self.cell:<4} horizon {self.horizon:>2}  B = {self.lanes:>2}  n = {self.n:>3}"

    @property
    def target(self):
        """How many times as long PyTorch must take."""
        return 1 if self.horizon > 1 else 10 if self.lanes == 1 else 3

    def make_cell(self, package=okcore):
        """Return the cell, of okcore or of okcore.reference, with its initial parameters."""
        return getattr(package, self.cell)(self.n_in, self.n, rng=0)
