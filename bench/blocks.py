"""Check block="auto" against a sweep over K: python bench/blocks.py [--quick]

For every size, print the K that "auto" chooses, the fastest K, and the ratio of their times (medians over rounds). The
target is at most 1.2 everywhere.
"""

import argparse
import time

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import okcore
from okcore._engine.block_length import CANDIDATES

SWEEP = [  # estimator, cell, n, rank, update_every, lanes
    ("rtrl", "RNN", 32, 0, 1, 1),
    ("rtrl", "RNN", 128, 0, 1, 1),
    ("rtrl", "RNN", 128, 0, 32, 1),
    ("rtrl", "GRU", 64, 0, 1, 4),
    ("rtrl", "LSTM", 64, 0, 1, 1),
    ("rtrl", "RNN", 256, 0, 1, 1),
    ("rtrl", "RNN", 256, 0, 256, 1),
    ("ok", "RNN", 32, 4, 1, 1),
    ("ok", "RNN", 32, 4, 16, 1),
    ("ok", "RHN", 64, 8, 1, 16),
    ("ok", "LSTM", 64, 4, 1, 1),
    ("ok", "RNN", 128, 8, 1, 1),
    ("ok", "RNN", 128, 8, 16, 1),
    ("ok", "RHN", 128, 16, 1, 1),
    ("ok", "RHN", 128, 16, 1, 16),
    ("ok", "RHN", 128, 16, 32, 4),
    ("ok", "LSTM", 128, 8, 1, 1),
    ("ok", "GRU", 128, 8, 1, 1),
    ("ok", "RNN", 256, 8, 1, 1),
    ("ok", "RNN", 256, 16, 256, 1),
    ("ok", "RNN", 512, 4, 64, 1),
    ("ok", "RNN", 512, 16, 1, 1),
]
QUICK = [row for row in SWEEP if row[2] <= 64]


class Stepper:
    """Whole blocks of steps with a gradient every `every` steps."""

    def __init__(self, make, K, every, lanes):
        self.estimator = e = make(K)
        rng = np.random.default_rng(0)
        self.xs = list(rng.normal(size=(97, lanes, e.cell.n_in)).astype(e.cell.dtype))
        self.dh = rng.normal(size=(lanes, e.cell.n_hidden)).astype(e.cell.dtype)
        self.h, self.g = np.empty_like(self.dh), np.empty_like(e.cell.theta)
        self.every, self.taken = every, 0
        rank = getattr(e, "rank", 0)
        for _ in range(-(-rank // K) + 2):  # fill the carry
            self.steps(K)

    def steps(self, count):
        """Take `count` steps."""
        e = self.estimator
        for _ in range(count):
            e.step(self.xs[self.taken % 97], out=self.h)
            self.taken += 1
            if self.every == 1:
                e.gradient(self.dh, out=self.g)
            else:
                e.accumulate(self.dh)
                if self.taken % self.every == 0:
                    e.flush(out=self.g)

    def seconds(self, at_least):
        """Return the time per step over whole blocks and whole update intervals."""
        period = int(np.lcm(self.estimator.block, self.every))
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < at_least:
            self.steps(period)
            count += period
        return (time.perf_counter() - start) / count


def sweep(algorithm, cell_name, n, rank, every, lanes, rounds=5, at_least=0.03):
    """Return the K of "auto" and the median time per step for each K."""
    cell = getattr(okcore, cell_name)(16, n, rng=0)

    def make(K):
        if algorithm == "rtrl":
            return okcore.RTRL(cell, K, lanes, update_every=every)
        return okcore.OK(cell, rank, K, batch_size=lanes, rng=0, update_every=every)

    auto = make("auto").block
    longest = cell.theta.shape[1] // cell.n_terms if algorithm == "rtrl" else 128
    # RTRL takes up to n^4 with short blocks: skip those far shorter than auto's.
    blocks = [K for K in CANDIDATES if K <= max(1, longest) and K >= (auto / 8 if algorithm == "rtrl" else 1)]
    times = {K: [] for K in blocks}
    for K in blocks:
        stepper = Stepper(make, K, every, lanes)
        times[K] = float(np.median([stepper.seconds(at_least) for _ in range(rounds)]))
    return auto, times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only n <= 64")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the time per step for every K, in us")
    options = parser.parse_args()
    worst = 0
    with threadpool_limits(1, user_api="blas"):
        for row in tqdm(QUICK if options.quick else SWEEP, unit="size"):
            auto, times = sweep(*row)
            best = min(times, key=times.get)
            ratio = times[auto] / times[best]
            worst = max(worst, ratio)
            name = f"{row[0]:<4} {row[1]:<4} n = {row[2]:<3} r = {row[3]:<2} update every {row[4]:<3} lanes {row[5]:<2}"
            tqdm.write(f"{name}  auto {auto:>3}  best {best:>3}  {ratio:.2f} {'' if ratio <= 1.2 else 'MISSED'}")
            if options.verbose:
                tqdm.write("     " + "  ".join(f"{K}: {1e6 * t:.0f}" for K, t in times.items()))
    print(f"worst {worst:.2f}, target 1.2")


if __name__ == "__main__":
    main()
