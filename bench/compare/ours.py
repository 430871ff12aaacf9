"""okcore: one `run` per job, or one `step` and one `gradient` if there is an update at every step."""

import numpy as np
from scipy.linalg import blas

import okcore
from compare.job import RATE


class Okcore:
    name = "okcore"

    def __init__(self, job):
        self.job = job
        self.cell = job.make_cell()
        self.estimator = okcore.TBPTT(self.cell, job.horizon, job.lanes)
        self.h, self.g = np.empty_like(job.dhs[0]), np.empty_like(self.cell.theta)

    def __call__(self):
        if self.job.horizon == 1:
            self.estimator.step(self.job.xs[0], out=self.h)
            gradient = self.estimator.gradient(self.job.dhs[0], out=self.g)
        else:
            _, gradient = self.estimator.run(self.job.xs, self.job.dhs)
        blas.saxpy(gradient.ravel(), self.cell.theta.ravel(), a=-RATE)  # in place, in one pass

    def parameters(self):
        return self.cell.theta
