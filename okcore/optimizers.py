"""Optimizers: in-place updates of named parameters, with a state that can be saved."""

import numpy as np

from okcore import _validation


class Optimizer:
    """Base class: keeps one set of slots (arrays shaped like the parameter) per name."""

    slots = ()

    def __init__(self, learning_rate):
        self.learning_rate = _validation.as_real("learning_rate", learning_rate, above=0)
        self._slots = {}
        self._scratch = {}
        self._counts = {}

    def update(self, name, parameter, gradient):
        """Move `parameter` against `gradient`, in place.

        Parameters
        ----------
        name : str
            Name of the parameter; selects its slots.
        parameter, gradient : ndarray
            Both of the same shape and dtype, float32 or float64.
        """
        for argument, array in (("parameter", parameter), ("gradient", gradient)):
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                raise TypeError(f"{argument} must be an array of floats, got {_validation.describe(array)}")
        if gradient.dtype != parameter.dtype:
            raise TypeError(f"gradient must be {parameter.dtype}, got {gradient.dtype}")
        if gradient.shape != parameter.shape:
            raise ValueError(f"gradient must have shape {parameter.shape}, got {gradient.shape}")
        if not np.isfinite(gradient).all():
            _validation.raise_not_finite("gradient", gradient)
        if name not in self._slots:
            self._slots[name] = {slot: np.zeros_like(parameter) for slot in self.slots}
            self._counts[name] = 0
        if name not in self._scratch:
            self._scratch[name] = np.empty_like(parameter), np.empty_like(parameter)
        self._counts[name] += 1
        self._move(parameter, gradient, self._counts[name], *self._scratch[name], **self._slots[name])

    def state_dict(self):
        """Return copies of slots and counts."""
        state = {"kind": type(self).__name__}
        for name, slots in self._slots.items():
            state[f"{name}.count"] = self._counts[name]
            state |= {f"{name}.{slot}": array.copy() for slot, array in slots.items()}
        return state

    def load_state_dict(self, state, parameters):
        """Restore what `state_dict` returned, for parameters given by name."""
        state = _validation.as_dict("state", state)
        if state.get("kind") != type(self).__name__:
            raise ValueError(f"state: optimizer must be {type(self).__name__}, got {state.get('kind')!r}")
        slots, counts = {}, {}
        for name, parameter in parameters.items():
            if f"{name}.count" not in state:
                continue
            counts[name] = _validation.as_int(f"{name}.count", state[f"{name}.count"], 0)
            slots[name] = {}
            for slot in self.slots:
                key = f"{name}.{slot}"
                if key not in state:
                    raise ValueError(f"optimizer state lacks {key}")
                slots[name][slot] = _validation.as_floats(
                    key, state[key], parameter.shape, parameter.dtype, finite=True
                ).copy()
        self._slots, self._counts = slots, counts


class SGD(Optimizer):
    """Gradient descent, parameter -= learning_rate * gradient.

    Parameters
    ----------
    learning_rate : float
    """

    def _move(self, parameter, gradient, count, scratch, _):
        np.multiply(gradient, parameter.dtype.type(self.learning_rate), out=scratch)
        parameter -= scratch


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), with bias correction.

    Parameters
    ----------
    learning_rate : float
    beta1, beta2, eps : float
    """

    slots = ("mean", "square")

    def __init__(self, learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        super().__init__(learning_rate)
        self.beta1 = _validation.as_real("beta1", beta1, least=0, below=1)
        self.beta2 = _validation.as_real("beta2", beta2, least=0, below=1)
        self.eps = _validation.as_real("eps", eps, above=0)

    def _move(self, parameter, gradient, count, scratch, step, mean, square):
        # mean <- beta1 mean + (1 - beta1) g, square <- beta2 square + (1 - beta2) g^2
        # parameter -= lr / (1 - beta1^t) mean / (sqrt(square / (1 - beta2^t)) + eps)
        real = parameter.dtype.type
        np.multiply(gradient, real(1 - self.beta1), out=scratch)
        mean *= real(self.beta1)
        mean += scratch
        np.multiply(gradient, gradient, out=scratch)
        scratch *= real(1 - self.beta2)
        square *= real(self.beta2)
        square += scratch
        np.multiply(square, real(1 / (1 - self.beta2**count)), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += real(self.eps)
        np.divide(mean, scratch, out=step)
        step *= real(self.learning_rate / (1 - self.beta1**count))
        parameter -= step


OPTIMIZERS = {"adam": Adam, "sgd": SGD}
