"""okcore demo: OK and truncated backpropagation learn the same task side by side."""

import time
from pathlib import Path

import numpy as np

from okcore._progress import progress_bar
from okcore.runs import figure_style, plot
from okcore.runs.console import Forgiving, say
from okcore.runs.options import checked, from_mapping, make_trainer

EXAMPLES = """\
Train a small network twice, for the same time and in turns: with the untruncated gradients of OK, and with truncated
backpropagation through 25 steps. It reads four bits and must name them after a delay, which grows whenever it does
well. Ends with the delay that each bridges, and a figure.

examples:
  okcore demo
  okcore demo --seconds 300
"""

CONTESTANTS = {"OK": {"estimator": "ok"}, "TBPTT(25)": {"estimator": "tbptt", "block": 25}}
LR = 3e-3   # three times the task's, which is for long runs: a minute is short
TURN = 200  # steps


class Contestant:
    """A trainer with a task of its own, and its course: the delay mastered after so many seconds of training."""

    def __init__(self, name, seed):
        self.name = name
        options = {"task": "delay", "threads": 1, "seed": seed, "lr": LR} | CONTESTANTS[name]
        self.trainer, self.task = make_trainer(from_mapping(options))
        self.seconds, self.delays = [0.0], [0]

    def take_turn(self):
        """Train for some steps."""
        start = time.perf_counter()
        self.trainer.fit(self.task, TURN, progress=False)
        self.seconds.append(self.seconds[-1] + time.perf_counter() - start)
        self.delays.append(self.task.mastered)

    def line(self):
        """Return the course as a line of a figure."""
        x, y = np.array(self.seconds), np.array(self.delays, np.float64)
        return plot.Line("delay", "delay mastered (steps)", self.name, 1, x, y, np.zeros_like(y))


def add_arguments(parser):
    """Add the arguments of ``okcore demo``."""
    parser.add_argument(
        "--seconds", type=checked(float, 0, True), default=60, metavar="S",
        help="of training, for both together (default 60)",
    )
    parser.add_argument("--seed", type=checked(int, 0), default=0, help="of networks and tasks (default 0)")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("demo.svg"), metavar="FIGURE",
        help="file to write, .svg, .png or .pdf (default demo.svg)",
    )  # fmt: skip


def main(arguments):
    """Train both, say what each has learned, and draw it."""
    path = figure_style.checked_path("FIGURE", arguments.out)
    contestants = [Contestant(name, arguments.seed) for name in CONTESTANTS]
    say("Four bits are read and must be named after a delay, which grows whenever the network does well.")
    say(f"Two equal networks learn that in turns, for {arguments.seconds / 2:g} seconds each:")
    train(contestants, arguments.seconds / 2)
    for one in contestants:
        say(f"  {one.name:<9}  {one.trainer.steps:>9,} updates, remembers over {one.task.mastered:>6,} steps")
    ok, tbptt = (f"{one.task.mastered:,} steps" for one in contestants)
    say(f"In the same time, untruncated gradients have bridged {ok}, truncated backpropagation {tbptt}.")
    try:
        plot.draw([one.line() for one in contestants], path, "seconds")
    except ModuleNotFoundError as error:
        say(error)
    else:
        say(f"Wrote {path}")
    return 0


def train(contestants, seconds):
    """Train each for that time; always the one that has had less."""
    total = seconds * len(contestants)
    shape = "{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s{postfix}"
    with progress_bar(total=total, bar_format=shape, file=Forgiving()) as bar:
        while (least := min(contestants, key=lambda one: one.seconds[-1])).seconds[-1] < seconds:
            least.take_turn()
            so_far = ", ".join(f"{one.name}: {one.delays[-1]:,} steps" for one in contestants)
            bar.set_postfix_str(so_far, refresh=False)
            bar.update(min(total, sum(one.seconds[-1] for one in contestants)) - bar.n)
