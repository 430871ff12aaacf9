"""Measure the speed targets of all rows, or of some, as ratios.

A floor is the time of the step's large matrix products alone, through SciPy's BLAS on one thread, on the same shapes, with
warm data. Leave OPENBLAS_CORETYPE unset: it would choose BLAS's kernels, and so change the floor. Rows 8 and 9 need
PyTorch, row 10 two processors. This takes a few minutes; the machine should do nothing else.
"""

import argparse
from functools import partial

import numpy as np
from benchmarks import scaling
from compare import __main__ as compare
from measure import copy_bandwidth, paired, repeats_for, seconds
from scipy.linalg import blas
from threadpoolctl import threadpool_limits

import okcore


def products(shapes):
    """Return a job that does the float32 products (m, k)(k, n) of `shapes`, each `count` times, on warm data."""
    rng = np.random.default_rng(0)
    calls = []
    for m, k, n, count in shapes:
        left = np.asfortranarray(rng.normal(size=(n, k)).astype(np.float32))  # column-major C^T = B^T A^T
        right = np.asfortranarray(rng.normal(size=(k, m)).astype(np.float32))
        out = np.zeros((n, m), np.float32, order="F")
        calls.append((left, right, out, count))

    def job():
        for left, right, out, count in calls:
            for _ in range(count):
                blas.sgemm(1.0, left, right, c=out, overwrite_c=1)

    return job


class Stepper:
    """One call is one step and one gradient, with or without an update of theta."""

    def __init__(self, cell, estimator, update=False, gradient=True):
        rng = np.random.default_rng(1)
        B, n = estimator.batch_size, cell.n_hidden
        self.estimator, self.cell, self.update, self.wants_gradient = estimator, cell, update, gradient
        self.xs = list(rng.normal(size=(997, B, cell.n_in)).astype(cell.dtype))  # a constant input has low rank
        self.taken = 0
        self.dh = rng.normal(size=(B, n)).astype(cell.dtype)
        self.h, self.g = np.empty((B, n), cell.dtype), np.empty_like(cell.theta)
        self.scratch = np.empty_like(cell.theta)

    def step(self):
        self.estimator.step(self.xs[self.taken % len(self.xs)], out=self.h)
        self.taken += 1

    def __call__(self):
        self.step()
        if self.wants_gradient:
            self.estimator.gradient(self.dh, out=self.g)
        if self.update:
            np.multiply(self.g, self.cell.dtype.type(1e-6), out=self.scratch)
            self.cell.theta -= self.scratch

    def block(self):
        """Take one block of steps."""
        for _ in range(self.estimator.block):
            self()

    def block_flushed(self):
        """Take one block of steps, with one gradient for all of them."""
        for _ in range(self.estimator.block):
            self.step()
            self.estimator.accumulate(self.dh)
        self.estimator.flush(out=self.g)


def warm(stepper, blocks=3):
    """Fill the carry."""
    for _ in range(blocks):
        stepper.block()
    return stepper


def row_1():
    """OK block 1, RNN, B = 1, against its r products."""
    for n, target in ((128, 1.4), (256, 1.25), (512, 1.15)):
        for rank in (8, 16):
            cell = okcore.RNN(16, n, rng=0)
            job = warm(Stepper(cell, okcore.OK(cell, rank, 1, rng=0)), 2 * rank + 2)
            ratio, a, b = paired(job, products([(n, n, n, rank)]))
            yield f"OK({rank}) block 1, n = {n}", ratio, target, "x floor, at most", f"{a * 1e6:.0f} us / {b * 1e6:.0f} us"


def copy_setup(block, **options):
    cell = okcore.RHN(4, 128, rng=0)
    return Stepper(cell, okcore.OK(cell, 16, block, batch_size=16, rng=0, **options), update=True)


def row_2():
    """OK block 16 against block 1 at the size of the Copy experiment."""
    slow, fast = warm(copy_setup(1), 20), warm(copy_setup(16))
    ratio, a, b = paired(lambda: [slow() for _ in range(4)], fast.block, rounds=7)
    yield "OK(16) block 1 / block 16, RHN n = 128, B = 16", ratio * 4, 4, "x faster, at least", f"{a / 4e-3:.2f} / {b / 16e-3:.2f} ms"
    one, many = (gradient_error(block) for block in (1, 16))
    yield "error of a gradient, block 16 / block 1", many / one, 1, "at most", f"{many:.1e} / {one:.1e}"


