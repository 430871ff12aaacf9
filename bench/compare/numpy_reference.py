"""Plain NumPy (okcore.reference). It has no `flush`, so it sweeps backwards at every step."""

from compare.job import RATE
from okcore import reference


class NumpyReference:
    name = "NumPy"

    def __init__(self, job):
        self.job = job
        self.cell = job.make_cell(reference)
        self.estimator = reference.TBPTT(self.cell, job.horizon, job.lanes)

    def __call__(self):
        total = 0
        for x, dh in zip(self.job.xs, self.job.dhs, strict=True):
            self.estimator.step(x)
            total = total + self.estimator.gradient(dh)
        self.cell.theta -= RATE * total

    def parameters(self):
        return self.cell.theta
