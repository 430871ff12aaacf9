"""Checks of arguments: every error names the argument, what was expected and what was passed."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from okcore._kernels import is_finite

T = TypeVar("T")


def describe(value: object) -> str:
    """Describe a value in an error message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {value!r}"


def as_int(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """Return `value` as an int from `least` to `most`; sizes are C ints."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {describe(value)}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number


def as_real(
    name: str, value: Any, least: float | None = None, above: float | None = None, below: float | None = None
) -> float:
    """Return `value` as a finite float, at least `least`, greater than `above`, smaller than `below`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (float, numbers.Real)):
        raise TypeError(f"{name} must be a real number, got {describe(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction beyond float64
        raise ValueError(f"{name} must be finite in float64, got {describe(value)}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if above is not None and number <= above:
        raise ValueError(f"{name} must be greater than {above}, got {number}")
    if below is not None and number >= below:
        raise ValueError(f"{name} must be smaller than {below}, got {number}")
    return number


def as_bool(name: str, value: Any) -> bool:
    """Return `value` as a bool; other values have no truth here."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, got {describe(value)}")
    return bool(value)


def as_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def as_instance(name: str, value: Any, kind: type[T]) -> T:
    """Return `value` if it is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be an okcore.{kind.__name__}, got {describe(value)}")
    return value


def as_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Return float32 or float64 as a NumPy dtype."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {dtype!r}")
    return found


def as_dict(name: str, value: Any, keys: Iterable[str] | None = None, more: bool = False) -> dict[str, Any]:
    """Return a mapping as a dict, with exactly these keys if they are given, or with `more` at least these.

    Arrays without axes become scalars: .npz files turn scalars into such arrays.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, got {describe(value)}")
    value = {key: v.item() if isinstance(v, np.ndarray) and v.ndim == 0 else v for key, v in value.items()}
    if keys is not None:
        if missing := sorted(set(keys) - set(value)):
            raise ValueError(f"{name} must hold {', '.join(missing)}, got one without")
        if not more and (unknown := sorted(map(str, set(value) - set(keys)))):
            raise ValueError(f"{name} must hold nothing but {', '.join(keys)}, got also {', '.join(unknown)}")
    return value


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as an array of any shape and dtype; refuse nested lists of unequal lengths."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise TypeError(f"{name} must be an array, got {describe(value)}") from None


def as_floats(
    name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], finite: bool = False
) -> NDArray[Any]:
    """Return `value` as a contiguous, aligned array of exactly this shape and dtype, never cast."""
    array = as_array(name, value)
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} of shape {shape}, got {describe(array)}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if finite and not is_finite(array):
        raise_not_finite(name, array)
    return np.require(array, dtype=dtype, requirements=["C", "A"])


def as_inputs(
    name: str, value: Any, batch_size: int, n_in: int, dtype: np.dtype[Any], many: bool
) -> NDArray[Any]:
    """Return inputs of a step (or, if `many`, of T steps) as floats of `dtype` or as int64 symbols."""
    array = as_array(name, value)
    lead = array.shape[:1] if many else ()
    T = ("T",) if many else ()
    wanted = (
        f"{dtype} of shape {(*T, batch_size, n_in)} or integers of shape {(*T, batch_size)}".replace("'", "")
    )
    if array.dtype.kind in "iu":
        if array.ndim == 0 or array.shape != (*lead, batch_size):
            raise ValueError(f"{name} must be {wanted}, got {describe(array)}")
        array = as_symbols(name, array, array.shape, n_in)
        return np.require(array, dtype=np.longlong, requirements=["C", "A"])
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {wanted}, got {describe(array)}")
    if array.ndim == 0 or array.shape != (*lead, batch_size, n_in):
        raise ValueError(f"{name} must be {wanted}, got {describe(array)}")
    return np.require(array, dtype=dtype, requirements=["C", "A"])


def as_mask(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a contiguous array of bools of this shape."""
    array = as_array(name, value)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be bool of shape {shape}, got {describe(array)}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array)


def as_symbols(name: str, value: Any, shape: tuple[int, ...], n_symbols: int) -> NDArray[Any]:
    """Return `value` as integers from 0 to n_symbols - 1 of this shape."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers of shape {shape}, got {describe(array)}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= n_symbols):
        bad = int(array.min()) if array.min() < 0 else int(array.max())
        raise ValueError(f"{name} must hold symbols from 0 to {n_symbols - 1}, got {bad}")
    return array


def raise_not_finite(name: str, array: NDArray[Any]) -> NoReturn:
    """Raise for an array with NaN or Inf, naming the first position."""
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    raise ValueError(f"{name} must be finite, got {array[where]} at {where}")


def check_output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise for an `out` that cannot be written to."""
    wanted = f"a writeable C-contiguous {dtype} array of shape {shape}"
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise TypeError(f"out must be {wanted}, got {describe(out)}")
    if out.shape != shape:
        raise ValueError(f"out must be {wanted}, got shape {out.shape}")
    if not out.flags.carray:
        raise ValueError(f"out must be {wanted}, got one that is read-only, strided or not aligned")
