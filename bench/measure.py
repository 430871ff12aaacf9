"""All measuring. The asv suite (`benchmarks/`) records, `targets.py` and `figures.py` report, `rivals.py` adds others.

OKCORE_BENCH_TOY=1 makes every size tiny and every measurement one round, for the test suite.
"""

import contextlib
import ctypes
import functools
import gc
import inspect
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.linalg import blas
from threadpoolctl import threadpool_info, threadpool_limits

import okcore
from okcore import _kernels

TOY = os.environ.get("OKCORE_BENCH_TOY") == "1"

# ---- what is measured: all that is registered ------------------------------------------------------------------------

HOLDS = "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"  # hold PyTorch to AVX2, say

CELLS = {cls.__name__: cls for cls in okcore.cells.CELLS.values()}

USUAL = {"rank": 8, "block": "auto", "batch": 1, "threads": 1, "update_every": 1}
FORMS = {name: (name, {}) for name in okcore.estimators.ESTIMATORS}  # an estimator and what differs from USUAL
FORMS |= {  # in the published forms
    "rtrl-block1": ("rtrl", {"block": 1}), "ok-block1": ("ok", {"block": 1}), "kf-rtrl": ("kf-rtrl", {"rank": 1}),
}  # fmt: skip


def make_estimator(form, cell, rng=0, **options):
    """Return the estimator of that form, with `options` of a run where they differ from the usual ones."""
    name, fixed = FORMS[form]
    return okcore.estimators.ESTIMATORS[name].from_options(cell, USUAL | fixed | options, rng)


def draws(form):
    """Say whether the estimator draws random numbers."""
    return "rng" in inspect.signature(okcore.estimators.ESTIMATORS[FORMS[form][0]]).parameters


def size(n):
    """Return n, or a toy size."""
    return 4 if TOY else n


def sizes(*values):
    """Return the sizes, or as many toy sizes."""
    return [3 + i for i in range(len(values))] if TOY else list(values)


