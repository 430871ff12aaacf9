"""Optimizers: in-place updates of named parameters, with a state that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from okcore import _validation
from okcore._kernels import is_finite
from okcore._learning import adam_step
from okcore._typing import FloatArray

Slots: TypeAlias = dict[str, FloatArray]


class Optimizer:
    """Base class: keeps one set of slots (arrays shaped like the parameter) per name.

    A subclass names its `slots` and defines ``_move(parameter, gradient, count, slots, new, new_slots)``, which writes
    the new parameter and the new slots; or it overrides `update`.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = _validation.as_real("learning_rate", learning_rate, above=0)
        self._slots: dict[str, Slots] = {}
        self._spare: dict[str, tuple[FloatArray, Slots]] = {}  # a parameter and slots to write the next ones into
        self._counts: dict[str, int] = {}

    def update(self, name: str, parameter: NDArray[Any], gradient: NDArray[Any]) -> None:
        """Move `parameter` against `gradient`, in place.

        Parameters
        ----------
        name : str
            Name of the parameter; selects its slots.
        parameter, gradient : ndarray
            Both of the same shape and dtype, float32 or float64.

        Raises
        ------
        FloatingPointError
            If the gradient, or what would come out, is not finite. Nothing has changed then.
        """
        self.update_all({name: (parameter, gradient)})

    def update_all(self, updates: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        """Make several updates, {name: (parameter, gradient)}, or none of them if one cannot be made."""
        if not (isinstance(updates, Mapping) and all(map(_is_pair, updates.values()))):
            raise TypeError(
                f"updates must be a dict of pairs (parameter, gradient), got {_validation.describe(updates)}"
            )
        makers = [self._test(name, *pair) for name, pair in updates.items()]
        for name, make in zip(updates, makers, strict=True):
            make()
            self._counts[name] = self._counts.get(name, 0) + 1

    def _test(self, name: str, parameter: FloatArray, gradient: FloatArray) -> Callable[[], None]:
        """Return a function that makes the update, which has been found to be finite."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {_validation.describe(name)}")
        _check_floats("parameter", parameter)
        _check_floats("gradient", gradient)
        if not parameter.flags.writeable:
            raise ValueError(f"parameter {name!r} must be writeable, got a read-only array")
        if gradient.dtype != parameter.dtype:
            raise TypeError(f"gradient must be {parameter.dtype}, got {gradient.dtype}")
        if gradient.shape != parameter.shape:
            raise ValueError(f"gradient must have shape {parameter.shape}, got {gradient.shape}")
        if not is_finite(gradient):
            raise FloatingPointError(f"gradient of {name!r} must be finite; the update was not made")
        make = self._maker(name, parameter, gradient, self._counts.get(name, 0) + 1)
        if make is None:
            raise FloatingPointError(
                f"the update of {name!r} overflows {parameter.dtype} and was not made: lower the learning rate, or clip"
            )
        return make

    def _maker(
        self, name: str, parameter: FloatArray, gradient: FloatArray, count: int
    ) -> Callable[[], None] | None:
        """Return a function that makes the update; None if what came out would not be finite."""
        if name not in self._spare:
            self._spare[name] = np.empty_like(parameter), {slot: np.empty_like(parameter) for slot in self.slots}
        slots, (new, new_slots) = self._slots_of(name, parameter), self._spare[name]
        with np.errstate(all="ignore"):
            self._move(parameter, gradient, count, slots, new, new_slots)

        def make() -> None:
            np.copyto(parameter, new)
            self._slots[name], self._spare[name] = new_slots, (new, slots)

        return make if all(map(is_finite, (new, *new_slots.values()))) else None

    def _move(
        self, parameter: FloatArray, gradient: FloatArray, count: int, slots: Slots, new: FloatArray, new_slots: Slots
    ) -> None:
        """Write the new parameter and the new slots."""
        raise NotImplementedError(f"{type(self).__name__} must define _move(...) or update(name, parameter, gradient)")

    def _slots_of(self, name: str, parameter: FloatArray) -> Slots:
        slots = self._slots.get(name)
        return {slot: np.zeros(parameter.shape, parameter.dtype) for slot in self.slots} if slots is None else slots

    def state_dict(self) -> dict[str, Any]:
        """Return copies of slots and counts."""
        state: dict[str, Any] = {"kind": type(self).__name__}
        for name, slots in self._slots.items():
            state[f"{name}.count"] = self._counts[name]
            state |= {f"{name}.{slot}": array.copy() for slot, array in slots.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], parameters: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned, for parameters given by name."""
        state = _validation.as_dict("state", state)
        if not isinstance(parameters, Mapping):
            raise TypeError(f"parameters must be a dict, got {_validation.describe(parameters)}")
        if state.get("kind") != type(self).__name__:
            raise ValueError(f"state: optimizer must be {type(self).__name__}, got {state.get('kind')!r}")
        slots: dict[str, Slots] = {}
        counts: dict[str, int] = {}
        for name, parameter in parameters.items():
            _check_floats(f"parameter {name!r}", parameter)
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
        self._slots, self._counts, self._spare = slots, counts, {}


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _check_floats(argument: str, array: object) -> None:
    """Raise for what is no array of floats."""
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{argument} must be an array of float32 or float64, got {_validation.describe(array)}")


class SGD(Optimizer):
    """Gradient descent, parameter -= learning_rate * gradient.

    Parameters
    ----------
    learning_rate : float
    """

    def _move(
        self, parameter: FloatArray, gradient: FloatArray, count: int, slots: Slots, new: FloatArray, new_slots: Slots
    ) -> None:
        np.multiply(gradient, parameter.dtype.type(self.learning_rate), out=new)
        np.subtract(parameter, new, out=new)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), with bias correction.

    Parameters
    ----------
    learning_rate : float
    beta1, beta2, eps : float
    """

    slots = ("mean", "square")

    def __init__(
        self, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = _validation.as_real("beta1", beta1, least=0, below=1)
        self.beta2 = _validation.as_real("beta2", beta2, least=0, below=1)
        self.eps = _validation.as_real("eps", eps, above=0)

    def _maker(
        self, name: str, parameter: FloatArray, gradient: FloatArray, count: int
    ) -> Callable[[], None] | None:
        # In place, after a test that computes all and writes nothing: two passes over four arrays take less than one
        # that writes three more, which are seldom in cache.
        slots = self._slots_of(name, parameter)
        flat, gradient = contiguous(parameter), contiguous(gradient)
        arguments = (
            self.beta1, self.beta2, self.eps, self.learning_rate / (1 - self.beta1**count),
            1 / (1 - self.beta2**count), gradient, flat, slots["mean"], slots["square"],
        )  # fmt: skip

        def make() -> None:
            adam_step(True, *arguments)
            if flat is not parameter:
                np.copyto(parameter, flat)
            self._slots[name] = slots

        return make if adam_step(False, *arguments) else None


def contiguous(array: FloatArray) -> FloatArray:
    """Return the array, or a copy of it that is C-contiguous and aligned."""
    return array if array.flags.c_contiguous and array.flags.aligned else array.copy()


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}