def gradient_error(block, steps=150, seeds=8):
    """Return the error of OK(16) relative to exact RTRL, RMS over draws: RHN n = 128, one lane."""
    cell = okcore.RHN(4, 128, rng=0)
    cell.theta[128:, -1] += 3  # f is about 0.95: a state lasts about twenty steps
    rng = np.random.default_rng(0)
    xs, dh = rng.normal(size=(steps, 1, 4)).astype("f"), rng.normal(size=(1, 128)).astype("f")

    def gradient(estimator):
        estimator.run(xs)
        return estimator.gradient(dh).astype(float)

    exact = gradient(okcore.RTRL(cell))
    errors = [np.sum((gradient(okcore.OK(cell, 16, block, rng=seed)) - exact) ** 2) for seed in range(seeds)]
    return float(np.sqrt(np.mean(errors) / np.sum(exact**2)))


def row_3():
    """Blocked RTRL against textbook RTRL."""
    cell = okcore.RNN(16, 128, rng=0)
    one = warm(Stepper(cell, okcore.RTRL(cell, 1)))
    S, P, m = 128, 128, 145
    yield "RTRL block 1 / its product", paired(one, products([(S, S, P * m, 1)]), 7)[0], 1.2, "x floor, at most", ""
    many = warm(Stepper(cell, okcore.RTRL(cell)))
    K = many.estimator.block
    yield f"RTRL block 1 / block {K}, gradient at each step", paired(one, many.block, 7)[0] * K, 12, "x faster, at least", ""
    lazy = Stepper(cell, okcore.RTRL(cell, update_every=10**6))
    K = lazy.estimator.block
    lazy.block_flushed()
    yield f"RTRL block 1 / block {K}, flushed", paired(one, lazy.block_flushed, 7)[0] * K, 35, "x faster, at least", ""


def row_4():
    """Exponents of time in n, n = 96 to 512 (textbook RTRL to 256)."""
    found = {}
    for name, target, sense in (
        ("rtrl-block1", 3.4, "n^..., at least"),
        ("rtrl", 3.2, "n^..., at most"),
        ("ok-block1", 3.2, "n^..., at most"),
        ("ok", 3.2, "n^..., at most"),
        ("uoro", 2.3, "n^..., at most"),
        ("tbptt", 2.3, "n^..., at most"),
    ):
        for flushed in (False, True):
            sizes = scaling.sizes_for_time(name)
            seconds = [scaling.seconds_a_step(name, n, flushed) for n in sizes]
            how = "one gradient per block" if flushed else "a gradient at every step"
            found[name, flushed] = scaling.exponent(sizes, seconds)
            yield f"{name}, time, {how}", found[name, flushed], target, sense, ""
    sizes = scaling.sizes_for_time("rtrl")
    reading = [seconds_to_read_J(n) for n in sizes]
    rates = ", ".join(f"{4 * n * n * (n + 17) / t * 1e-9:.0f}" for n, t in zip(sizes, reading, strict=True))
    yield "reading J, as a gradient must: exponent", scaling.exponent(sizes, reading), None, "n^...", f"at {rates} GB/s"
    for flushed in (False, True):
        gap = found["rtrl-block1", flushed] - found["rtrl", flushed]
        yield "exponent of textbook RTRL minus blocked RTRL's", gap, 0.4, "at least", ""


def seconds_to_read_J(n):
    """Return the time of a gradient with one open step: a contraction of J (n, n, n + 17) and little else."""
    estimator = okcore.RTRL(okcore.RNN(16, n, rng=0), 32)
    estimator.run(np.ones((33, 1, 16), np.float32))
    dh, g = np.ones((1, n), np.float32), np.empty_like(estimator.cell.theta)
    job = partial(estimator.gradient, dh, out=g)
    repeats = repeats_for(job)
    return min(seconds(job, repeats) for _ in range(5))


def row_5():
    """Exponents of memory in n."""
    for name, target in (("rtrl-block1", 3), ("rtrl", 3), ("ok-block1", 2), ("ok", 2), ("uoro", 2)):
        sizes = scaling.sizes_for_memory(name)
        found = scaling.exponent(sizes, [scaling.memory_bytes(name, n) for n in sizes])
        yield f"{name}, memory, distance from n^{target}", abs(found - target), 0.15, "at most", f"n^{found:.2f}"


def row_6():
    """The Copy experiment's training step against its floor."""
    B, n, S, P, r, K = 16, 128, 128, 256, 16, 16
    N = r + K
    task = okcore.tasks.Copy(B, rng=0, length=30)
    cell = okcore.RHN(4, n, rng=0, init="normal")
    estimator = okcore.OK(cell, r, K, batch_size=B, rng=0, n_threads=2)
    readout = okcore.SoftmaxReadout(n, 4, rng=0, init="normal")
    trainer = okcore.OnlineTrainer(cell, estimator, readout, okcore.Adam(1e-5), clip=1.0)

    def block():
        for _ in range(K):
            trainer.partial_fit(*next(task))

    for _ in range(6):
        block()
    shapes = [(S, S, n, B * (K - 1)), (S, S, P, B * r), (N, S * P, N, B), (r, N, S * P, B)]
    floor_gemm = products(shapes)
    read = 4 * B * r * S * P * K / copy_bandwidth() * 2  # the time of copying as many bytes
    _, a, b = paired(block, floor_gemm, rounds=7)
    floor = b / 2 + read / 2
    yield "Copy training step, 2 threads", a / floor, 1.6, "x floor, at most", f"{a / K * 1e3:.2f} / {floor / K * 1e3:.2f} ms"


