"""Untruncated online gradients of recurrent networks on CPUs.

A *cell* takes a step and hands over the diagonals of its Jacobians. The *tape* keeps the steps of the open block. A
*carry* summarises all that came before. The *engine* runs the three; every estimator is the engine with another carry.

What you call
    cells.py            the built-in cells, and Cell for your own
    estimators.py       the algorithms, and Estimator for your own
    kron.py             sums of Kronecker products by themselves
    cython_kernels.pyx  the kernels as C functions, and __init__.pxd the base of carries, for other packages
    readouts.py, optimizers.py, trainer.py, tasks/      learning online
    torch.py            torch.nn.RNN, LSTM and GRU with these gradients; imported by name, needs PyTorch
    testing.py          check_cell, check_estimator: the contract of your own cells and algorithms
    reference.py        all of the mathematics in plain NumPy: read this first

What is compiled (each uses only what stands below it)
    _engine/engine.pyx          the order of things: steps, blocks, resets, credits, threads, errors
    _carries/                   one module per algorithm
        kronecker.pyx           what the sums of Kronecker products share
        reduction.pyx           the optimal reduction of N Kronecker terms to r
        base.pyx                what a carry is, compiled or in NumPy
    _engine/tape.pyx            the open block: step, sweep back, terms
    _engine/                    cell_kernel.pyx (what the engine knows of a cell), arguments.pyx (checks),
                                messages.pxd (what these tell each other), buffers.pyx (memory)
    _learning.pyx               what learning adds to step and gradient: readouts, norms, Adam
    _kernels.pyx                products, Gram matrices, Jacobian-times-factor, contraction, mixing
    _simd/                      hand-written kernels in C: gemm.h, gram.h, diagonals.h, elementwise.h, learning.h, and
                                cells.h, the pointwise steps of the built-in cells
    _blas.pyx                   row-major BLAS and LAPACK; the only module that cimports SciPy

What runs and checks
    runs/               a run in a folder: run.py, options.py, files.py, console.py, tensorboard.py, parallel.py (the
                        ranks of MPI), and checkpoint.py, which trainer.py uses too; the commands: command_line.py,
                        sweep.py, generate.py, plot.py, compare.py; load.py, figure_style.py
    _engine/block_length.py     block="auto"
    _validation.py, _random.py, _config.py, _docstrings.py, _interrupt.py, _progress.py, _typing.py
    *.pyi               what type checkers know of the compiled module beside it
"""

from okcore import _interrupt  # noqa: F401, I001  (before everything that takes time: it guards the start)

import os as _os
from importlib.metadata import version as _version

# A thread that waits must soon sleep. By default it spins for milliseconds, and where another process wants the
# processor, a step then takes as long as the scheduler's time slices. Here it spins for some 50 us, the time between
# the parallel parts of a gradient (GNU's OpenMP; the policy is for others). Both variables are read once, as the
# modules are loaded.
_waits = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
if _waits.keys() & _os.environ.keys():
    _waits = {}
_os.environ.update(_waits)
try:
    from okcore._engine import engine  # noqa: F401
finally:
    for _name in _waits:
        del _os.environ[_name]

from okcore import cells, cython_kernels, estimators, kron, reference, tasks, testing
from okcore._carries.base import Carry
from okcore._config import get_include, show_config
from okcore.cells import *  # noqa: F403
from okcore.estimators import *  # noqa: F403
from okcore.optimizers import SGD, Adam, Optimizer
from okcore.readouts import LinearReadout, Readout, SoftmaxReadout
from okcore.runs.load import load_runs
from okcore.trainer import OnlineTrainer

__version__ = _version("okcore")

__all__ = ["SGD", "Adam", "Carry", "LinearReadout", "OnlineTrainer", "Optimizer", "Readout", "SoftmaxReadout"]
__all__ += ["cython_kernels", "get_include", "kron", "load_runs", "reference", "show_config", "tasks", "testing"]
__all__ += cells.__all__
__all__ += estimators.__all__


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
