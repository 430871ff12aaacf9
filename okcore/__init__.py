"""Untruncated online gradients of recurrent networks on CPUs."""

from okcore import kron
from okcore._carries import Carry
from okcore.cells import GRU, LSTM, RHN, RNN, Cell
from okcore.estimators import KFRTRL, OK, RTRL, TBPTT, UORO, Estimator

__all__ = ["GRU", "KFRTRL", "LSTM", "OK", "RHN", "RNN", "RTRL", "TBPTT", "UORO", "Carry", "Cell", "Estimator", "kron"]
