"""Series of numbers: predict the next value."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from okcore import _validation
from okcore._typing import FloatArray, RNGLike
from okcore.estimators import TBPTT
from okcore.readouts import LinearReadout
from okcore.tasks._base import Task, task

if TYPE_CHECKING:
    from okcore.trainer import OnlineTrainer


def mackey_glass(length: int = 10_000, delay: int = 17, spacing: int = 10) -> NDArray[np.float64]:
    """Return the Mackey-Glass series x' = 0.2 x(t - delay) / (1 + x(t - delay)^10) - 0.1 x, a chaotic one.

    Parameters
    ----------
    length : int
        Values, one per unit of time.
    delay : int
        In units of time; chaotic from 17.
    spacing : int
        Runge-Kutta steps per unit of time.

    Returns
    -------
    (length,) float64 array
        After 1,000 units of time from the constant history 1.2.

    References
    ----------
    Mackey, M. C. & Glass, L. (1977). Oscillation and chaos in physiological control systems. Science 197.
    """
    length = _validation.as_int("length", length, 1)
    delay = _validation.as_int("delay", delay, 1)
    spacing = _validation.as_int("spacing", spacing, 1)
    h, lag, warm = 1 / spacing, delay * spacing, 1000 * spacing

    def slope(x: float, delayed: float) -> float:
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

    values = [1.2] * (lag + 1)
    for _ in range(warm + length * spacing):
        x, start, end = values[-1], values[-1 - lag], values[-lag]
        middle = (start + end) / 2
        k1 = slope(x, start)
        k2 = slope(x + h / 2 * k1, middle)
        k3 = slope(x + h / 2 * k2, middle)
        k4 = slope(x + h * k3, end)
        values.append(x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return np.array(values[-length * spacing :: spacing])


def read_series(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Return the numbers of a text file, one per line; "#" starts a comment."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"name must be mackey-glass or an existing file, got {str(path)!r}")
    try:
        return np.loadtxt(path, ndmin=1, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must hold a number per line: {error}") from None


@task("series")
class Series(Task):
    """Predict the next value of a series.

    Values are shifted and scaled to mean 0 and variance 1 of the training part. Lane b starts at value
    floor(b (N - 1) / B) of N and wraps around at the end, where it is reset.

    Parameters
    ----------
    values : (T,) floats
    batch_size : int
    dtype : {float32, float64}
        Of the cell.

    Attributes
    ----------
    train, valid : arrays of `dtype`
        The first 90 % and the last 10 % of the values, scaled.
    mean, scale : float
        ``values = mean + scale * train``.
    """

    n_in = n_out = 1
    readout = LinearReadout
    measure, words, larger_is_better = "valid_nrmse", "normalised error of the validation part", False
    evaluations = 10
    defaults = {"hidden": 32, "rank": 8, "block": 16, "batch": 16, "lr": 1e-3, "clip": 1.0, "steps": 20_000}
    options = {
        "name": {
            "nargs": "?", "default": "mackey-glass", "metavar": "mackey-glass|FILE",
            "help": "a chaotic series made on the spot (default), or a text file with a number per line",
        },
    }  # fmt: skip
    examples = """
The network predicts the next value of a series. Its measure is the root of the mean squared error on the last tenth of
the series, divided by the standard deviation: 1 is no better than guessing the mean.

examples:
  okcore train series
  okcore train series sunspots.txt --hidden 64 --cell lstm
"""

    VALID_FRACTION = 0.1

    def __init__(self, values: ArrayLike, batch_size: int, dtype: DTypeLike = np.float32) -> None:
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        dtype = _validation.as_dtype("dtype", dtype)
        values = _validation.as_array("values", values)
        if values.ndim != 1 or len(values) < 20 or values.dtype.kind not in "iuf":
            raise ValueError(f"values must be at least 20 numbers, got {_validation.describe(values)}")
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            _validation.raise_not_finite("values", values)
        split = len(values) - max(2, int(len(values) * self.VALID_FRACTION))
        with np.errstate(over="ignore", invalid="ignore"):
            self.mean, self.scale = float(values[:split].mean()), float(values[:split].std())
            if self.scale == 0:
                raise ValueError(f"values must vary, got {values[0]} only")
            scaled = ((values - self.mean) / self.scale).astype(dtype)
        if not (np.isfinite(self.scale) and np.isfinite(scaled).all()):
            raise ValueError(f"values must have a mean and a variance in {dtype}, got up to {np.abs(values).max()}")
        self.train, self.valid = scaled[:split], scaled[split:]
        self._checksum = zlib.crc32(scaled.tobytes())
        self._position = np.arange(self.batch_size) * (split - 1) // self.batch_size
        self._started = False

    @staticmethod
    def resolve(options: dict[str, Any]) -> None:
        """Make a path absolute, so that a run can be resumed from anywhere."""
        if options["name"] != "mackey-glass":
            options["name"] = str(Path(options["name"]).resolve())

    @classmethod
    def from_options(cls, options: dict[str, Any], rng: RNGLike | None) -> Self:
        """Make the task; it draws nothing."""
        values = mackey_glass() if options["name"] == "mackey-glass" else read_series(options["name"])
        return cls(values, options["batch"], options["dtype"])

    def __next__(self) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        here = self._position
        reset = (here == 0) | (not self._started)
        self._position, self._started = (here + 1) % (len(self.train) - 1), True
        return self.train[here, None], self.train[here + 1, None], reset

    def evaluate(self, trainer: OnlineTrainer) -> float:
        """Return the normalised error of the validation part, read once after the last 100 values of the other."""
        known = np.concatenate([self.train[-100:], self.valid])
        hidden, _ = TBPTT(trainer.cell, horizon=1).run(known[:-1, None, None])
        error = trainer.readout.predict(hidden[-len(self.valid) :, 0])[:, 0] - self.valid
        return float(np.sqrt(np.mean(np.square(error, dtype=np.float64)) / np.var(self.valid, dtype=np.float64)))

    def summary(self, value: float) -> str:
        """Return what a normalised error means."""
        return f"the error of the next value is {value:.4f} of the standard deviation (guessing the mean: 1)."

    def state_dict(self) -> dict[str, Any]:
        """Return each lane's position in the series."""
        return {
            "kind": "Series",
            "batch_size": self.batch_size,
            "checksum": self._checksum,
            "started": int(self._started),
            "position": self._position.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        mine = self.state_dict()
        state = _validation.as_dict("state", state, mine)
        for name in ("kind", "batch_size", "checksum"):
            if state[name] != mine[name]:
                raise ValueError(f"state is of another series: {name} must be {mine[name]!r}, got {state[name]!r}")
        started = _validation.as_int("started", state["started"], 0, 1)
        position = _validation.as_symbols("position", state["position"], (self.batch_size,), len(self.train) - 1)
        self._position, self._started = position.astype(np.int64), bool(started)
