"""Remember four bits over a delay that is given, or that grows with what has been learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from okcore import _validation
from okcore._random import as_generator, as_states, get_states, set_states
from okcore._typing import RNGLike
from okcore.tasks._base import Task, task

if TYPE_CHECKING:
    from okcore.trainer import OnlineTrainer

BLANK, CUE = 2, 3
BITS = 4


def grown(delay: int) -> int:
    """Return the next delay of the curriculum: an eighth longer, at least by one."""
    return delay + max(1, delay // 8)


@task("delay")
class Delay(Task):
    """Remember four bits over a delay.

    Symbols are the bits 0 and 1, blank (2) and, for inputs only, cue (3). A sequence with a delay of D has D + 8 steps:
    inputs are the four bits, D blanks and four cues; targets are D + 4 blanks and the four bits. Each lane starts its
    next sequence at once, with a reset.

    If no delay is given, D is drawn for each sequence uniformly from the upper quarter of 1 .. `longest`. When a lane
    needs a new sequence while the running loss is below 0.15 bits, `longest` grows by an eighth, at least by one.

    Parameters
    ----------
    batch_size : int
    rng : int, SeedSequence, Generator or None
    delay : int, optional
        The delay of every sequence; by default it grows from 1.

    Attributes
    ----------
    longest : int
        The longest delay drawn at present; a run reports it.
    running_loss : float
        Moving average, over about 200 recalled bits, of the loss in bits per recalled bit; 1 at the start, 0.3 whenever
        the delay grows.
    """

    n_in, n_out = 4, 3
    measure, words, unit = "delay", "delay", "steps"
    defaults = {
        "hidden": 32, "rank": 16, "block": 16, "batch": 16, "lr": 1e-3, "clip": 1.0, "steps": 100_000, "init": "uniform"
    }  # fmt: skip
    options = {
        "--delay": {"type": int, "metavar": "D", "help": "blanks to remember over (default: they grow from 1)"},
    }
    examples = """
The network reads four random bits, then blanks, and must name the bits when it is asked. The number of blanks, the
delay, grows by an eighth whenever it does well; the run reports it.

examples:
  okcore train delay
  okcore train delay --estimator tbptt --block 25        what truncation to 25 steps bridges
  okcore train delay --delay 100 --hidden 64
"""

    THRESHOLD, RESTART, DECAY = 0.15, 0.3, 0.995  # DECAY per recalled bit

    def __init__(self, batch_size: int, rng: RNGLike | None = None, delay: int | None = None) -> None:
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        self.delay = None if delay is None else _validation.as_int("delay", delay, 1)
        self.longest = self.delay or 1
        self.running_loss = 1.0
        # Always PCG64, whatever `rng` is, so that a checkpoint can hold the stream's position.
        self._generator = np.random.Generator(np.random.PCG64(as_generator(rng).integers(2**63)))
        self._bits = np.zeros((self.batch_size, BITS), np.int64)
        self._left = np.zeros(self.batch_size, np.int64)     # steps left in each lane's sequence
        self._delays = np.zeros(self.batch_size, np.int64)
        self._recalled = 0                                   # bits recalled at the last step, over all lanes

    @classmethod
    def from_options(cls, options: dict[str, Any], rng: RNGLike | None) -> Self:
        """Make the task from ``batch`` and ``delay``."""
        return cls(options["batch"], rng=rng, delay=options["delay"])

    def _start(self, lane: np.intp) -> None:
        """Give a lane its next sequence."""
        if self.delay is None and self.running_loss < self.THRESHOLD:
            self.longest = grown(self.longest)
            self.running_loss = self.RESTART
        least = self.longest if self.delay is not None else self.longest - self.longest // 4
        self._delays[lane] = self._generator.integers(least, self.longest, endpoint=True)
        self._bits[lane] = self._generator.integers(2, size=BITS)
        self._left[lane] = self._delays[lane] + 2 * BITS

    def __next__(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        reset = self._left == 0
        if reset.any():
            for lane in np.flatnonzero(reset):
                self._start(lane)
        x = np.full(self.batch_size, BLANK)
        y = np.full(self.batch_size, BLANK)
        place = self._delays + 2 * BITS - self._left
        if place.min() < BITS:
            lanes = np.flatnonzero(place < BITS)
            x[lanes] = self._bits[lanes, place[lanes]]
        self._recalled = 0
        if self._left.min() <= BITS:
            lanes = np.flatnonzero(self._left <= BITS)
            x[lanes] = CUE
            y[lanes] = self._bits[lanes, BITS - self._left[lanes]]
            self._recalled = len(lanes)
        self._left -= 1
        return x, y, reset

    def observe(self, loss_bits: float) -> None:
        """Update the running loss, on which the curriculum depends: at steps that recall, all loss is the bits'."""
        loss_bits = _validation.as_real("loss_bits", loss_bits)
        if self._recalled:
            kept = self.DECAY**self._recalled
            weight = (1 - kept) * self.batch_size / self._recalled  # of a loss over all lanes, into one per bit
            running_loss = kept * self.running_loss + weight * loss_bits
            self.running_loss = _validation.as_real("running_loss with this loss", running_loss)

    @property
    def mastered(self) -> int:
        """The last delay that was learned before it grew to `longest`; 0 if it never grew."""
        mastered, after = 0, 1
        while after < self.longest:
            mastered, after = after, grown(after)
        return mastered

    def evaluate(self, trainer: OnlineTrainer) -> float:
        """Return the longest delay."""
        return self.longest

    def summary(self, value: float) -> str:
        """Return what a delay means."""
        if self.delay is not None:
            return f"{self.running_loss:.3f} bits are lost per bit recalled after {value:,} steps (guessing loses 1)."
        if value == 1:
            return "the network does not yet remember four bits over a single step."
        return f"the network remembers four bits over {self.mastered:,} steps and is learning {value:,}."

    def state_dict(self) -> dict[str, Any]:
        """Return the curriculum, the random stream, and each lane's sequence and position."""
        return {
            "kind": "Delay",
            "batch_size": self.batch_size,
            "delay": self.delay or 0,
            "longest": self.longest,
            "running_loss": self.running_loss,
            "rng": get_states([self._generator]),
            "recalled": self._recalled,
            "bits": self._bits.copy(),
            "delays": self._delays.copy(),
            "left": self._left.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        mine = self.state_dict()
        state = _validation.as_dict("state", state, mine)
        for name in ("kind", "batch_size", "delay"):
            if state[name] != mine[name]:
                raise ValueError(f"state is of another task: {name} must be {mine[name]!r}, got {state[name]!r}")
        longest = _validation.as_int("longest", state["longest"], 1)
        running_loss = _validation.as_real("running_loss", state["running_loss"])
        recalled = _validation.as_int("recalled", state["recalled"], 0, self.batch_size)
        rng = as_states("rng", state["rng"], 1)
        bits = _validation.as_symbols("bits", state["bits"], self._bits.shape, 2)
        delays = _validation.as_symbols("delays", state["delays"], self._delays.shape, longest + 1)
        left = _validation.as_symbols("left", state["left"], self._left.shape, longest + 2 * BITS + 1)
        if (left > delays + 2 * BITS).any():
            raise ValueError(f"left must lie within sequences of delays {delays}, got {left}")
        self.longest, self.running_loss, self._recalled = longest, running_loss, recalled
        set_states([self._generator], rng)
        self._bits[...], self._delays[...], self._left[...] = bits, delays, left
