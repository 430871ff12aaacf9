"""The command line: okcore train, okcore resume, okcore config."""

import argparse
import shlex
import shutil
import sys
import warnings
from pathlib import Path

from okcore import __version__, _config
from okcore.cells import CELLS
from okcore.estimators import ESTIMATORS
from okcore.optimizers import OPTIMIZERS
from okcore.runs.options import DEFAULTS, PAPER, resolve
from okcore.runs.run import FIRST_SAVE, SAVE_SECONDS, Run, say

DESCRIPTION = """\
Train recurrent networks online with untruncated gradients, on a CPU.

examples:
  okcore train copy                  a small network learns to repeat bit strings (a minute or two)
  okcore train text python-docs      a character model of Python's own documentation
  okcore train text my.txt           ... of your own text
  okcore resume runs/copy-001        resume a run that was stopped or killed
"""

COPY_EXAMPLES = """
The network reads a start symbol and a random bit string, and must then repeat the string. The strings grow longer
whenever it does well; the run reports their current length.

examples:
  okcore train copy
  okcore train copy --estimator tbptt --block 16
  okcore train copy --preset paper --steps 40000     the size of the OK paper: length 10 in 30,000 to 40,000 steps
  okcore train copy --hidden 32 --lr 2e-3 --steps 20000 --out runs/mine
"""

TEXT_EXAMPLES = """
The network predicts the next byte of a text. Its measure is bits per character on the validation text; lower is
better.

examples:
  okcore train text python-docs
  okcore train text shakespeare.txt --hidden 128 --rank 8 --steps 20000
  okcore train text train.txt --valid valid.txt --preset paper
"""

TRAIN_EXAMPLES = """\
Start a run on the Copy task or on a text.

examples:
  okcore train copy                  a minute or two; "okcore train copy --help" lists all options
  okcore train text python-docs
"""

RESUME_EXAMPLES = """\
Resume a run from its last checkpoint, with bit-identical results.

examples:
  okcore resume runs/copy-001
  okcore resume runs/copy-001 --steps 200000     train a finished run further
"""

def algorithms():
    """Return a description of all estimators, from the summaries and options of their classes."""
    lines = ["algorithms (--estimator):"]
    for name, estimator in ESTIMATORS.items():
        summary = (estimator.__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<9} {summary}")
        if estimator.options:
            meanings = (f"--{option}: {meaning}" for option, (_, meaning) in estimator.options.items())
            lines.append(f"{'':<12}" + ", ".join(meanings))
    return "\n".join(lines)


