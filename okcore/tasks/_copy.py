"""The Copy task with the curriculum of the OK paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from okcore import _validation
from okcore._random import as_generator, as_states, get_states, set_states
from okcore._typing import RNGLike
from okcore.tasks._base import Task, task

if TYPE_CHECKING:
    from okcore.trainer import OnlineTrainer

START, BLANK = 2, 3


@task("copy")
class Copy(Task):
    """Remember and repeat random bit strings of growing length.

    Symbols are the bits 0 and 1, start (2) and blank (3). A sequence of length T has 2 T + 2 steps. Inputs are start,
    the bits and T + 1 blanks; targets are T + 1 blanks, start and the bits. T is drawn for each sequence as
    max(1, uniform on L - 4 .. L). When a lane needs a new sequence while the running loss is below 0.15 bits,
    L grows by one. Lanes are not synchronised: each starts its next sequence at once, with a reset. Of lanes that start
    at the same step, all T are drawn before all bits.

    Parameters
    ----------
    batch_size : int
    rng : int, SeedSequence, Generator or None
    length : int
        Initial L.

    Attributes
    ----------
    length : int
        L, the longest sequence drawn at present; a run reports it.
    running_loss : float
        Moving average, 0.999 old and 0.001 new, of the loss in bits; 1 at the start, 0.3 whenever L grows.

    References
    ----------
    Benzing et al. (2019), arXiv 1902.03993, section 5.
    """

    n_in = n_out = 4
    measure, words, unit = "copy_length", "copy length", "bits"
    defaults = {"hidden": 64, "rank": 8, "block": 16, "batch": 16, "lr": 1e-3, "clip": 1.0, "steps": 60_000}
    paper = {"hidden": 128, "rank": 16, "block": 16, "batch": 16, "lr": 3.16e-4, "clip": 1.0, "steps": 2_000_000}
    examples = """
The network reads a start symbol and a random bit string, and must then repeat the string. The strings grow longer
whenever it does well; the run reports their current length.

examples:
  okcore train copy
  okcore train copy --estimator tbptt --block 16
  okcore train copy --preset paper --steps 40000     the size of the OK paper: length 10 in 30,000 to 40,000 steps
  okcore train copy --hidden 32 --lr 2e-3 --steps 20000 --out runs/mine
