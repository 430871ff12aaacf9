"""Ratios measured in one run. `targets.py` prints them beside their targets."""

import importlib.util
import itertools
from functools import partial

import measure
import numpy as np
import rivals
from measure import CELLS, Figure, make_estimator, paired, products, size, stream, target

import okcore
from okcore import _kernels, reference
from okcore._engine.block_length import CANDIDATES

SIZES = measure.sizes(128, 256, 512)

SWEEP = [  # estimator, cell, n, rank, update_every, lanes
    ("rtrl", "RNN", 32, 0, 1, 1), ("rtrl", "RNN", 128, 0, 1, 1), ("rtrl", "RNN", 128, 0, 32, 1), ("rtrl", "GRU", 64, 0, 1, 4),
    ("rtrl", "LSTM", 64, 0, 1, 1), ("rtrl", "RNN", 256, 0, 1, 1), ("rtrl", "RNN", 256, 0, 256, 1),
    ("ok", "RNN", 32, 4, 1, 1), ("ok", "RNN", 32, 4, 16, 1), ("ok", "RHN", 64, 8, 1, 16), ("ok", "LSTM", 64, 4, 1, 1),
    ("ok", "RNN", 128, 8, 1, 1), ("ok", "RNN", 128, 8, 16, 1), ("ok", "RHN", 128, 16, 1, 1), ("ok", "RHN", 128, 16, 1, 16),
    ("ok", "RHN", 128, 16, 32, 4), ("ok", "LSTM", 128, 8, 1, 1), ("ok", "GRU", 128, 8, 1, 1), ("ok", "RNN", 256, 8, 1, 1),
    ("ok", "RNN", 256, 16, 256, 1), ("ok", "RNN", 512, 4, 64, 1), ("ok", "RNN", 512, 16, 1, 1),
]  # fmt: skip
SWEEP += [("ok", cell, 64, 8, 1, 1) for cell in CELLS if cell not in {row[1] for row in SWEEP}]  # a new cell
SWEEP = {"{} {} n={} rank={} every={} lanes={}".format(*row): row for row in SWEEP}


OVER_FLOOR = {8: (1.25, 1.2, 1.15), 16: (1.35, 1.25, 1.2)}  # by rank, for each of SIZES


@target(1, lambda n, rank: f"at most {OVER_FLOOR[rank][SIZES.index(n)]} x floor", n=SIZES, rank=list(OVER_FLOOR))
def track_ok_over_floor(n, rank):
    """OK block 1 over its products, RNN"""
    return paired(stream("ok-block1", n, rank=rank).steps(2 * rank + 2), products([(n, n, n, rank)]))


def copy_stream(n, block, threads=1):
    """Return OK at the size of the Copy experiment, with an update at every step, its carry full."""
    job = stream("ok", n, "RHN", 4, update=True, rank=16, block=block, batch=16, threads=threads)
    return job.steps(20 if block == 1 else 3 * block)


@target(2, "at least 4 x faster", n=[size(128)])
def track_copy_block_1_over_16(n):
    """OK(16), RHN, B = 16, block 1 / block 16"""
    return paired(copy_stream(n, 1), copy_stream(n, 16), 7)


@target(2, "at most 1", n=[size(128)])
def track_error_of_block_16_over_1(n):
    """error of a gradient, block 16 / block 1"""
    cell = measure.remembering_cell(4, n)
    one, many = (measure.gradient_error(cell, 10 * size(15), 8, rank=16, block=K) for K in (1, 16))
    return Figure(many / one, f"{many:.1e} / {one:.1e}")


@target(3, "at most 1.2 x floor", n=[size(128)])
def track_textbook_over_floor(n):
    """textbook RTRL over its product, RNN"""
    textbook = stream("rtrl-block1", n).steps(3)
    P, m = textbook.g.shape
    return paired(textbook, products([(n, n, P * m, 1)]), 7)


