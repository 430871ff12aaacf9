"""Time, peak memory and accuracy of steps and gradients, by estimator, cell, size, block, dtype and lanes."""

import numpy as np

import okcore

from .common import CELLS, ESTIMATORS, TOY, Stream, sizes


class Steps:
    """A whole block of steps with a gradient at each."""

    params = [list(ESTIMATORS), CELLS, sizes(32, 128), [1, 8]]
    param_names = ["estimator", "cell", "n", "lanes"]

    def setup(self, estimator, cell, n, lanes):
        if estimator == "rtrl-block1" and n > 32 and (cell != "RNN" or lanes > 1):
            raise NotImplementedError("textbook RTRL (n^4) would take minutes")
        self.stream = Stream(ESTIMATORS[estimator](getattr(okcore, cell)(16, n, rng=0), lanes))
        self.stream.block()

    def time_block(self, estimator, cell, n, lanes):
        self.stream.block()


class Ok:
    """OK by rank, block and dtype (RHN, n = 128, 4 lanes): time, and error relative to exact RTRL."""

    params = [[4, 16], [1, 4, 16, 32], ["float32", "float64"]]
    param_names = ["rank", "block", "dtype"]

    def setup(self, rank, block, dtype):
        cell = okcore.RHN(16, 4 if TOY else 128, dtype=dtype, rng=0)
        self.stream = Stream(okcore.OK(cell, rank, block, batch_size=4, rng=0))
        self.exact = Stream(okcore.RTRL(cell, batch_size=4))
        for _ in range(4 if TOY else 64):
            self.stream()
        self.stream.block()

    def time_block(self, rank, block, dtype):
        self.stream.block()

    def gradients(self):
        for _ in range(self.stream.taken):
            self.exact()
        return self.stream.g.ravel().astype(float), self.exact.g.ravel().astype(float)

    def track_relative_error(self, rank, block, dtype):
        one, other = self.gradients()
        return float(np.linalg.norm(one - other) / np.linalg.norm(other))

    def track_cosine(self, rank, block, dtype):
        one, other = self.gradients()
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


class Memory:
    """Peak memory of the process."""

    params = [list(ESTIMATORS), sizes(128, 256)]
    param_names = ["estimator", "n"]

    def setup(self, estimator, n):
        self.cell = okcore.RNN(16, n, rng=0)

    def peakmem_block(self, estimator, n):
        Stream(ESTIMATORS[estimator](self.cell, 1)).block()


class Float32:
    """Rounding: relative error of an exact algorithm's gradient in float32 against float64, after 200 steps."""

    params = [["tbptt", "rtrl-block1", "rtrl"], CELLS]
    param_names = ["estimator", "cell"]

    def track_error(self, estimator, cell):
        n, T = (3, 5) if TOY else (32, 200)
        gradients = []
        for dtype in ("float64", "float32"):
            net = getattr(okcore, cell)(16, n, dtype=dtype, rng=0)
            net.theta = getattr(okcore, cell)(16, n, dtype="float32", rng=0).theta.astype(dtype)
            job = Stream(ESTIMATORS[estimator](net, 1))
            rng = np.random.default_rng(1)
            job.xs = [x.astype("float32").astype(dtype) for x in rng.normal(size=(97, 1, 16))]
            job.dh = rng.normal(size=(1, n)).astype("float32").astype(dtype)
            for _ in range(T):
                job()
            gradients.append(job.g.astype(float))
        return float(np.linalg.norm(gradients[1] - gradients[0]) / np.linalg.norm(gradients[0]))
