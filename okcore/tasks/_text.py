"""Character-level text: predict the next byte."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from okcore import _validation
from okcore._typing import RNGLike
from okcore.tasks._base import Task, task
from okcore.tasks._ptb import VARIANT, ptb

if TYPE_CHECKING:
    from okcore.trainer import OnlineTrainer


def python_docs() -> bytes:
    """Return the English text of CPython's ``pydoc_data.topics`` as bytes; nothing is downloaded."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def read_text(source: str | os.PathLike[str] | bytes, name: str) -> NDArray[np.uint8]:
    """Return the bytes of a file, or `source` itself if it is bytes; refuse anything that is not text."""
    if isinstance(source, (bytes, bytearray)):
        data = bytes(source)
        where = "bytes"
    else:
        if not isinstance(source, (str, Path)):
            raise TypeError(f"{name} must be a path or bytes, got {_validation.describe(source)}")
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{name} must be a text file, got {str(path)!r}, which is not an existing file")
        data = path.read_bytes()
        where = repr(str(path))
    if b"\0" in data:
        raise ValueError(f"{name} must be text, got {where}, which is binary (it holds a NUL byte)")
    if len(data) < 2:
        raise ValueError(f"{name} must hold at least 2 bytes, got {where} with {len(data)}")
    return np.frombuffer(data, np.uint8)


@task("text")
class Text(Task):
    """Predict the next byte of a text; each lane starts at its own position.

    Lane b starts at byte floor(b (N - 1) / max(B - 1, 1)) of N and wraps around at the end; it is reset
    whenever its position in the text is a multiple of `reset_every`.

    Parameters
    ----------
    source : str, Path or bytes
        A file, or the text itself.
    batch_size : int
    valid : str, Path or bytes, optional
        Validation text; by default the last 5 % of `source`.
    reset_every : int

    Attributes
    ----------
    symbols : (n_in,) uint8 array
        The bytes that occur; inputs and targets are indices into it.
    train, valid : int64 arrays
        The texts as symbols.
    variant : str or None
        Which of a corpus' encodings it is: a run says so beside each result.
    """

    measure, words, larger_is_better = "valid_bpc", "validation bits per character", False
    evaluations = 10
    defaults = {"hidden": 64, "rank": 8, "block": 16, "batch": 16, "lr": 1e-3, "clip": 100.0, "steps": 10_000}
    paper = {"hidden": 256, "rank": 8, "block": 16, "batch": 32, "lr": 3.16e-4, "clip": 100.0, "steps": 1_000_000}
    options = {
        "source": {
            "metavar": "FILE|python-docs|ptb",
            "help": "a text file, the documentation inside CPython, or the Penn Treebank (downloaded once)",
        },
        "--valid": {"metavar": "FILE", "help": "validation text (default: the last 5 %% of FILE)"},
        "--data-dir": {"metavar": "DIR", "help": "of ptb.train.txt and ptb.valid.txt, for ptb without a download"},
    }  # fmt: skip
    examples = """
The network predicts the next byte of a text. Its measure is bits per character on the validation text; lower is
better.

examples:
  okcore train text python-docs
  okcore train text shakespeare.txt --hidden 128 --rank 8 --steps 20000
  okcore train text train.txt --valid valid.txt --steps 50000
  okcore train text ptb --preset paper               the paper's experiment (hours to days)
"""

    next_steps = (("generate {folder}", "text from what it has learned"), *Task.next_steps)

    VALID_FRACTION = 0.05
    variant: str | None = None

    def __init__(
        self, source: str | os.PathLike[str] | bytes, batch_size: int,
        valid: str | os.PathLike[str] | bytes | None = None, reset_every: int = 100,
    ) -> None:  # fmt: skip
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        self.reset_every = _validation.as_int("reset_every", reset_every, 1)
        data = read_text(source, "source")
        if valid is None:
            held_out = max(2, int(len(data) * self.VALID_FRACTION))
            if len(data) < held_out + 2:
                raise ValueError(f"source must hold at least 4 bytes without valid, got {len(data)}")
            data, valid_data = data[:-held_out], data[-held_out:]
        else:
            valid_data = read_text(valid, "valid")
        self.symbols = np.unique(np.concatenate([data, valid_data]))
        self.n_in = self.n_out = len(self.symbols)
        self.train = np.searchsorted(self.symbols, data)
        self.valid = np.searchsorted(self.symbols, valid_data)
        self._checksum = zlib.crc32(valid_data.tobytes(), zlib.crc32(data.tobytes()))
        lanes = np.arange(self.batch_size)
        self._position = lanes * (len(self.train) - 1) // max(self.batch_size - 1, 1)

    def __next__(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        here = self._position
        after = (here + 1) % len(self.train)
        self._position = after
        return self.train[here], self.train[after], here % self.reset_every == 0

    @classmethod
    def from_options(cls, options: dict[str, Any], rng: RNGLike | None) -> Self:
        """Make the task; it draws nothing."""
        if options["source"] == "ptb":
            source, valid = ptb(options["data_dir"])
        else:
            source = python_docs() if options["source"] == "python-docs" else options["source"]
            valid = options["valid"]
        made = cls(source, options["batch"], valid)
        made.variant = VARIANT if options["source"] == "ptb" else None
        return made

    @staticmethod
    def resolve(options: dict[str, Any]) -> None:
        """Make paths absolute, so that a run can be resumed from anywhere."""
        if options["source"] == "ptb" and options["valid"] is not None:
            raise ValueError(f"--valid must be left out for ptb, which has its own, got {options['valid']!r}")
        if options["source"] != "ptb" and options["data_dir"] is not None:
            raise ValueError(f"--data-dir must be left out for another text than ptb, got {options['data_dir']!r}")
        for name in ("source", "valid", "data_dir"):
            if options[name] not in (None, "python-docs", "ptb"):
                options[name] = str(Path(options[name]).resolve())

    def description(self) -> dict[str, Any]:
        """Return the alphabet, one character per byte (Latin-1) in the order of the symbols, and the variant."""
        return {"alphabet": self.symbols.tobytes().decode("latin-1"), "variant": self.variant}

    def evaluate(self, trainer: OnlineTrainer) -> float:
        """Return the bits per character of the validation text, read once from its start."""
        return trainer.evaluate_bits(self.valid)

    def summary(self, value: float) -> str:
        """Return what bits per character mean."""
        return (
            f"the network predicts the validation text with {value:.3f} bits per character "
            f"(guessing among its {self.n_out} characters would take {np.log2(self.n_out):.2f})"
            + (f"; {self.variant}." if self.variant else ".")
        )

    def state_dict(self) -> dict[str, Any]:
        """Return each lane's position in the text."""
        return {
            "kind": "Text",
            "batch_size": self.batch_size,
            "bytes": len(self.train),
            "checksum": self._checksum,
            "position": self._position.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        mine = self.state_dict()
        state = _validation.as_dict("state", state, mine)
        for name in ("kind", "batch_size", "bytes", "checksum"):
            if state[name] != mine[name]:
                raise ValueError(f"state is of another text: {name} must be {mine[name]!r}, got {state[name]!r}")
        self._position = _validation.as_symbols(
            "position", state["position"], (self.batch_size,), len(self.train)
        ).astype(np.int64)