def row_7():
    """Small sizes, against reference.py."""
    from okcore import reference

    for block in (1, 16):
        cell = okcore.RNN(4, 32, rng=0)
        compiled = okcore.OK(cell, 4, block, rng=0)
        plain = reference.OK(reference.RNN(4, 32, rng=0), 4, block, rng=0)
        rng = np.random.default_rng(0)
        xs, dhs = rng.normal(size=(256, 1, 4)).astype("f"), rng.normal(size=(256, 1, 32)).astype("f")

        def slow(plain=plain, xs=xs, dhs=dhs):
            for x, dh in zip(xs, dhs, strict=True):
                plain.step(x)
                plain.gradient(dh)

        def called(compiled=compiled, xs=xs, dhs=dhs):
            for x, dh in zip(xs, dhs, strict=True):
                compiled.step(x)
                compiled.gradient(dh)

        def run(compiled=compiled, xs=xs, dhs=dhs):
            compiled.run(xs, dhs)

        ratio, a, b = paired(slow, run, 5)
        yield f"reference / OK(4).run, n = 32, block {block}", ratio, 15, "x faster, at least", f"{a / 256e-6:.0f} / {b / 256e-6:.1f} us"
        ratio, a, b = paired(slow, called, 5)
        yield f"reference / step + gradient, n = 32, block {block}", ratio, 5, "x faster, at least", f"{a / 256e-6:.0f} / {b / 256e-6:.1f} us"


def rivals(horizon):
    if compare.PyTorch not in compare.rivals():
        print("     PyTorch is not installed: rows 8 and 9 are skipped")
        return
    for job, target in compare.jobs():
        if job.horizon == horizon:
            ratio, ours = compare.ratio_to_ours(compare.PyTorch, job)
            yield f"PyTorch / okcore, {job.cell}, B = {job.lanes}, n = {job.n}", ratio, target, "x, at least", f"{ours * 1e6:.1f} us"


def row_8():
    """PyTorch against okcore, TBPTT with 25 steps per update."""
    yield from rivals(25)


def row_9():
    """PyTorch against okcore, with an update at every step."""
    yield from rivals(1)


def row_10():
    """Two threads against one."""
    one, two = warm(copy_setup(16)), warm(copy_setup(16, n_threads=2))
    ratio, a, b = paired(one.block, two.block, 9)
    yield "1 thread / 2 threads, OK(16), n = 128, B = 16", ratio, 1.7, "x faster, at least", f"{a / 16e-3:.2f} / {b / 16e-3:.2f} ms"


def row_14():
    """A local rule, SnAp-1, against TBPTT(1): GRU, n = 256, one lane."""
    cell = okcore.GRU(16, 256, rng=0)
    local, truncated = warm(Stepper(cell, okcore.SnAp1(cell)), 9), warm(Stepper(cell, okcore.TBPTT(cell, 1)), 9)
    ratio, a, b = paired(local, truncated)
    yield "SnAp-1 / TBPTT(1), GRU n = 256", ratio, 2.5, "x, at most", f"{a * 1e6:.0f} / {b * 1e6:.0f} us"


ROWS = {
    "1": row_1, "2": row_2, "3": row_3, "4": row_4, "5": row_5, "6": row_6, "7": row_7, "8": row_8, "9": row_9, "10": row_10,
    "14": row_14,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:>3}  {row.__doc__}" for name, row in ROWS.items())
        + "\n 11  A step allocates nothing: tests/test_memory.py.",
    )
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help="rows to measure (default: all)")
    names = parser.parse_args().rows
    with threadpool_limits(1, user_api="blas"):
        for name in names or ROWS:
            for what, ratio, target, sense, detail in ROWS[name]():
                if target is None:  # not a target: it explains one that is missed
                    verdict = sense
                else:
                    good = ratio <= target if "most" in sense else ratio >= target
                    verdict = f"{sense} {target:<5} {'' if good else 'MISSED'}"
                print(f"{name:>3}  {what:<50} {ratio:7.2f}  {verdict}  {detail}", flush=True)


if __name__ == "__main__":
    main()
