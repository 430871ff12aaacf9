"""What a trainer and a run expect of a task, and the register of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from numpy.typing import NDArray

from okcore._typing import RNGLike
from okcore.readouts import Readout, SoftmaxReadout

if TYPE_CHECKING:
    from okcore.trainer import OnlineTrainer

# By the name on the command line. Its commands and help, and what a run reports, follow it.
TASKS: dict[str, type[Task]] = {}

T = TypeVar("T", bound=type["Task"])


def task(name: str) -> Callable[[T], T]:
    """Register a task under its name on the command line."""

    def register(cls: T) -> T:
        TASKS[name] = cls
        return cls

    return register


class Task:
    """Base class: an endless iterator of ``(x, y, reset)``, each with the lane as first axis.

    A subclass sets ``n_in``, ``n_out`` and ``batch_size`` and defines ``__next__``. It may define `observe` to
    receive each loss, and `state_dict` and `load_state_dict` so that training can be resumed. The rest is for tasks of
    the command line, registered by ``@task(name)``.
    """

    n_in: int
    n_out: int
    batch_size: int
    readout: type[Readout] = SoftmaxReadout

    # What a run reports beside the loss: its name in metrics.jsonl, and in words; its unit if the words leave it open;
    # whether a larger value is better; how many times per run it is evaluated (None: with each line of metrics).
    measure: str
    words: str
    unit: str | None = None
    larger_is_better: bool = True
    evaluations: int | None = None

    # The defaults of a run's options, and those of --preset paper
    defaults: dict[str, Any] = {}
    paper: dict[str, Any] | None = None
    # The task's own options: {name: arguments of argparse's add_argument}; a name without dashes is an argument
    options: dict[str, dict[str, Any]] = {}
    examples: str = ""
    # Hints after a run: (command, meaning); {folder} is the run's folder
    next_steps: tuple[tuple[str, str], ...] = (("train copy", "a task where long memory matters"),)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        raise NotImplementedError(f"{type(self).__name__} must define __next__")

    def observe(self, loss_bits: float) -> None:
        """Receive the loss of the last step in bits, averaged over lanes."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream as arrays and plain scalars."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""

    @staticmethod
    def resolve(options: dict[str, Any]) -> None:
        """Complete the task's own options, in place, before a run starts."""

    @classmethod
    def from_options(cls, options: dict[str, Any], rng: RNGLike | None) -> Self:
        """Make the task from the options of a run: ``batch``, ``dtype`` and its own."""
        make: Callable[..., Self] = cls
        return make(options["batch"], rng=rng)

    def description(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the task, for programs that read a run without its data."""
        return {}

    def evaluate(self, trainer: OnlineTrainer) -> float:
        """Return the measure of what the trainer has learned."""
        measured: float = getattr(self, self.measure)
        return measured

    def summary(self, value: float) -> str:
        """Return what a measure of `value` means, for a newcomer: it follows "After 1,000 steps (7 s) "."""
        return f"the {self.words} is {value:.4g}."
