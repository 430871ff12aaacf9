"""The online trainer: a cell, an estimator, a readout and an optimizer, one update per time step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from okcore import _validation
from okcore._kernels import is_finite
from okcore._learning import norm
from okcore._progress import progress_bar
from okcore._typing import FloatArray, Stream
from okcore.cells import Cell
from okcore.estimators import TBPTT, Estimator
from okcore.optimizers import Optimizer
from okcore.readouts import Readout
from okcore.runs import checkpoint


class OnlineTrainer:
    """Train on a stream: step, loss, gradient, update.

    Parameters
    ----------
    cell : Cell
    estimator : Estimator
        Made for `cell`.
    readout : Readout
        Of the cell's n_hidden and dtype.
    optimizer : Optimizer
    clip : float, optional
        Largest norm of the recurrent gradient; the readout's gradient is not clipped.
    update_every : int
        Steps between two updates; gradients are averaged over them.
    late_carry : bool
        With an update at every step, take `Estimator.late_gradient`: what the carry adds to the gradients of a block
        comes after its end, spread over as many steps. It costs one contraction per block, in place of one per step.
        Where losses are rare, Adam then takes larger steps: lower the learning rate.

    Examples
    --------
    >>> import okcore
    >>> task = okcore.tasks.Copy(batch_size=4, rng=0)
    >>> cell = okcore.RHN(task.n_in, 16, rng=1)
    >>> estimator = okcore.OK(cell, rank=4, block=8, batch_size=4, rng=2)
    >>> readout = okcore.SoftmaxReadout(16, task.n_out, rng=3)
    >>> trainer = okcore.OnlineTrainer(cell, estimator, readout, okcore.Adam(1e-3), clip=1.0)
    >>> losses = trainer.fit(task, steps=50, progress=False)
    >>> losses.shape
    (50,)
    """

    def __init__(
        self, cell: Cell, estimator: Estimator, readout: Readout, optimizer: Optimizer, clip: float | None = None,
        update_every: int = 1, late_carry: bool = False,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        _validation.as_instance("estimator", estimator, Estimator)
        _validation.as_instance("readout", readout, Readout)
        _validation.as_instance("optimizer", optimizer, Optimizer)
        if estimator.cell is not cell:
            raise ValueError(f"estimator must be made for this cell, got one for {estimator.cell!r}")
        if readout.n_hidden != cell.n_hidden or readout.dtype != cell.dtype:
            raise ValueError(
                f"readout must have n_hidden={cell.n_hidden} and dtype {cell.dtype}, "
                f"got n_hidden={readout.n_hidden} and dtype {readout.dtype}"
            )
        self.cell, self.estimator, self.readout, self.optimizer = cell, estimator, readout, optimizer
        self.clip = None if clip is None else _validation.as_real("clip", clip, above=0)
        self.update_every = _validation.as_int("update_every", update_every, 1)
        self.late_carry = _validation.as_bool("late_carry", late_carry)
        self.steps = 0
        self._hidden = np.empty((estimator.batch_size, cell.n_hidden), cell.dtype)
        self._gradient = np.empty_like(cell.theta)
        self._readout_gradient = np.zeros_like(readout.weights)

    def partial_fit(self, x: ArrayLike, y: ArrayLike, reset: ArrayLike | None = None) -> float:
        """Take one time step, and one update every `update_every` steps.

        Parameters
        ----------
        x : (B, n_in) floats or (B,) integers
        y : (B,) integers, or (B, n_out) floats for a LinearReadout
        reset : (B,) bool, optional
            Lanes that start a new sequence at this step.

        Returns
        -------
        float
            Loss of this step in bits, mean over lanes, before the update.

        Raises
        ------
        FloatingPointError
            If the loss, a gradient or an update is not finite. No parameter has changed then; the step has been taken,
            and its gradient is dropped.
        """
        y = self.readout.check_targets(y, self.estimator.batch_size)
        h = self._step(x, reset)
        self.steps += 1
        try:
            loss, dh, readout_gradient = self._loss(h, y)
            if not math.isfinite(loss):
                raise FloatingPointError("the loss is not finite")
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} at step {self.steps}: lower the learning rate, or clip") from None
        self._learn(dh, readout_gradient)
        return loss

    def _step(self, x: ArrayLike, reset: ArrayLike | None) -> FloatArray:
        return self.estimator.step(x, reset, out=self._hidden)

    def _learn(self, dh: FloatArray, readout_gradient: FloatArray) -> None:
        """Take the gradient of this step's loss, and update if it is time."""
        if self.update_every == 1:
            gradient = self.estimator.late_gradient if self.late_carry else self.estimator.gradient
            gradient(dh, out=self._gradient)
            self._update(readout_gradient)
        else:
            self.estimator.accumulate(dh)
            self._readout_gradient += readout_gradient
            if self.steps % self.update_every == 0:
                scale = self.cell.dtype.type(1 / self.update_every)
                try:
                    self.estimator.flush(out=self._gradient)
                    self._gradient *= scale
                    self._readout_gradient *= scale
                    self._update(self._readout_gradient)
                finally:  # a gradient that was refused is dropped: the next update starts afresh
                    self._readout_gradient[...] = 0

    def _loss(self, h: FloatArray, y: NDArray[Any]) -> tuple[float, FloatArray, FloatArray]:
        return self.readout.loss(h, y)

    def _update(self, readout_gradient: FloatArray) -> None:
        if self.clip is not None:
            length = norm(self._gradient)
            if length > self.clip:
                self._gradient *= self.cell.dtype.type(self.clip / length)
        updates = {
            "theta": (self.cell.theta, self._gradient), "readout": (self.readout.weights, readout_gradient)
        }
        try:
            if type(self.optimizer).update is Optimizer.update:
                self.optimizer.update_all(updates)  # both, or neither
                return
            for name, (_, gradient) in updates.items():
                if not is_finite(gradient):
                    raise FloatingPointError(f"gradient of {name!r} must be finite; no update was made")
            for name, (parameter, gradient) in updates.items():
                self.optimizer.update(name, parameter, gradient)
        except FloatingPointError as error:
            raise FloatingPointError(f"at step {self.steps}: {error}") from None

    def predict(self, x: ArrayLike, reset: ArrayLike | None = None) -> FloatArray:
        """Take one time step without learning and return the readout's prediction, (B, n_out)."""
        return self.readout.predict(self._step(x, reset))

    def fit(
        self, task: Stream, steps: int, progress: bool | None = None,
        callback: Callable[[OnlineTrainer, float], object] | None = None,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Train on a task for a number of steps.

        Parameters
        ----------
        task : iterator of (x, y, reset)
            With ``observe(loss_bits)``, called after each step.
        steps : int
        progress : bool, optional
            Show a progress bar; by default on a terminal and in a notebook.
        callback : callable, optional
            Called as ``callback(trainer, loss_bits)`` after each step; training ends early when it returns True.

        Returns
        -------
        losses : (steps taken,) array
            In bits.

        Notes
        -----
        BLAS runs on one thread during `fit`; the estimator's n_threads spreads the lanes over threads.
        """
        steps = _validation.as_int("steps", steps, 0)
        if not (hasattr(task, "__next__") and hasattr(task, "observe")):
            raise TypeError(f"task must be an iterator with a method observe, got {_validation.describe(task)}")
        if not (callback is None or callable(callback)):
            raise TypeError(f"callback must be callable, got {_validation.describe(callback)}")
        losses = np.empty(steps)
        taken = 0
        with threadpool_limits(1, user_api="blas"), progress_bar(progress, total=steps, unit="step") as bar:
            while taken < steps:
                x, y, reset = next(task)
                losses[taken] = loss = self.partial_fit(x, y, reset)
                task.observe(loss)
                taken += 1
                bar.update()
                if callback is not None and callback(self, loss):
                    break
        return losses[:taken]

    def evaluate_bits(self, symbols: ArrayLike, chunk: int = 1000) -> float:
        """Return the mean cross-entropy in bits of a sequence of symbols, in one pass without resets.

        Parameters
        ----------
        symbols : (T,) integers
            Each is predicted from those before it, except the first.
        chunk : int
            Steps per call of the readout.
        """
        if not hasattr(self.readout, "bits"):
            raise TypeError(f"readout must have a method bits, like SoftmaxReadout, got {type(self.readout).__name__}")
        symbols = _validation.as_array("symbols", symbols)
        if symbols.ndim != 1 or len(symbols) < 2:
            raise ValueError(f"symbols must have shape (T,) with T at least 2, got {symbols.shape}")
        symbols = _validation.as_symbols("symbols", symbols, symbols.shape, min(self.cell.n_in, self.readout.n_out))
        chunk = _validation.as_int("chunk", chunk, 1)
        reader = TBPTT(self.cell, horizon=1)
        total = 0.0
        for start in range(0, len(symbols) - 1, chunk):
            stop = min(start + chunk, len(symbols) - 1)
            hidden, _ = reader.run(symbols[start:stop, None])
            total += float(self.readout.bits(hidden[:, 0], symbols[start + 1 : stop + 1]).sum(dtype=np.float64))
        return total / (len(symbols) - 1)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return groups of arrays and plain scalars from which training resumes with bit-identical results."""
        return {
            "trainer": {
                "steps": self.steps,
                "theta": self.cell.theta.copy(),
                "weights": self.readout.weights.copy(),
                "readout": type(self.readout).__name__,
                "readout_gradient": self._readout_gradient.copy(),
            },
            "optimizer": self.optimizer.state_dict(),
            "estimator": self.estimator.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        _validation.as_dict("state", state)
        if missing := sorted({"trainer", "optimizer", "estimator"} - set(state)):
            raise ValueError(f"state must be of an OnlineTrainer, got one without {', '.join(missing)}")
        own = _validation.as_dict("trainer", state["trainer"])
        if own.get("readout") != type(self.readout).__name__:
            raise ValueError(f"readout must be {type(self.readout).__name__}, got {own.get('readout')}")
        arrays = {"theta": self.cell.theta, "weights": self.readout.weights, "readout_gradient": self._readout_gradient}
        values = {
            name: _validation.as_floats(name, own.get(name), array.shape, array.dtype, finite=True)
            for name, array in arrays.items()
        }
        parameters = {"theta": self.cell.theta, "readout": self.readout.weights}
        steps = _validation.as_int("steps", own.get("steps"), 0, 2**63 - 1)
        before = self.estimator.state_dict()
        self.estimator.load_state_dict(state["estimator"])
        try:
            self.optimizer.load_state_dict(state["optimizer"], parameters)
        except (ValueError, TypeError):
            self.estimator.load_state_dict(before)
            raise
        for name, array in arrays.items():
            array[...] = values[name]
        self.steps = steps

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint (.npz without pickle) atomically."""
        checkpoint.write(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Load a checkpoint; one that is damaged or does not fit raises ValueError and changes nothing."""
        self.load_state_dict(checkpoint.read(path))
