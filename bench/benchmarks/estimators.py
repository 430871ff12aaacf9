"""Time and accuracy of steps and gradients, by estimator, cell, size, block, dtype and lanes."""

from measure import CELLS, FORMS, Stream, draws, gradient_error, make_estimator, relative_error, size, sizes, stream


class Steps:
    """A whole block of steps with a gradient at each."""

    params = [list(FORMS), list(CELLS), sizes(32, 128), [1, 8]]
    param_names = ["estimator", "cell", "n", "lanes"]

    def setup(self, estimator, cell, n, lanes):
        if estimator == "rtrl-block1" and n > 32 and (cell != "RNN" or lanes > 1):
            raise NotImplementedError("textbook RTRL (n^4) would take minutes")
        self.stream = stream(estimator, n, cell, batch=lanes)
        self.stream.block()

    def time_block(self, estimator, cell, n, lanes):
        self.stream.block()


class Ok:
    """OK by rank, block and dtype: the time of a block (RHN, n = 128, 4 lanes), and the error of a gradient."""

    params = [[4, 16], [1, 4, 16, 32], ["float32", "float64"]]
    param_names = ["rank", "block", "dtype"]

    def setup(self, rank, block, dtype):
        self.cell = CELLS["RHN"](16, size(128), dtype=dtype, rng=0)
        self.stream = Stream(make_estimator("ok", self.cell, rank=rank, block=block, batch=4)).steps(size(64))

    def time_block(self, rank, block, dtype):
        self.stream.block()

    def track_relative_error(self, rank, block, dtype):
        return gradient_error(self.cell, size(64), 2, rank=rank, block=block)


class Float32:
    """Rounding: relative error of a gradient in float32 against float64, after 200 steps, where nothing is drawn."""

    params = [[form for form in FORMS if not draws(form)], list(CELLS)]
    param_names = ["estimator", "cell"]

    def track_error(self, estimator, cell):
        nets = [CELLS[cell](16, size(32), dtype=dtype, rng=0) for dtype in ("float32", "float64")]
        single, double = (Stream(make_estimator(estimator, net)) for net in nets)
        nets[1].theta = nets[0].theta.astype(float)
        double.xs, double.dh = [x.astype(float) for x in single.xs], single.dh.astype(float)
        for job in single, double:
            job.steps(size(200))
        return relative_error(single.g, double.g)
