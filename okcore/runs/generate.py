"""Text from a trained character model: okcore generate."""

import os
import sys
from pathlib import Path

import numpy as np

from okcore import _validation
from okcore.estimators import TBPTT
from okcore.runs import checkpoint
from okcore.runs.console import silence
from okcore.runs.options import checked, make_model
from okcore.runs.run import read_description

EXAMPLES = """\
Write text of a trained character model to standard output.

It is read from the newest checkpoint, also while the run is going on. The characters are written as the bytes they are
in the training text, after those of the prompt.

examples:
  okcore generate runs/text-001
  okcore generate runs/text-001 -n 2000 --temperature 0.7 --prompt "The value of"
"""


def add_arguments(parser):
    """Add the arguments of ``okcore generate``."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of a run of okcore train text")
    parser.add_argument("-n", type=checked(int, 1), default=500, metavar="N", help="bytes to write (default 500)")
    parser.add_argument(
        "--temperature", type=checked(float, 0), default=1.0, metavar="T",
        help="below 1: more of what is probable; 0: always the most probable character (default 1)",
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue (default: a new line)")
    parser.add_argument("--seed", type=checked(int, 0), default=0, help="same seed, same text (default 0)")


def main(arguments):
    """Write text to standard output."""
    cell, readout, alphabet = load(arguments.folder)
    prompt = os.fsencode(arguments.prompt)  # the bytes that were typed
    if unknown := [letter for letter in dict.fromkeys(arguments.prompt) if set(os.fsencode(letter)) - set(alphabet)]:
        raise ValueError(
            f"--prompt must hold characters of the run's training text only, got {', '.join(map(repr, unknown))}"
        )
    # A model predicts from what came before: without a prompt, a line break, or else the first of the alphabet
    before = [alphabet.index(byte) for byte in prompt] or [max(0, alphabet.find(b"\n"))]
    symbols = sample(cell, readout, before, arguments.n, arguments.temperature, np.random.default_rng(arguments.seed))
    out, terminal = sys.stdout.buffer, sys.stdout.isatty()
    try:
        out.write(prompt)
        for symbol in symbols:
            out.write(alphabet[symbol : symbol + 1])
            if terminal:
                out.flush()
        out.write(b"\n" if terminal else b"")
        out.flush()
    except BrokenPipeError:  # head has read enough
        silence(sys.stdout)
    return 0


def load(folder):
    """Return (cell, readout, alphabet as bytes) of the run in a folder, which is only read.

    Neither the training text nor the folder's lock is needed: another process may be training.
    """
    path = Path(folder) / "run.json"
    description = read_description(folder)
    try:
        options, task = description["options"], description["options"]["task"]
        if task == "text":
            alphabet = description["task"]["alphabet"].encode("latin-1")
            cell, readout = make_model(options, len(alphabet), len(alphabet))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from None
    if task != "text":
        raise ValueError(f"DIR must hold a run of the task text, got {str(folder)!r}, a run of {task}")
    try:
        groups = checkpoint.read_newest(Path(folder) / "checkpoint.npz", held=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"DIR must hold a checkpoint, got {str(folder)!r} without one yet") from None
    own = _validation.as_dict("checkpoint's group trainer", groups.get("trainer"))
    for name, array in (("theta", cell.theta), ("weights", readout.weights)):
        array[...] = _validation.as_floats(name, own.get(name), array.shape, array.dtype, finite=True)
    return cell, readout, alphabet


def sample(cell, readout, before, n, temperature, rng):
    """Yield n symbols that continue those of `before`, each drawn from softmax(outputs / temperature).

    Parameters
    ----------
    cell : Cell
    readout : SoftmaxReadout
    before : list of int
        At least one symbol, read from a zero state.
    n : int
    temperature : float
        0 takes the symbol with the largest output.
    rng : Generator
    """
    reader = TBPTT(cell, horizon=1)
    for symbol in before:
        h = reader.step(np.array([symbol]))
    for _ in range(n):
        outputs = readout.outputs(h)[0].astype(np.float64)
        if not np.isfinite(outputs).all():
            raise FloatingPointError(f"the readout's outputs are not finite in {readout.dtype}")
        symbol = int(np.argmax(outputs + temperature * rng.gumbel(size=len(outputs))))  # Gumbel's way to draw
        yield symbol
        h = reader.step(np.array([symbol]))
