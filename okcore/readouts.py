"""Readouts: from a hidden state to a loss, its credit dloss/dh, and the readout's own gradient."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from okcore import _learning, _validation
from okcore._docstrings import fill
from okcore._kernels import is_finite
from okcore._random import initial_values
from okcore._typing import FloatArray, RNGLike

PARAMETERS = """
    Parameters
    ----------
    n_hidden, n_out : int
    dtype : {float32, float64}
        The cell's dtype.
    rng : int, SeedSequence, Generator or None
    init : {"uniform", "normal", "zeros"}
        ``"uniform"`` draws from U(-1/sqrt(n), 1/sqrt(n)), as torch does; ``"normal"`` from N(0, scale^2).
    scale : float

    Attributes
    ----------
    weights : (n_out, n_hidden + 1) ndarray
        ``[W | b]``, always the same buffer.
"""


@fill(parameters=PARAMETERS)
class Readout:
    """An affine map of [h, 1] with a loss.

    A subclass defines `predict`, `check_targets`, and either ``_credit`` or `loss`.

    {parameters}
    """

    def __init__(
        self, n_hidden: int, n_out: int, dtype: DTypeLike = np.float32, rng: RNGLike | None = None,
        init: Literal["uniform", "normal", "zeros"] = "uniform", scale: float = 0.01,
    ) -> None:  # fmt: skip
        self.n_hidden = _validation.as_int("n_hidden", n_hidden, 1)
        self.n_out = _validation.as_int("n_out", n_out, 1)
        self.dtype = _validation.as_dtype("dtype", dtype)
        values = initial_values((self.n_out, self.n_hidden + 1), self.n_hidden, init, scale, rng)
        self.weights: FloatArray = values.astype(self.dtype)

    def outputs(self, h: ArrayLike) -> FloatArray:
        """Return the affine outputs of hidden states (..., n_hidden), shape (..., n_out)."""
        h = _validation.as_array("h", h)
        h = _validation.as_floats("h", h, (*h.shape[:-1], self.n_hidden), self.dtype, finite=True)
        return _learning.outputs(h.reshape(-1, self.n_hidden), self.weights).reshape(*h.shape[:-1], self.n_out)

    @staticmethod
    def _finite(outputs: FloatArray) -> FloatArray:
        if not np.isfinite(outputs).all():
            raise FloatingPointError(f"the readout's outputs are not finite in {outputs.dtype}")
        return outputs

    def _batch(self, h: ArrayLike) -> FloatArray:
        """Return hidden states (B, n_hidden) of at least one lane."""
        h = _validation.as_array("h", h)
        lanes = len(h) if h.ndim else 1
        if lanes == 0:
            raise ValueError(f"h must hold at least one lane, (B, {self.n_hidden}), got shape {h.shape}")
        return _validation.as_floats("h", h, (lanes, self.n_hidden), self.dtype, finite=True)

    def loss(self, h: NDArray[Any], y: NDArray[Any]) -> tuple[float, FloatArray, FloatArray]:
        """Return (loss in bits, dloss/dh, dloss/dweights); the loss is the mean over lanes, derivatives in nats.

        Parameters
        ----------
        h : (B, n_hidden) array
        y : array
            One target per lane.

        Raises
        ------
        FloatingPointError
            If the loss or a derivative is not finite.
        """
        h = self._batch(h)
        y = self.check_targets(y, len(h))
        credit = _learning.outputs(h, self.weights)
        with np.errstate(over="ignore", invalid="ignore"):
            nats = self._credit(credit, y)
        if not math.isfinite(nats):
            raise FloatingPointError("the loss is not finite")
        dh, gradient = _learning.gradients(credit, h, self.weights)
        if not (is_finite(dh) and is_finite(gradient)):
            raise FloatingPointError(f"the loss has derivatives that are not finite in {self.dtype}")
        return nats / math.log(2), dh, gradient

    def predict(self, h: NDArray[Any]) -> FloatArray:
        """Return the prediction for hidden states (..., n_hidden)."""
        raise NotImplementedError(f"{type(self).__name__} must define predict(h)")

    def check_targets(self, y: Any, batch_size: int) -> NDArray[Any]:
        """Return the targets of a batch as `loss` needs them; raise if they are none."""
        raise NotImplementedError(f"{type(self).__name__} must define check_targets(y, batch_size)")

    def _credit(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        """Return the mean loss in nats; replace the outputs (B, n_out) by its derivative with respect to them."""
        raise NotImplementedError(f"{type(self).__name__} must define _credit(outputs, y) or loss(h, y)")


@fill(parameters=PARAMETERS)
class SoftmaxReadout(Readout):
    """Softmax over n_out symbols with the cross-entropy loss.

    {parameters}
    """

    def predict(self, h: NDArray[Any]) -> FloatArray:
        """Return the probabilities of the symbols, (..., n_out)."""
        return self._finite(np.exp(self._log_probabilities(self.outputs(h))))

    @staticmethod
    def _log_probabilities(logits: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):
            logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits

    def bits(self, h: ArrayLike, y: ArrayLike) -> FloatArray:
        """Return the cross-entropy in bits of each target, for h (..., n_hidden) and symbols y (...)."""
        log_p = self._log_probabilities(self.outputs(h))
        y = _validation.as_symbols("y", y, log_p.shape[:-1], self.n_out)
        with np.errstate(over="ignore"):
            return self._finite(np.take_along_axis(log_p, y[..., None], axis=-1)[..., 0] / -math.log(2))

    def check_targets(self, y: Any, batch_size: int) -> NDArray[Any]:
        """Return y as an array of B symbols."""
        batch_size = _validation.as_int("batch_size", batch_size, 1)
        if _learning.are_symbols(y, batch_size, self.n_out):
            return y
        return np.require(_validation.as_symbols("y", y, (batch_size,), self.n_out), np.int64, ["C", "A"])

    def _credit(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        return _learning.softmax(outputs, y)


@fill(parameters=PARAMETERS)
class LinearReadout(Readout):
    """Linear outputs; the loss is half the squared error, summed over outputs (a Gaussian's, in nats).

    {parameters}
    """

    def predict(self, h: NDArray[Any]) -> FloatArray:
        """Return the outputs, (..., n_out)."""
        return self._finite(self.outputs(h))

    def check_targets(self, y: Any, batch_size: int) -> NDArray[Any]:
        """Return y as an array (B, n_out) of the readout's dtype."""
        return _validation.as_floats("y", y, (batch_size, self.n_out), self.dtype, finite=True)

    def _credit(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        outputs -= y
        nats = 0.5 * float(np.square(outputs, dtype=np.float64).sum()) / len(outputs)
        outputs *= self.dtype.type(1 / len(outputs))
        return nats
