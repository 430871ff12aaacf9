"""Readouts: from a hidden state to a loss, its credit dloss/dh, and the readout's own gradient."""

import math

import numpy as np

from okcore import _validation
from okcore._random import as_generator


class Readout:
    """An affine map of [h, 1] with a loss.

    Parameters
    ----------
    n_hidden, n_out : int
    dtype : {float32, float64}
        The cell's.
    rng : int, SeedSequence, Generator or None
    init : {"uniform", "normal", "zeros"}
        ``"uniform"`` is torch's U(-1/sqrt(n), 1/sqrt(n)), ``"normal"`` N(0, scale^2).
    scale : float

    Attributes
    ----------
    weights : (n_out, n_hidden + 1) ndarray
        ``[W | b]``, one fixed buffer.
    """

    def __init__(self, n_hidden, n_out, dtype=np.float32, rng=None, init="uniform", scale=0.01):
        self.n_hidden = _validation.as_int("n_hidden", n_hidden, 1)
        self.n_out = _validation.as_int("n_out", n_out, 1)
        self.dtype = _validation.as_dtype(dtype)
        _validation.as_choice("init", init, ("uniform", "normal", "zeros"))
        scale = _validation.as_real("scale", scale, least=0)
        shape = (self.n_out, self.n_hidden + 1)
        bound = 1 / math.sqrt(self.n_hidden)
        if init == "uniform":
            values = as_generator(rng).uniform(-bound, bound, shape)
        elif init == "normal":
            values = as_generator(rng).normal(0, scale, shape)
        else:
            values = np.zeros(shape)
        self.weights = values.astype(self.dtype)

    def outputs(self, h):
        """Return the affine outputs of hidden states (..., n_hidden), shape (..., n_out)."""
        return h @ self.weights[:, :-1].T + self.weights[:, -1]

    def _backward(self, h, credit):
        """Return (dloss/dh, dloss/dweights) from dloss/doutputs (B, n_out)."""
        gradient = np.empty_like(self.weights)
        np.matmul(credit.T, h, out=gradient[:, :-1])
        gradient[:, -1] = credit.sum(axis=0)
        return credit @ self.weights[:, :-1], gradient


class SoftmaxReadout(Readout):
    """Softmax over n_out symbols with the cross-entropy loss."""

    __doc__ += Readout.__doc__.partition("loss.")[2]

    def predict(self, h):
        """Return the probabilities of the symbols, (..., n_out)."""
        logits = self.outputs(h)
        logits -= logits.max(axis=-1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=-1, keepdims=True)
        return logits

    def bits(self, h, y):
        """Return the cross-entropy in bits of each target, for h (..., n_hidden) and symbols y (...)."""
        logits = self.outputs(h)
        logits -= logits.max(axis=-1, keepdims=True)
        picked = np.take_along_axis(logits, np.asarray(y)[..., None], axis=-1)[..., 0]
        return (np.log(np.exp(logits).sum(axis=-1)) - picked) / math.log(2)

    def check_targets(self, y, batch_size):
        """Return y as an array of B symbols."""
        y = np.asarray(y)
        if y.dtype.kind not in "iu":
            raise TypeError(f"y must be integers of shape ({batch_size},), got {_validation.describe(y)}")
        if y.shape != (batch_size,):
            raise ValueError(f"y must have shape ({batch_size},), got {y.shape}")
        if y.min() < 0 or y.max() >= self.n_out:
            bad = y.min() if y.min() < 0 else y.max()
            raise ValueError(f"y must hold symbols from 0 to {self.n_out - 1}, got {bad}")
        return y

    def loss(self, h, y):
        """Return (loss in bits, dloss/dh, dloss/dweights); the loss is the mean over lanes, derivatives in nats."""
        B = len(h)
        credit = self.predict(h)
        lanes = np.arange(B)
        picked = credit[lanes, y]
        with np.errstate(divide="ignore"):
            loss = -np.log2(picked, dtype=np.float64).mean()
        credit[lanes, y] -= 1
        credit *= self.dtype.type(1 / B)
        return loss, *self._backward(h, credit)


class LinearReadout(Readout):
    """Linear outputs with the squared error, half of it summed over outputs (a Gaussian's, in nats)."""

    __doc__ += Readout.__doc__.partition("loss.")[2]

    def predict(self, h):
        """Return the outputs, (..., n_out)."""
        return self.outputs(h)

    def check_targets(self, y, batch_size):
        """Return y as an array (B, n_out) of the readout's dtype."""
        return _validation.as_floats("y", y, (batch_size, self.n_out), self.dtype, finite=True)

    def loss(self, h, y):
        """Return (loss in bits, dloss/dh, dloss/dweights); the loss is the mean over lanes, derivatives in nats."""
        B = len(h)
        error = self.outputs(h) - y
        loss = 0.5 * float(np.square(error, dtype=np.float64).sum()) / B / math.log(2)
        error *= self.dtype.type(1 / B)
        return loss, *self._backward(h, error)
