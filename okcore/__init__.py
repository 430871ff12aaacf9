"""Untruncated online gradients of recurrent networks on CPUs.

A *cell* takes a step and hands over the diagonals of its Jacobians; the *engine* keeps the open block's steps on
a tape; a *carry* summarises all that came before.  Every estimator is the engine with another carry.

    cells.py        RNN, RHN, LSTM, GRU, and Cell for your own     _simd_cells.h    their pointwise steps
    estimators.py   TBPTT, RTRL, UORO, KFRTRL, OK, and Estimator   _engine.pyx      blocks, resets, credits, threads
                                                                   _tape.pyx        the open block: step, sweep, terms
                                                                   _*carr*.pyx      one carry an algorithm
    kron.py         sums of Kronecker products by themselves       _reduction.pyx   the optimal reduction
                                                                   _kernels.pyx     Jacobian-times-factor products
                                                                   _simd*           the same by hand, in C
                                                                   _blas.pyx        the door to SciPy's BLAS and LAPACK
    readouts.py, optimizers.py, trainer.py, tasks/                  learning online
    runs.py, checkpoint.py, cli.py                                  runs that can be killed and resumed
    reference.py    all of the mathematics in plain NumPy: read this first
"""

import os as _os
from importlib.metadata import version as _version

# A lane's thread that waits must soon sleep: by default it spins for milliseconds, and where another process wants the
# processor a step then takes as long as the scheduler's time slices.  It spins for some 50 us, the time between the
# parallel parts of a gradient (GNU's OpenMP; the policy is for others).  Both are read once, as the modules are loaded.
_waits = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
if _waits.keys() & _os.environ.keys():
    _waits = {}
_os.environ.update(_waits)
from okcore._engine import engine  # noqa: F401

for _name in _waits:
    del _os.environ[_name]

from okcore import cells, estimators, kron, tasks, testing
from okcore._carries.base import Carry
from okcore._config import show_config
from okcore.cells import *  # noqa: F403
from okcore.estimators import *  # noqa: F403
from okcore.optimizers import SGD, Adam, Optimizer
from okcore.readouts import LinearReadout, Readout, SoftmaxReadout
from okcore.trainer import OnlineTrainer

__version__ = _version("okcore")

__all__ = ["SGD", "Adam", "Carry", "LinearReadout", "OnlineTrainer", "Optimizer", "Readout", "SoftmaxReadout", "show_config"]
__all__ += ["kron", "tasks", "testing"]
__all__ += cells.__all__
__all__ += estimators.__all__
