"""The command line: okcore train, resume, config, and the commands that have a module of their own."""

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from okcore import __version__, _config, _interrupt
from okcore.runs import compare, demo, generate, parallel, plot, sweep
from okcore.runs.console import INCOMPLETE, called, say
from okcore.runs.options import add_running, add_tasks, checked, resolve
from okcore.runs.run import TIME_LIMIT, Run

DESCRIPTION = """\
Train recurrent networks online with untruncated gradients, on a CPU.

examples:
  okcore demo                        untruncated gradients beside truncated ones: a minute, and a figure
  okcore train copy                  a small network learns to repeat bit strings (a minute or two)
  okcore train text python-docs      a character model of Python's own documentation
  okcore train text my.txt           ... of your own text
  okcore train text ptb              ... of the Penn Treebank, which is downloaded
  okcore resume runs/copy-001        resume a run that was stopped or killed
  okcore sweep grid.toml -j 4        carry out all runs of a grid, four at a time
  okcore generate runs/text-001      text from a trained character model
  okcore plot runs/copy-001 runs/copy-002        draw learning curves
  okcore compare copy --with rtrl --with uoro    gradients of three estimators, and a figure

"okcore COMMAND --help" explains a command, "okcore train copy --help" the options of a run.
"""

EPILOG = """\
on several processes, with MPI:
  mpiexec -n 4 python -m mpi4py -m okcore train copy

environment:
  OMP_NUM_THREADS        the most threads that are used where --threads is not given
  OKCORE_INSTRUCTIONS    baseline, avx2 or avx512: no wider vectors than these

exit status:
  0    done; or stopped by a signal or a closed output, and saved
  1    an error, or runs of a sweep that are not complete
  2    wrong arguments
  75   stopped by --time-limit, and saved
  130  interrupted where there was nothing to save
"""

TRAIN_EXAMPLES = """\
Start a run on a task.

A run is a folder: run.json holds its options, metrics.jsonl a line per so many steps, checkpoint.npz all that it takes
to resume it. Ctrl-C saves and stops.

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


def add_command(commands, name, main, help, description):
    """Add a subcommand that calls ``main(arguments)``; return its parser."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=help, description=description, formatter_class=raw)
    parser.set_defaults(main=main)
    return parser


def make_parser():
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="okcore", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"okcore {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_tasks(add_command(commands, "train", train, "start a run", TRAIN_EXAMPLES))

    resuming = add_command(commands, "resume", resume, "resume a run", RESUME_EXAMPLES)
    resuming.add_argument("folder", metavar="DIR", type=Path, help="the run's folder")
    resuming.add_argument("--steps", type=checked(int, 1), metavar="T", help="last step, if it is another than before")
    add_running(resuming)

    summaries = {
        demo: "see untruncated gradients learn what truncated ones cannot",
        sweep: "carry out many runs",
        plot: "draw learning curves of runs",
        generate: "text from a trained character model",
    }
    for module, summary in summaries.items():
        name = module.__name__.rpartition(".")[2]
        module.add_arguments(add_command(commands, name, module.main, summary, module.EXAMPLES))

    comparing = add_command(commands, "compare", train, "compare the gradients of estimators", compare.EXAMPLES)
    add_tasks(comparing, "\n" + compare.EXAMPLES, compare.add_arguments)

    add_command(
        commands, "config", config, "show versions, processor, BLAS, threads and build flags",
        "Show versions, processor, BLAS, threads and build flags.\n\nexamples:\n  okcore config",
    )
    return parser


def train(arguments):
    """Start a run and train it."""
    ranks = parallel.ranks()
    with Run.create(arguments.out, ranks.each(resolve, vars(arguments)), ranks) as run:
        return finish(run)


def resume(arguments):
    """Resume a run and train it."""
    names = "steps", "threads", "save_every", "time_limit", "tensorboard", "on_overflow"
    changes = {name: getattr(arguments, name) for name in names}
    with Run.open(arguments.folder, parallel.ranks(), **changes) as run:
        return finish(run)


def finish(run):
    """Train a run to its end and print a summary; return the exit status."""
    okcore, folder = called(), shlex.quote(str(run.folder))
    say(run.introduction())
    say(f"Writing to {run.folder}; Ctrl-C saves and stops.")
    stopped = run.train()
    status = INCOMPLETE if stopped == TIME_LIMIT else 0
    if not run.ranks.leader:
        return status
    if stopped:
        message = f"Stopped by {stopped} after step {run.trainer.steps:,}; everything is saved."
        message += f"\n  {okcore} resume {folder}"
        if not say("\n" + message) or stopped == "a closed standard output":
            say(message, file=sys.stderr)
        return status
    say()
    say(run.summary())
    say("Continue with")
    say(f"  {okcore} resume {folder} --steps {2 * run.options['steps']}")
    for hint, meaning in run.task.next_steps:
        say(f"  {okcore} {hint.format(folder=folder):<42} {meaning}")
    return status


def config(arguments):
    """Print versions, processor, BLAS, threads and build flags."""
    _config.show_config()
    return 0


def parse(argv, n_processes):
    """Return the parsed arguments of a command that `n_processes` carry out together."""
    arguments = make_parser().parse_args(argv)
    if n_processes > 1:
        if arguments.command not in ("train", "resume"):
            raise ValueError(f"okcore {arguments.command} must run in one process, got {n_processes} of MPI")
        if arguments.threads is None:
            arguments.threads = 1  # there may be a rank per processor
    return arguments


def main(argv=None):
    """Run the command line; return the exit status."""
    try:
        with _interrupt.raised(), parallel.ranks() as ranks:
            arguments = ranks.lead(parse, argv, ranks.size)
            warnings.showwarning = lambda message, *rest, **more: print(f"okcore: warning: {message}", file=sys.stderr)
            return arguments.main(arguments)
    except KeyboardInterrupt:
        print("\nokcore: interrupted", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        remedy = ", or --on-overflow forget (resume takes it too)" if "influence" in str(error) else ""
        print(f"okcore: error: {error}; try a smaller --lr or --clip{remedy}", file=sys.stderr)
        return 1
    except (OSError, ValueError, TypeError, MemoryError, ImportError, parallel.ParametersDiffer) as error:
        print(f"okcore: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
