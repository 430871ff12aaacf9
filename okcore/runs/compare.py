"""Comparison: train with one estimator while others shadow it, and measure their gradients at every step."""

import time

import numpy as np

from okcore import _validation
from okcore._kernels import is_finite
from okcore.estimators import ESTIMATORS
from okcore.runs import plot
from okcore.runs.load import load_runs
from okcore.runs.options import make_trainer, shadow_options
from okcore.runs.run import Run
from okcore.trainer import OnlineTrainer

EXAMPLES = """\
Train with one estimator while others shadow it: at every step they see the same input, parameters and loss, and their
gradients are compared. The reference is exact RTRL if it is one of them, else the gradient that trains.

The folder is that of a run. Each line of its metrics.jsonl also has cosine, relative_error and variance, per estimator.
A table and comparison.svg come at the end.

examples:
  okcore compare copy --with rtrl --with kf-rtrl --with "ok rank=4 block=1 tolerance=0"
  okcore compare text python-docs --estimator rtrl --with ok --with uoro --steps 2000
"""

QUANTITIES = "cosine", "relative_error", "variance"
STREAM = 4             # of the seed's children, the first that training leaves free


def add_arguments(parser):
    """Add what ``okcore compare`` has beside the options of ``okcore train``."""
    parser.add_argument(
        "--with", action="append", required=True, metavar="SPEC",
        help='an estimator that shadows the one that trains, "kf-rtrl" or "ok rank=4 block=1"; options that are not '
        "given are those of training; can be repeated",
    )  # fmt: skip


def name_of(estimator, options):
    """Return the name of the estimator that was made from these options, with its own options."""
    taken = {option: getattr(estimator, argument) for option, (argument, _) in estimator.options.items()}
    return " ".join([options["estimator"], *(f"{name}={value}" for name, value in taken.items() if value is not None)])