"""

    next_steps = (
        ("train copy --preset paper --steps 40000", "the paper's network, in a few minutes"),
        ("train text python-docs", "the same on real text"),
    )

    THRESHOLD, RESTART, DECAY = 0.15, 0.3, 0.999
    LONGEST = 2**20  # bits; none that is learned comes near

    def __init__(self, batch_size: int, rng: RNGLike | None = None, length: int = 1) -> None:
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        self.length = _validation.as_int("length", length, 1, self.LONGEST)
        self.running_loss = 1.0
        # Always PCG64, whatever `rng` is, so that a checkpoint can hold the stream's position.
        self._generator = np.random.Generator(np.random.PCG64(as_generator(rng).integers(2**63)))
        self._position = np.zeros(self.batch_size, np.int64)
        # T of each lane's sequence; one of -1 has 2 T + 2 = 0 steps, so that all lanes start at once
        self._lengths = np.full(self.batch_size, -1, np.int64)
        self._make_rows(self.length)

    def _make_rows(self, longest: int) -> None:
        # A lane's row is longest + 1 blanks, start, the bits, and blanks to the end. Its inputs begin at start, its
        # targets T + 1 places before: one table holds both.
        self._longest = longest
        self._rows = np.full((self.batch_size, 3 * longest + 3), BLANK)
        self._rows[:, longest + 1] = START
        self._inputs_at = np.arange(self.batch_size) * self._rows.shape[1] + longest + 1
        self._index()

    @property
    def _bits(self) -> NDArray[np.int64]:
        # After a lane's T bits come blanks. Not kept: a copy of the task would have a view of nothing of its own.
        return self._rows[:, self._longest + 2 : 2 * self._longest + 2]

    def _index(self) -> None:
        self._targets_at = self._inputs_at - self._lengths - 1
        self._ends = 2 * self._lengths + 2

    def _set_sequences(
        self, lanes: NDArray[np.intp], lengths: NDArray[np.int64], bits: NDArray[np.int64]
    ) -> None:
        """Give lanes other sequences, their bits one after the other."""
        if lengths.max() > self._longest:
            old = self._bits
            self._make_rows(max(2 * self._longest, int(lengths.max())))
            self._bits[:, : old.shape[1]] = old
        rows = np.full((len(lanes), self._longest), BLANK)
        rows[np.arange(self._longest) < lengths[:, None]] = bits
        self._bits[lanes] = rows
        self._lengths[lanes] = lengths
        self._index()

    def _start_sequences(self, lanes: NDArray[np.intp]) -> None:
        if self.running_loss < self.THRESHOLD:
            self.length += 1
            self.running_loss = self.RESTART
        lengths = self._generator.integers(self.length - 4, self.length, size=len(lanes), endpoint=True)
        lengths = np.maximum(lengths, 1)
        self._set_sequences(lanes, lengths, self._generator.integers(2, size=lengths.sum()))
        self._position[lanes] = 0

    def __next__(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        reset = self._position == self._ends
        if np.count_nonzero(reset):
            self._start_sequences(np.flatnonzero(reset))
        x, y = self._rows.take(self._inputs_at + self._position), self._rows.take(self._targets_at + self._position)
        self._position += 1
        return x, y, reset

    def evaluate(self, trainer: OnlineTrainer) -> float:
        """Return L."""
        return self.length

    def summary(self, value: float) -> str:
        """Return what a copy length means."""
        learned = f"the network repeats random strings of {value - 1} bits almost without error and is learning {value}"
        return f"the copy length is {value}: " + (
            f"{learned}." if value > 1 else "the network does not yet repeat a single bit reliably."
        )

    def observe(self, loss_bits: float) -> None:
        """Update the running loss, on which the curriculum depends."""
        loss_bits = _validation.as_real("loss_bits", loss_bits)
        self.running_loss = self.DECAY * self.running_loss + (1 - self.DECAY) * loss_bits

    def state_dict(self) -> dict[str, Any]:
        """Return the curriculum, the random stream and each lane's position in its sequence."""
        started = self._lengths[0] > 0
        return {
            "kind": "Copy",
            "batch_size": self.batch_size,
            "length": self.length,
            "running_loss": self.running_loss,
            "rng": get_states([self._generator]),
            "position": self._position.copy(),
            "lengths": self._lengths.copy() if started else np.zeros(0, np.int64),
            "bits": self._bits[np.arange(self._longest) < self._lengths[:, None]],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        state = _validation.as_dict("state", state, self.state_dict())
        if (state["kind"], state["batch_size"]) != ("Copy", self.batch_size):
            raise ValueError(
                f"state must be of a Copy task with {self.batch_size} lanes, "
                f"got {state['kind']} with {state['batch_size']}"
            )
        length = _validation.as_int("length", state["length"], 1, self.LONGEST)
        running_loss = _validation.as_real("running_loss", state["running_loss"])
        rng = as_states("rng", state["rng"], 1)
        integer = np.dtype(np.int64)
        lengths = _validation.as_array("lengths", state["lengths"])
        lanes = self.batch_size if lengths.size else 0  # none before the first step
        lengths = _validation.as_floats("lengths", lengths, (lanes,), integer)
        position = _validation.as_floats("position", state["position"], (self.batch_size,), integer)
        if lanes and (lengths.min() < 1 or position.min() < 0 or (position > 2 * lengths + 2).any()):
            raise ValueError(f"position must lie in sequences of lengths {lengths}, got {position}")
        bits = _validation.as_symbols("bits", state["bits"], (int(lengths.sum()),), 2)

        self.length, self.running_loss = length, running_loss
        set_states([self._generator], rng)
        self._position[...] = position if lanes else 0
        if lanes:
            self._set_sequences(np.arange(lanes), lengths, bits)
        else:
            self._lengths[...] = -1
            self._index()
