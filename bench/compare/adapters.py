"""The same job by different hands.

A job is `horizon` time steps of every lane with a credit dl/dh at each, the gradient of all of them, and one step of
plain gradient descent; no readout on any side.  An adapter is made once and called once for each job.  All get the same inputs
and credits, and keep the state from one job to the next.
"""

from dataclasses import dataclass

import numpy as np

import okcore
from okcore import reference

RATE = 1e-6


@dataclass
class Job:
    """What is to be done: cell "RNN", "LSTM" or "GRU", sizes, and the data of one job."""

    cell: str
    n: int
    lanes: int
    horizon: int
    n_in: int = 16

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.xs = rng.normal(size=(self.horizon, self.lanes, self.n_in)).astype(np.float32)
        self.dhs = rng.normal(size=(self.horizon, self.lanes, self.n)).astype(np.float32)


class Okcore:
    """This package: one `run` a job, or one `step` and `gradient` where there is an update at every step."""

    def __init__(self, job):
        self.job = job
        self.cell = getattr(okcore, job.cell)(job.n_in, job.n, rng=0)
        self.estimator = okcore.TBPTT(self.cell, job.horizon, job.lanes)
        self.h, self.g = np.empty_like(job.dhs[0]), np.empty_like(self.cell.theta)

    def __call__(self):
        if self.job.horizon == 1:
            self.estimator.step(self.job.xs[0], out=self.h)
            gradient = self.estimator.gradient(self.job.dhs[0], out=self.g)
        else:
            _, gradient = self.estimator.run(self.job.xs, self.job.dhs)
        gradient *= self.cell.dtype.type(RATE)
        self.cell.theta -= gradient

    def parameters(self):
        """Return theta (P, m)."""
        return self.cell.theta


class Reference:
    """Plain NumPy, `okcore.reference`.  It has no flush: there is a gradient, and so a sweep, at every step."""

    def __init__(self, job):
        self.job = job
        self.cell = getattr(reference, job.cell)(job.n_in, job.n, rng=0)
        self.estimator = reference.TBPTT(self.cell, job.horizon, job.lanes)

    def __call__(self):
        total = 0
        for x, dh in zip(self.job.xs, self.job.dhs, strict=True):
            self.estimator.step(x)
            total = total + self.estimator.gradient(dh)
        self.cell.theta -= RATE * total

    def parameters(self):
        """Return theta (P, m)."""
        return self.cell.theta


class PyTorch:
    """torch.nn.RNN, LSTM or GRU over the whole job, autograd, and the update by hand: faster than torch.optim's."""

    def __init__(self, job):
        import torch

        self.torch, self.job = torch, job
        self.net = getattr(torch.nn, job.cell)(job.n_in, job.n)
        self.weights = list(self.net.parameters())
        theta = torch.from_numpy(getattr(okcore, job.cell)(job.n_in, job.n, rng=0).theta)
        with torch.no_grad():
            W_x, W_h, b_x, b_h = self.weights
            W_x.copy_(theta[:, : job.n_in])
            W_h.copy_(theta[:, job.n_in : job.n_in + job.n])
            b_x.copy_(theta[:, job.n_in + job.n])
            b_h.copy_(theta[:, -1] if job.cell == "GRU" else torch.zeros(len(b_h)))
        self.xs, self.dhs = torch.from_numpy(job.xs), torch.from_numpy(job.dhs)
        zeros = torch.zeros(1, job.lanes, job.n)
        self.state = (zeros, zeros) if job.cell == "LSTM" else zeros

    def __call__(self):
        hs, state = self.net(self.xs, self.state)
        hs.backward(self.dhs)
        self.state = tuple(s.detach() for s in state) if self.job.cell == "LSTM" else state.detach()
        with self.torch.no_grad():
            for weight in self.weights:
                weight.sub_(weight.grad, alpha=RATE)
                weight.grad = None

    def parameters(self):
        """Return theta (P, m) as okcore lays it out; torch's second bias belongs to the first but in a GRU."""
        W_x, W_h, b_x, b_h = (w.detach().numpy() for w in self.weights)
        biases = [b_x[:, None], b_h[:, None]] if self.job.cell == "GRU" else [(b_x + b_h)[:, None]]
        return np.hstack([W_x, W_h, *biases])


class Nothing:
    """Walk over the data and do nothing: what the loop around a job costs by itself."""

    def __init__(self, job):
        self.job = job

    def __call__(self):
        for _ in zip(self.job.xs, self.job.dhs, strict=True):
            pass