@target(3, "at least 12 x faster", n=[size(128)], late=[False, True])
def track_textbook_over_blocked(n, late):
    """textbook / blocked RTRL, gradient at each step"""
    return paired(stream("rtrl-block1", n), stream("rtrl", n, late=late), 7)


@target(3, "at least 35 x faster", n=[size(128)])
def track_textbook_over_flushed(n):
    """textbook / blocked RTRL, flushed"""
    block = stream("rtrl", n, update_every=10**6).estimator.block
    return paired(stream("rtrl-block1", n), stream("rtrl", n, block=block, every=block), 7)


@target(3, "at most 4.2", n=[size(128)], late=[False, True])
def track_blocked_with_4_lanes_over_1(n, late):
    """blocked RTRL, RNN, 4 lanes / 1 lane"""
    return paired(stream("rtrl", n, batch=4, late=late), stream("rtrl", n, late=late))


def copy_trainer(n, form, block, threads=1):
    """Return a trainer and a task of the Copy experiment's size."""
    task = okcore.tasks.Copy(16, rng=0, length=30)
    cell = CELLS["RHN"](4, n, rng=0, init="normal")
    estimator = make_estimator(form, cell, rank=16, block=block, batch=16, threads=threads)
    readout = okcore.SoftmaxReadout(n, 4, rng=0, init="normal")
    return okcore.OnlineTrainer(cell, estimator, readout, okcore.Adam(1e-5), clip=1.0), task


@target(6, "at most 1.6 x floor", n=[size(128)])
def track_copy_training_step_over_floor(n):
    """training step of the Copy experiment, 2 threads"""
    B, r, K = 16, 16, 16
    S, P, N = n, 2 * n, r + K
    trainer, task = copy_trainer(n, "ok", K, threads=2)

    def block():
        for _ in range(K):
            trainer.partial_fit(*next(task))

    for _ in range(6):
        block()
    by_blas = products([(S, S, n, B * (K - 1)), (S, S, P, B * r), (N, S * P, N, B), (r, N, S * P, B)])
    step, large = paired(block, by_blas, 7, K).parts
    read = 1e6 * 4 * B * r * S * P / measure.copy_bandwidth() * 2  # the time of copying as many bytes
    floor = large / 2 + read / 2
    return Figure(step / floor, f"{step:.1f} / {floor:.1f} us")


@target(7, lambda n, block, calls: f"at least {5 if calls else 15} x faster", n=[size(32)], block=[1, 16], calls=[False, True])
def track_reference_over_okcore(n, block, calls):
    """reference / OK(4).run, or with `calls` step and gradient"""
    estimator = make_estimator("ok", CELLS["RNN"](4, n, rng=0), rank=4, block=block)
    plain = reference.OK(reference.RNN(4, n, rng=0), 4, block, rng=0)
    rng = np.random.default_rng(0)
    xs, dhs = rng.normal(size=(256, 1, 4)).astype("f"), rng.normal(size=(256, 1, n)).astype("f")

    def call(estimator):
        for x, dh in zip(xs, dhs, strict=True):
            estimator.step(x)
            estimator.gradient(dh)

    return paired(partial(call, plain), partial(call, estimator) if calls else partial(estimator.run, xs, dhs), 5, 256)


def needs_pytorch(job):
    if importlib.util.find_spec("torch") is None:
        raise NotImplementedError("PyTorch is not installed (make torch)")


@target(8, lambda job: f"at least {job.target}", needs_pytorch, job=list(rivals.jobs(25)))
def track_pytorch_tbptt_over_okcore(job):
    """PyTorch / okcore, TBPTT"""
    return paired(rivals.PyTorch(job), rivals.Okcore(job), 9, job.horizon)


@target(9, lambda job: f"at least {job.target}", needs_pytorch, job=list(rivals.jobs(1)))
def track_pytorch_over_okcore(job):
    """PyTorch / okcore, an update at every step"""
    return paired(rivals.PyTorch(job), rivals.Okcore(job), 9)


