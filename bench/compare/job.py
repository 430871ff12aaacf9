"""The job that all do: `horizon` time steps of every lane with a credit dl/dh at each, the gradient of all of them, and one
step of plain gradient descent; no readout on any side.

An adapter is a class in a file of its own: made from a Job, called once for each job done, and `parameters()` returns theta
(P, m) in okcore's layout.  All start from the same parameters, get the same inputs and credits, and keep the state from one
job to the next.
"""

from dataclasses import dataclass

import numpy as np

import okcore

RATE = np.float32(1e-6)


@dataclass
class Job:
    """What is to be done: cell "RNN", "LSTM" or "GRU", its size, lanes, and steps between updates."""

    cell: str
    n: int
    lanes: int
    horizon: int
    n_in: int = 16

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.xs = rng.normal(size=(self.horizon, self.lanes, self.n_in)).astype(np.float32)
        self.dhs = rng.normal(size=(self.horizon, self.lanes, self.n)).astype(np.float32)

    def make_cell(self, package=okcore):
        """Return the cell, of okcore or of okcore.reference, with the parameters to start from."""
        return getattr(package, self.cell)(self.n_in, self.n, rng=0)