class Stream:
    """An estimator on a random stream: one call is a step and a gradient.

    With `every` above 1, that many steps share a gradient. With `late`, gradients are late ones. With `update`, theta
    moves a little with every gradient.
    """

    def __init__(self, estimator, every=1, update=False, late=False):
        cell, lanes = estimator.cell, estimator.batch_size
        rng = np.random.default_rng(0)
        self.estimator, self.every, self.update, self.taken = estimator, every, update, 0
        self.gradient = estimator.late_gradient if late else estimator.gradient
        self.xs = list(rng.normal(size=(97, lanes, cell.n_in)).astype(cell.dtype))  # a constant input has low rank
        self.dh = rng.normal(size=(lanes, cell.n_hidden)).astype(cell.dtype)
        self.h, self.g, self.change = np.empty_like(self.dh), np.empty_like(cell.theta), np.empty_like(cell.theta)

    def __call__(self):
        self.estimator.step(self.xs[self.taken % 97], out=self.h)
        self.taken += 1
        if self.every == 1:
            self.gradient(self.dh, out=self.g)
        else:
            self.estimator.accumulate(self.dh)
            if self.taken % self.every == 0:
                self.estimator.flush(out=self.g)
        if self.update and self.taken % self.every == 0:
            cell = self.estimator.cell
            np.multiply(self.g, cell.dtype.type(1e-6), out=self.change)
            cell.theta -= self.change

    @property
    def period(self):
        """The number of steps in whole blocks and whole intervals between gradients, at least 8."""
        whole = math.lcm(self.estimator.block, self.every)
        return whole * -(-8 // whole)

    def steps(self, count):
        """Take `count` steps; return the stream."""
        for _ in range(count):
            self()
        return self

    def block(self):
        """Take `period` steps."""
        self.steps(self.period)

    def run(self):
        """Take `period` steps in one call, with one gradient for all of them."""
        at = [(self.taken + t) % 97 for t in range(self.period)]
        dhs = np.broadcast_to(self.dh, (self.period, *self.dh.shape))
        self.estimator.run(np.stack([self.xs[i] for i in at]), dhs)
        self.taken += self.period


def stream(form, n, cell="RNN", n_in=16, every=1, update=False, late=False, **options):
    """Return the estimator of that form for a new cell, on a random stream."""
    return Stream(make_estimator(form, CELLS[cell](n_in, n, rng=0), **options), every, update, late)


def target(row, words, setup=None, **params):
    """Make a function a benchmark over `params` and a part of a row of the targets.

    `words` is the target, such as "at most 1.4 x floor", or a function from the arguments to it (None: there is none).
    """

    def mark(benchmark):
        benchmark.row, benchmark.words = str(row), words if callable(words) else lambda *arguments: words
        benchmark.timeout = 600
        if setup is not None:
            benchmark.setup = setup
        if params:
            benchmark.params, benchmark.param_names = list(params.values()), list(params)
        return benchmark

    return mark


# ---- time ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def comparison():
    """Say which kernels run, and hold BLAS to one thread: a comparison means nothing without both."""
    print(kernels(), flush=True)
    with threadpool_limits(1, user_api="blas"):
        yield


def kernels():
    """Return okcore's instruction set, the kernels of every BLAS, and whether OPENBLAS_CORETYPE chose them: one line."""
    found = [
        f"{pool['internal_api']} {pool['version']} ({Path(pool['filepath']).parent.name}) {pool.get('architecture')}"
        for pool in threadpool_info() if pool["user_api"] == "blas"
    ]  # fmt: skip
    coretype = os.environ.get("OPENBLAS_CORETYPE")
    chosen = "is not set" if coretype is None else f"= {coretype} (unset it: it decides which kernels OpenBLAS runs)"
    holds = [f"; {name} = {os.environ[name]}" for name in HOLDS if name in os.environ]
    return f"okcore {_kernels.instructions()}; BLAS {', '.join(found)}; OPENBLAS_CORETYPE {chosen}{''.join(holds)}"


def seconds(job, repeats=1):
    """Return the wall time of one call of `job`, averaged over `repeats`."""
    start = time.perf_counter()
    for _ in range(repeats):
        job()
    return (time.perf_counter() - start) / repeats


def repeats_for(job, at_least):
    """Return how often `job` must be called to last `at_least` seconds; warms it up."""
    job()
    return 1 if TOY else max(1, int(at_least / max(seconds(job), 1e-7)))


def typical_seconds(job, rounds=5, at_least=0.02, choose=min):
    """Return the seconds of a call of `job`: the least of several rounds, or what else `choose` makes of them."""
    repeats = repeats_for(job, at_least)
    return float(choose([seconds(job, repeats) for _ in range(1 if TOY else rounds)]))


class Figure(float):
    """A figure that keeps how it came about: in words, and the `parts` it was made of."""

    def __new__(cls, value, text, *parts):
        figure = super().__new__(cls, value)
        figure.text, figure.parts = text, parts
        return figure


def paired(job, other, rounds=15, steps=1):
    """Return the ratio job / other of microseconds per step: a Figure of the two.

    A job is a Stream, or a function that takes `steps` steps per call. The machine is noisy: the two run in turn,
    A B A B ..., and the median of their ratios counts.
    """
    jobs = [(one.block, one.period) if isinstance(one, Stream) else (one, steps) for one in (job, other)]
    calls = [(call, repeats_for(call, 0.02), period) for call, period in jobs]
    times = np.array([
        [1e6 * seconds(call, repeats) / period for call, repeats, period in calls] for _ in range(1 if TOY else rounds)
    ])  # fmt: skip
    a, b = np.median(times, axis=0)
    return Figure(np.median(times[:, 0] / times[:, 1]), f"{a:.1f} / {b:.1f} us", a, b)


def added_by_trainer(trainer, task, rounds=25, steps=32):
    """Return the milliseconds per step of training that are spent outside the estimator's step and gradient: a Figure.

    All are timed in one loop, so that what a step and a gradient leave in the caches is as in training.
    """
    inside = 0.0

    def timed(call):
        def timed_call(*arguments, **options):
            nonlocal inside
            start = time.perf_counter()
            result = call(*arguments, **options)
            inside += time.perf_counter() - start
            return result

        return timed_call

    def train():
        for _ in range(steps):
            task.observe(trainer.partial_fit(*next(task)))

    estimator = trainer.estimator
    estimator.step, estimator.gradient = timed(estimator.step), timed(estimator.gradient)
    train()
    found = []
    for _ in range(1 if TOY else rounds):
        inside = 0.0
        whole = seconds(train)
        found.append((1e3 * (whole - inside) / steps, 1e3 * whole / steps))
    added, whole = np.median(found, axis=0)
    return Figure(added, f"of {whole:.3f} ms", added, whole)


def copy_bandwidth(size=1 << 26):
    """Return the bytes per second that a large copy reads and writes, the best of several."""
    source, target = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
    return 2 * source.nbytes / typical_seconds(lambda: np.copyto(target, source), rounds=7)


def products(shapes):
    """Return a job that does the float32 products (m, k)(k, n) of `shapes`, each `count` times, on warm data.

    A floor is the time of a step's large products alone, by SciPy's BLAS.
    """
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


# ---- growth with n: RNN, 16 inputs, one lane -------------------------------------------------------------------------

TIME_SIZES = dict.fromkeys(FORMS, (96, 128, 192, 256, 384, 512)) | {"rtrl-block1": (96, 128, 192, 256)}
MEMORY_SIZES = dict.fromkeys(FORMS, (256, 384, 512, 768, 1024))  # so large that Python's own memory matters little
MEMORY_SIZES |= dict.fromkeys(("rtrl", "rtrl-block1"), (128, 192, 256, 384, 512))
if TOY:
    TIME_SIZES = MEMORY_SIZES = dict.fromkeys(FORMS, (4, 8))


GRADIENTS = "at every step", "late", "once per block"


def seconds_per_step(form, n, gradient="at every step"):
    """Return the seconds per step over whole blocks, the best of several rounds, with one of `GRADIENTS`."""
    job = stream(form, n, late=gradient == "late")
    return typical_seconds(job.run if gradient == "once per block" else job.block, 3, 0.05) / job.period


@functools.cache  # for differences of exponents
def exponent_of_time(form, gradient):
    """Return the exponent of time in n."""
    return exponent(TIME_SIZES[form], [seconds_per_step(form, n, gradient) for n in TIME_SIZES[form]])


@functools.cache
def memory_bytes(form, n, processes=1 if TOY else 3):
    """Return the bytes of touched pages that an estimator adds to a fresh process, the least of several (Linux)."""
    command = [sys.executable, "-c", f"import measure; print(measure.memory_growth({form!r}, {n}))"]
    options = {"cwd": Path(__file__).parent, "check": True, "capture_output": True, "text": True}
    return min(int(subprocess.run(command, **options).stdout) for _ in range(processes))


def memory_growth(form, n):
    """Return the growth of this process's anonymous memory. Nothing is freed in between, so this is the peak."""

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    stream(form, 8).block()  # so that libraries have made their buffers
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before = anonymous()
    job = stream(form, n)
    for _ in range(2):
        job.run()
        job()
    return anonymous() - before


def exponent(sizes, values):
    """Return the slope of a straight line fitted to log(value) against log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# ---- error -----------------------------------------------------------------------------------------------------------


def relative_error(found, exact):
    """Return the norm of the difference over the norm of `exact`."""
    exact = np.asarray(exact, float)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def remembering_cell(n_in, n):
    """Return an RHN that remembers about twenty steps: f is about 0.95."""
    cell = CELLS["RHN"](n_in, n, rng=0)
    cell.theta[n:, -1] += 3
    return cell


def gradient_error(cell, steps, seeds, **options):
    """Return the relative error of one of OK's gradients after so many steps, one lane: RMS over draws."""
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(steps, 1, cell.n_in)).astype(cell.dtype)
    dh = rng.normal(size=(1, cell.n_hidden)).astype(cell.dtype)

    def gradient(form, seed):
        estimator = make_estimator(form, cell, seed, **options)
        estimator.run(xs)
        return estimator.gradient(dh)

    exact = gradient("rtrl", 0)
    return float(np.sqrt(np.mean([relative_error(gradient("ok", seed), exact) ** 2 for seed in range(seeds)])))