def checked(kind, least, strict=False):
    """Return an argparse type: a number of at least (or, if strict, above) `least`."""

    def parse(text):
        value = kind(text)
        if not (value > least if strict else value >= least) or value == float("inf"):
            raise argparse.ArgumentTypeError(f"must be {'above' if strict else 'at least'} {least}, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def block(text):
    """Parse --block."""
    return text if text == "auto" else checked(int, 1)(text)


def add_options(parser, task):
    """Add the options that both tasks share; `resolve` sets defaults from DEFAULTS or PAPER."""
    small, paper = DEFAULTS[task], PAPER[task]

    def default(name):
        return f"(default {small[name]:g}; paper {paper[name]:g})"

    network = parser.add_argument_group("network")
    network.add_argument("--cell", choices=CELLS, default="rhn", help="recurrent cell (default rhn, the paper's)")
    network.add_argument("--hidden", type=checked(int, 1), metavar="N", help=f"hidden units {default('hidden')}")
    network.add_argument(
        "--init", choices=("normal", "uniform"),
        help="initial weights: normal is the paper's N(0, 0.01^2), uniform is torch's (default: normal for rhn)",
    )
    network.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(default float32)")

    gradient = parser.add_argument_group("gradient")
    gradient.add_argument("--estimator", choices=ESTIMATORS, default="ok", help="algorithm (default ok); see below")
    gradient.add_argument(
        "--rank", type=checked(int, 1), metavar="R", help=f"terms or copies; see below {default('rank')}"
    )
    gradient.add_argument(
        "--block", type=block, metavar="K", help=f'steps per block, or "auto"; see below {default("block")}'
    )

    learning = parser.add_argument_group("learning")
    learning.add_argument("--batch", type=checked(int, 1), metavar="B", help=f"number of lanes {default('batch')}")
    learning.add_argument("--lr", type=checked(float, 0, True), help=f"learning rate {default('lr')}")
    learning.add_argument(
        "--clip", type=checked(float, 0), help=f"largest norm of the recurrent gradient; 0: no limit {default('clip')}"
    )
    learning.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="(default adam)")
    learning.add_argument(
        "--update-every", type=checked(int, 1), default=1, metavar="U", help="steps between updates (default 1)"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--steps", type=checked(int, 1), metavar="T", help=f"time steps to train {default('steps')}")
    run.add_argument("--seed", type=checked(int, 0), default=0, help="same seed, same run (default 0)")
    run.add_argument(
        "--threads", type=checked(int, 1), metavar="N",
        help="threads for the lanes; 1 is best if other programs need the processors (default: all processors)",
    )
    run.add_argument("--out", type=Path, metavar="DIR", help=f"folder of the run (default runs/{task}-001, -002, ...)")
    run.add_argument("--preset", choices=("paper",), help="the OK paper's sizes for all options not given")
    run.add_argument(
        "--save-every", type=checked(float, 0), default=float(SAVE_SECONDS), metavar="SECONDS",
        help=f"seconds between two checkpoints (default {SAVE_SECONDS}; the first after {FIRST_SAVE} at most)",
    )
    run.add_argument(
        "--log-every", type=checked(int, 0), default=0, metavar="T", help="steps per metrics line (default: 200 lines)"
    )


def make_parser():
    """Return the parser of the whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="okcore", description=DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"okcore {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="start a run", description=TRAIN_EXAMPLES,
                               formatter_class=raw)
    task = train.add_subparsers(dest="task", required=True, metavar="TASK")
    copy = task.add_parser(
        "copy", help="repeat bit strings of growing length", formatter_class=raw,
        description="Learn to repeat bit strings.\n" + COPY_EXAMPLES, epilog=algorithms(),
    )
    add_options(copy, "copy")
    text = task.add_parser(
        "text", help="predict the next character", formatter_class=raw,
        description="Learn to predict a text.\n" + TEXT_EXAMPLES, epilog=algorithms(),
    )
    text.add_argument("source", metavar="FILE|python-docs", help="a text file, or the documentation inside CPython")
    text.add_argument("--valid", metavar="FILE", help="validation text (default: the last 5 %% of FILE)")
    add_options(text, "text")

    resume = commands.add_parser(
        "resume", help="resume a run", formatter_class=raw,
        description=RESUME_EXAMPLES,
    )
    resume.add_argument("folder", metavar="DIR", type=Path, help="the run's folder")
    resume.add_argument("--steps", type=checked(int, 1), metavar="T", help="new last step")
    resume.add_argument("--threads", type=checked(int, 1), metavar="N", help="threads for the lanes")
    resume.add_argument(
        "--save-every", type=checked(float, 0), metavar="SECONDS", help="seconds between two checkpoints"
    )

    commands.add_parser(
        "config", help="show versions, BLAS, threads and build flags", formatter_class=raw,
        description="Show versions, BLAS, threads and build flags.\n\nexamples:\n  okcore config",
    )
    return parser


def called():
    """Return the shell command that starts this program, so that printed hints can be copied."""
    script = Path(sys.argv[0])
    if script.name != "okcore":
        return f"{sys.executable} -m okcore"
    found = shutil.which("okcore")
    return "okcore" if found and Path(found).resolve() == script.resolve() else str(script)


def train(run):
    """Train a run to its end and print a summary; return the exit status."""
    okcore, folder = called(), shlex.quote(str(run.folder))
    estimator = run.trainer.estimator
    say(f"{run.trainer.cell.theta.size:,} recurrent parameters, {estimator!r}")
    say(f"Writing to {run.folder}; Ctrl-C saves and stops.")
    stopped = run.train()
    if stopped:
        message = f"Stopped by {stopped} after step {run.trainer.steps:,}; everything is saved."
        message += f"\n  {okcore} resume {folder}"
        if not say("\n" + message) or stopped == "a closed standard output":
            say(message, file=sys.stderr)
        return 0
    say()
    say(run.summary())
    say("Continue with")
    say(f"  {okcore} resume {folder} --steps {2 * run.options['steps']}")
    if run.options["task"] == "copy":
        say(f"  {okcore} train copy --preset paper --steps 40000     the paper's network, in a few minutes")
        say(f"  {okcore} train text python-docs                      the same on real text")
    else:
        say(f"  {okcore} train copy                                  a task where long memory matters")
    return 0


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = make_parser().parse_args(argv)
    warnings.showwarning = lambda message, *rest, **more: print(f"okcore: warning: {message}", file=sys.stderr)
    try:
        if arguments.command == "config":
            _config.show_config()
            return 0
        if arguments.command == "resume":
            run = Run.open(arguments.folder, arguments.steps, arguments.threads, arguments.save_every)
        else:
            run = Run.create(arguments.out, resolve(vars(arguments)))
        with run:
            return train(run)
    except KeyboardInterrupt:
        print("\nokcore: interrupted", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        print(f"okcore: error: {error}; try a smaller --lr or --clip", file=sys.stderr)
        return 1
    except (OSError, ValueError, TypeError, MemoryError) as error:
        print(f"okcore: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
