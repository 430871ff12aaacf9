"""Print how many times longer others take for the same job (rows 8 and 9 of the targets): medians of paired runs.

Horizon 25: one update per 25 steps of TBPTT; PyTorch must never be faster. Horizon 1: an update at every step; PyTorch must
take at least 10 times as long with one lane, 3 times with 16. Everything runs on one thread. Leave OPENBLAS_CORETYPE unset.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from measure import paired
from threadpoolctl import threadpool_limits

from compare.job import Job
from compare.nothing import Nothing
from compare.numpy_reference import NumpyReference
from compare.ours import Okcore
from compare.pytorch import PyTorch

SIZES = {25: (64, 128, 256), 1: (32, 64, 128)}


def jobs(toy=False):
    """Yield every job of rows 8 and 9 with its target: PyTorch's time over okcore's."""
    for horizon, sizes in SIZES.items():
        for cell in ("RNN", "LSTM", "GRU"):
            for lanes, target in ((1, 10), (16, 3)):
                for n in (4,) if toy else sizes:
                    yield Job(cell, n, lanes, horizon), target if horizon == 1 else 1


def rivals():
    """Return the adapters that can run here (PyTorch is optional)."""
    found = [PyTorch, NumpyReference, Nothing]
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        found.remove(PyTorch)
    return found


def ratio_to_ours(adapter, job, rounds=9):
    """Return the median of the rival's time over okcore's, and okcore's seconds per step."""
    ratio, _, ours = paired(adapter(job), Okcore(job), rounds)
    return ratio, ours / job.horizon


def main():
    parser = argparse.ArgumentParser(prog="python bench/compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="tiny sizes and one round, to check that it runs")
    toy = parser.parse_args().toy
    adapters = rivals()
    if PyTorch not in adapters:
        print("PyTorch is not installed (pip install torch --index-url https://download.pytorch.org/whl/cpu): skipped\n")
    print("time over okcore's:          " + "".join(f"{a.name:>10}" for a in adapters) + "    target   okcore us/step")
    with threadpool_limits(1, user_api="blas"):
        for job, target in jobs(toy):
            ratios = []
            for adapter in adapters:
                slow = adapter is NumpyReference and job.horizon > 1
                ratio, ours = ratio_to_ours(adapter, job, 1 if toy else 3 if slow else 9)
                ratios.append(ratio)
            missed = "MISSED" if adapters[0] is PyTorch and ratios[0] < target else ""
            name = f"{job.cell:<4} horizon {job.horizon:>2}  B = {job.lanes:>2}  n = {job.n:>3}"
            print(name + "".join(f"{r:>10.2f}" for r in ratios) + f"{target:>10}   {ours * 1e6:.1f} {missed}", flush=True)


if __name__ == "__main__":
    main()
