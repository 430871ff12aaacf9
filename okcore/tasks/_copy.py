"""The Copy task with the curriculum of the OK paper."""

import numpy as np

from okcore import _validation
from okcore._random import as_generator, get_states, set_states
from okcore.tasks._base import Task, task

START, BLANK = 2, 3


@task("copy")
class Copy(Task):
    """Remember and repeat random bit strings of growing length.

    Symbols are the bits 0 and 1, start (2) and blank (3). A sequence of length T has 2 T + 2 steps. Inputs are start,
    the bits and T + 1 blanks; targets are T + 1 blanks, start and the bits. T is drawn for each sequence as
    max(1, uniform on L - 4 .. L). When a lane needs a new sequence while the running loss is below 0.15 bits,
    L grows by one. Lanes are not synchronised: each starts its next sequence at once, with a reset.

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

    def __init__(self, batch_size, rng=None, length=1):
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        self.length = _validation.as_int("length", length, 1)
        self.running_loss = 1.0
        # Always PCG64, whatever `rng` is, so that a checkpoint can hold the stream's position.
        self._generator = np.random.Generator(np.random.PCG64(as_generator(rng).integers(2**63)))
        self._sequences = [None] * self.batch_size  # (inputs, targets) of each lane
        self._position = np.zeros(self.batch_size, np.int64)

    def _new_sequence(self):
        if self.running_loss < self.THRESHOLD:
            self.length += 1
            self.running_loss = self.RESTART
        T = max(1, int(self._generator.integers(self.length - 4, self.length, endpoint=True)))
        return self._sequence(self._generator.integers(2, size=T))

    @staticmethod
    def _sequence(bits):
        """Return (inputs, targets) for a bit string."""
        blanks = np.full(len(bits) + 1, BLANK)
        return np.concatenate([[START], bits, blanks]), np.concatenate([blanks, [START], bits])

    def __next__(self):
        x = np.empty(self.batch_size, np.int64)
        y = np.empty(self.batch_size, np.int64)
        reset = np.zeros(self.batch_size, bool)
        for lane in range(self.batch_size):
            if self._sequences[lane] is None or self._position[lane] == len(self._sequences[lane][0]):
                self._sequences[lane] = self._new_sequence()
                self._position[lane] = 0
                reset[lane] = True
            inputs, targets = self._sequences[lane]
            x[lane], y[lane] = inputs[self._position[lane]], targets[self._position[lane]]
            self._position[lane] += 1
        return x, y, reset

    def evaluate(self, trainer):
        """Return L."""
        return self.length

    def summary(self, value):
        """Return what a copy length means."""
        learned = f"the network repeats random strings of {value - 1} bits almost without error and is learning {value}"
        return f"the copy length is {value}: " + (
            f"{learned}." if value > 1 else "the network does not yet repeat a single bit reliably."
        )

    def observe(self, loss_bits):
        """Update the running loss, on which the curriculum depends."""
        loss_bits = _validation.as_real("loss_bits", loss_bits)
        self.running_loss = self.DECAY * self.running_loss + (1 - self.DECAY) * loss_bits

    def state_dict(self):
        """Return the curriculum, the random stream and each lane's position in its sequence."""
        started = self._sequences[0] is not None
        lengths = [(len(inputs) - 2) // 2 for inputs, _ in self._sequences] if started else []
        bits = [inputs[1 : T + 1] for (inputs, _), T in zip(self._sequences, lengths, strict=False)] if started else []
        return {
            "kind": "Copy",
            "batch_size": self.batch_size,
            "length": self.length,
            "running_loss": self.running_loss,
            "rng": get_states([self._generator]),
            "position": self._position.copy(),
            "lengths": np.array(lengths, np.int64),
            "bits": np.concatenate([np.zeros(0, np.int64), *bits]),
        }

    def load_state_dict(self, state):
        """Restore a position that `state_dict` returned."""
        state = _validation.as_dict("state", state, self.state_dict())
        if (state["kind"], state["batch_size"]) != ("Copy", self.batch_size):
            raise ValueError(
                f"state must be of a Copy task with {self.batch_size} lanes, "
                f"got {state['kind']} with {state['batch_size']}"
            )
        length = _validation.as_int("length", state["length"], 1)
        running_loss = _validation.as_real("running_loss", state["running_loss"])
        rng = _validation.as_floats("rng", state["rng"], (1, 6), np.dtype(np.uint64))
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
        self._position[...] = position
        self._sequences = [None] * self.batch_size
        if lanes:
            self._sequences = [self._sequence(part) for part in np.split(bits, np.cumsum(lengths)[:-1])]