@target(10, "at least 1.7 x faster", n=[size(128)])
def track_one_thread_over_two(n):
    """OK(16), RHN, B = 16, 1 thread / 2 threads"""
    return paired(copy_stream(n, 16), copy_stream(n, 16, threads=2), 9)


def shapes(n):
    """Return the engine's products at n hidden units and 16 inputs: transposed operands, m, n, k, columns beside B and C."""
    found = {f"Phi A, P = {P}": (False, False, n, P, n, 0) for P in (n, 4 * n)}
    for B, P in itertools.product((1, 4, 16), (n, 4 * n)):
        found[f"u W^T in a run, B = {B}, P = {P}"] = False, False, B, P, n + 17, 0
        found[f"u W^T in a step, B = {B}, P = {P}"] = False, True, B, P, n + 17, 0
        found[f"credit W_h, B = {B}, P = {P}"] = False, False, B, n, P, 0
    for r, K in itertools.product((8, 16), (1, 16)):
        found[f"mixing {r + K} terms to {r}"] = True, False, r, n * n, r + K, 0
    for rows, P in itertools.product((16, 32, 64, 128, 256, 400), (n, 4 * n)):
        found[f"outer sum of {rows} rows, P = {P}"] = True, False, P, n + 16, rows, 1
    return found


PRODUCTS = {f"n = {n}, {name}": found for n in measure.sizes(64, 128, 256, 512) for name, found in shapes(n).items()}


@target(12, "at most 1.03", product=list(PRODUCTS))
def track_product_by_hand_over_blas(product):
    """by hand / BLAS"""
    trans_a, trans_b, m, n, k, beside = PRODUCTS[product]
    rng = np.random.default_rng(0)
    A = rng.normal(size=(k, m) if trans_a else (m, k)).astype("f")
    B = rng.normal(size=(n, k) if trans_b else (k, n + beside)).astype("f")[:, : k if trans_b else n]
    out = np.zeros((m, n + beside), "f")[:, :n]
    times = 1 + int(1e6 / (m * n * k))  # a call from Python takes a microsecond
    jobs = (partial(_kernels.multiply, A, B, out, trans_a, trans_b, by_blas, times) for by_blas in (False, True))
    return paired(*jobs, 9, times)


@target(13, "at most 0.12 ms", estimator=["tbptt 1", "tbptt 16", "ok 16"], n=[size(128)])
def track_added_by_trainer(estimator, n):
    """ms that the trainer adds to step and gradient"""
    form, block = estimator.split()
    return measure.added_by_trainer(*copy_trainer(n, form, int(block)))


@target(14, "at most 2.5", n=[size(256)])
def track_snap1_over_tbptt(n):
    """SnAp-1 / TBPTT(1), GRU"""
    return paired(*(stream(form, n, "GRU", block=1).steps(9) for form in ("snap1", "tbptt")))


@target("blocks", "at most 1.2", sizes=list(SWEEP))
def track_auto_over_best_block(sizes):
    """block="auto" / the best block"""
    form, cell, n, rank, every, lanes = SWEEP[sizes]

    def job(block):
        every_ = min(every, size(every))
        return stream(form, size(n), cell, rank=rank, block=block, batch=lanes, every=every_, update_every=every_)

    auto, shortest, longest = job("auto").estimator.block, 1, 128
    if form == "rtrl":  # up to n^4 with short blocks: skip those far shorter than auto's
        shortest, longest = auto / 8, max(auto, size(n))
    times = {}
    for K in (K for K in CANDIDATES if shortest <= K <= longest):
        blocks = job(K).steps((-(-rank // K) + 2) * K)  # fills the carry
        times[K] = measure.typical_seconds(blocks.block, 5, 0.03, np.median) / blocks.period
    best = min(times, key=times.get)
    said = ", ".join(f"{K}: {1e6 * t:.0f}" for K, t in times.items())
    return Figure(times[auto] / times[best], f"auto {auto}, best {best} ({said} us)")
