"""Other implementations at the same job; `python bench/compare` prints the table."""

import measure

from compare.job import Job
from compare.nothing import Nothing
from compare.numpy_reference import NumpyReference
from compare.ours import Okcore
from compare.pytorch import PyTorch


def jobs(horizon):
    """Yield every job of row 8 (25 steps per update) or row 9 (1)."""
    for cell in ("RNN", "LSTM", "GRU"):
        for lanes in (1, 16):
            for n in (4,) if measure.TOY else (64, 128, 256) if horizon > 1 else (32, 64, 128):
                yield Job(cell, n, lanes, horizon)


def rivals():
    """Return the adapters that can run here (PyTorch is optional)."""
    found = [PyTorch, NumpyReference, Nothing]
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        found.remove(PyTorch)
    return found


def ratio_to_ours(adapter, job):
    """Return the ratio of the rival's time per step to okcore's."""
    slow = adapter is NumpyReference and job.horizon > 1
    return measure.paired(adapter(job), Okcore(job), 3 if slow else 9, job.horizon)