class ComparingTrainer(OnlineTrainer):
    """An online trainer that compares its gradients with those of other estimators, its shadows.

    Parameters
    ----------
    trainer : OnlineTrainer
        Whose cell, estimator, readout and optimizer are used.
    name : str
        Of its estimator.
    shadows : dict of Estimator
        By name; made for the same cell, with as many lanes.

    Attributes
    ----------
    reference : str
        The name of the first exact estimator, the trainer's own first, or else of the trainer's own.
    compared : tuple of str
        The names of the others.

    Notes
    -----
    With g the reference's gradient of a step's loss, summed over lanes and not clipped, and e that of another:
    ``cosine`` is <e, g> / (|e| |g|), 0 where e is zero; ``relative_error`` is |e - g| / |g|; ``variance`` is
    |e - g|^2 / |g|^2, which includes the squared bias of an estimator that has one. Each is averaged over the steps
    since the last line of metrics; steps where g is zero are left out.

    Per step, the cost is that of every estimator's step and gradient. Training is bit-identical to that of `trainer`;
    but where influences that overflow are forgotten, to measure a gradient may forget one before training would.
    """

    def __init__(self, trainer, name, shadows):
        super().__init__(
            trainer.cell, trainer.estimator, trainer.readout, trainer.optimizer, trainer.clip, trainer.update_every,
            trainer.late_carry,
        )  # fmt: skip
        self.estimators = {name: self.estimator} | shadows
        exact = [name for name, estimator in self.estimators.items() if estimator.quality == "exact"]
        self.reference = [*exact, name][0]
        self.compared = tuple(name for name in self.estimators if name != self.reference)
        self._hidden_of_shadows = np.empty_like(self._hidden)
        self._gradients = {name: np.empty_like(self.cell.theta) for name in self.estimators}
        self._clear()

    def _clear(self):
        """Start the averages afresh."""
        self._sums = np.zeros((len(QUANTITIES), len(self.compared)))
        self._count = 0                                          # steps in the sums
        self._seconds = dict.fromkeys(self.estimators, 0.0)
        self._taken = 0                                          # steps in the seconds

    def _call(self, name, method, *arguments, **more):
        """Call an estimator's method, timed; an error says whose it is."""
        start = time.perf_counter()
        try:
            return method(*arguments, **more)
        except FloatingPointError as error:
            raise FloatingPointError(f"{name}: {error}") from None
        finally:
            self._seconds[name] += time.perf_counter() - start

    def _step(self, x, reset):
        own, *shadows = self.estimators
        for name in shadows:
            self._call(name, self.estimators[name].step, x, reset, out=self._hidden_of_shadows)
        return self._call(own, super()._step, x, reset)

    def _learn(self, dh, readout_gradient):
        for name, estimator in self.estimators.items():
            gradient = self._call(name, estimator.gradient, dh, out=self._gradients[name])
            if not is_finite(gradient):
                raise FloatingPointError(f"{name}: the gradient is not finite at step {self.steps}")
        self._taken += 1
        self._compare()
        super()._learn(dh, readout_gradient)

    def _compare(self):
        """Add a step to the sums."""
        reference = self._gradients[self.reference].astype(np.float64)
        size = np.linalg.norm(reference)
        if size == 0:
            return
        self._count += 1
        for column, name in enumerate(self.compared):
            gradient = self._gradients[name].astype(np.float64)
            norm, error = np.linalg.norm(gradient), np.linalg.norm(gradient - reference) / size
            cosine = np.vdot(gradient, reference) / (norm * size) if norm else 0.0
            self._sums[:, column] += cosine, error, error**2

    def take_averages(self):
        """Return {quantity: {estimator: mean over the steps since the last call}}, None where there are none.

        Beside the three quantities, ``step_ms`` is the time of a step and its gradient in milliseconds.
        """
        means = (self._sums / self._count).tolist() if self._count else [[None] * len(self.compared)] * len(self._sums)
        found = {what: dict(zip(self.compared, row, strict=True)) for what, row in zip(QUANTITIES, means, strict=True)}
        found["step_ms"] = {name: 1e3 * total / max(1, self._taken) for name, total in self._seconds.items()}
        self._clear()
        return found

    def state_dict(self):
        """Return what a trainer does, the states of the shadows, and the averages so far."""
        own = {"sums": self._sums.copy(), "count": self._count, "taken": self._taken}
        own["seconds"] = np.array(list(self._seconds.values()))
        shadows = [estimator.state_dict() for estimator in self.estimators.values()][1:]
        return super().state_dict() | {"comparison": own} | {f"shadow{i}": state for i, state in enumerate(shadows)}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned."""
        before = self.state_dict()
        mine, state = before["comparison"], _validation.as_dict("state", state)
        own = _validation.as_dict("comparison", state.get("comparison"), mine)
        sums, seconds = (
            _validation.as_floats(name, own[name], mine[name].shape, np.dtype(np.float64), finite=True)
            for name in ("sums", "seconds")
        )
        count, taken = (_validation.as_int(name, own[name], 0) for name in ("count", "taken"))
        try:
            self._load_estimators(state)
        except (ValueError, TypeError):
            self._load_estimators(before)
            raise
        self._sums, self._count, self._taken = sums.copy(), count, taken
        self._seconds = dict(zip(self.estimators, seconds.tolist(), strict=True))

    def _load_estimators(self, state):
        super().load_state_dict(state)
        for number, (name, estimator) in enumerate(list(self.estimators.items())[1:]):
            estimator.load_state_dict(state.get(f"shadow{number}"))
            if estimator.steps != self.estimator.steps:
                raise ValueError(f"state of {name} must be at step {self.estimator.steps}, got {estimator.steps}")


class Comparison(Run):
    """A run whose trainer has shadows: ``with`` among the options names them."""

    @staticmethod
    def make_trainer(options, ranks):
        """Return (trainer, task)."""
        if ranks.size > 1:
            raise ValueError(f"a comparison must run in one process, got {ranks.size} of MPI")
        trainer, task = make_trainer(options)
        own, shadows = name_of(trainer.estimator, options), {}
        for number, spec in enumerate(options["with"]):
            rng = np.random.SeedSequence(options["seed"], spawn_key=(STREAM, number))
            theirs = shadow_options(spec, options)
            if spec == own or spec in shadows:
                raise ValueError(f"--with must name different estimators, got {spec!r} twice ({own!r} trains)")
            shadows[spec] = ESTIMATORS[theirs["estimator"]].from_options(trainer.cell, theirs, rng)
        return ComparingTrainer(trainer, own, shadows), task

    def _overflows(self):
        return sum(estimator.overflows for estimator in self.trainer.estimators.values())

    def _more_metrics(self):
        if self.options["on_overflow"] != "forget":
            return self.trainer.take_averages()
        counts = {name: estimator.overflows for name, estimator in self.trainer.estimators.items()}
        return self.trainer.take_averages() | {"overflows": counts}

    def _can_resume(self):
        return super()._can_resume() and len({estimator.steps for estimator in self.trainer.estimators.values()}) == 1

    def introduction(self):
        """Return what is trained, and what shadows it."""
        shadows = list(self.trainer.estimators.items())[1:]
        return "\n".join([super().introduction(), *(f"  with {name}: {estimator!r}" for name, estimator in shadows)])

    def summary(self):
        """Return what the network has learned and a table of the gradients; draw them in the run's folder."""
        runs = load_runs(self.folder)
        path = self.folder / "comparison.svg"
        try:
            plot.draw(plot.lines_of(runs), path)
            drawn = f"Figure: {path}"
        except (ImportError, ValueError) as error:
            drawn = f"No figure: {error}"
        return "\n".join([super().summary(), "", *self._table(runs[0].metrics), "", drawn])

    def _table(self, metrics):
        """Return the lines of a table: means over all steps."""
        trainer = self.trainer
        kind = "exact" if trainer.estimators[trainer.reference].quality == "exact" else "not exact: it is what trains"
        weights = np.diff(metrics["step"], prepend=0)

        def mean(what, name):
            values = metrics[f"{what}/{name}"]
            there = ~np.isnan(values)
            return np.average(values[there], weights=weights[there]) if there.any() else np.nan

        rows = [("", "cosine", "relative error", "variance", "ms per step and gradient")]
        for name in trainer.estimators:
            numbers = [f"{mean(what, name):.4g}" for what in QUANTITIES] if name != trainer.reference else ["", "", ""]
            rows.append((name, *numbers, f"{mean('step_ms', name):.3g}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"Gradients at every step against those of {trainer.reference} ({kind}):"
        for row in rows:
            name, *numbers = (text.rjust(width) for text, width in zip(row, widths, strict=True))
            yield "  ".join(["", row[0].ljust(widths[0]), *numbers])
