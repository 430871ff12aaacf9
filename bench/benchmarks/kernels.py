"""Single kernels."""

import numpy as np
from measure import sizes

from okcore import kron


class Kron:
    params = [sizes(64, 128, 256), sizes(4, 16), ["float32", "float64"]]
    param_names = ["n", "rank", "dtype"]

    def setup(self, n, rank, dtype):
        rng = np.random.default_rng(0)
        self.u = rng.normal(size=(rank + 1, n + 17)).astype(dtype)
        self.A = rng.normal(size=(rank + 1, n, n)).astype(dtype)
        self.H, self.v, self.signs = self.A[0].copy(), self.A[0, 0].copy(), np.ones(rank + 1)

    def time_left_multiply(self, n, rank, dtype):
        kron.left_multiply(self.H, self.A)

    def time_contract(self, n, rank, dtype):
        kron.contract(self.v, self.u, self.A)

    def time_reduce(self, n, rank, dtype):
        kron.reduce(self.u, self.A, rank, signs=self.signs)
