"""The options of a run: on the command line, as a dict, and the trainer and task made from them."""

import argparse
from pathlib import Path

import numpy as np

from okcore import _config
from okcore._engine.engine import OVERFLOW_CHOICES
from okcore.cells import CELLS
from okcore.estimators import ESTIMATORS
from okcore.optimizers import OPTIMIZERS
from okcore.runs import parallel
from okcore.tasks import TASKS

LOG_LINES = 200        # metrics lines per run
SAVE_SECONDS = 60      # between two checkpoints
FIRST_SAVE = 5         # seconds to the first checkpoint, at most
TOLERANCE = 0.3        # of OK: on delay the noise and cost of rank 4, on Copy 7 of 10 terms (docs/results.md)

# What may change when a run is resumed: nothing of it is part of what the run computes, where no influence overflows.
RESUMABLE = (
    "steps", "threads", "save_every", "log_every", "valid_every", "time_limit", "tensorboard", "on_overflow", "data_dir"
)  # fmt: skip


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


def add_tasks(parser, examples=None, add_more=None):
    """Add a subcommand per registered task, with the options of a run and those of `add_more(parser)`."""
    commands = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, task in TASKS.items():
        summary = (task.__doc__ or f"The task {name}.").partition("\n")[0]
        command = commands.add_parser(
            name, help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary + "\n" + (examples or task.examples),
            epilog=algorithms(), formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        for option, arguments in task.options.items():
            command.add_argument(option, **arguments)
        if add_more is not None:
            add_more(command)
        add_options(command, name)


def add_options(parser, task):
    """Add the options that all tasks share; `resolve` sets the defaults that depend on the task."""
    small, paper = TASKS[task].defaults, TASKS[task].paper

    def default(name):
        return f"(default {small[name]}" + (f"; paper {paper[name]})" if paper else ")")

    network = parser.add_argument_group("network")
    network.add_argument("--cell", choices=CELLS, default="rhn", help="recurrent cell (default rhn, the paper's)")
    network.add_argument("--hidden", type=checked(int, 1), metavar="N", help=f"hidden units {default('hidden')}")
    network.add_argument(
        "--init", choices=("normal", "uniform"),
        help="initial weights: normal is the paper's N(0, 0.01^2), uniform is torch's "
        f"(default {small.get('init', 'normal for rhn, else uniform')})",
    )
    network.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of all arrays (default float32)"
    )

    gradient = parser.add_argument_group("gradient")
    gradient.add_argument("--estimator", choices=ESTIMATORS, default="ok", help="algorithm (default ok); see below")
    gradient.add_argument(
        "--rank", type=checked(int, 1), metavar="R", help=f"terms or copies; see below {default('rank')}"
    )
    gradient.add_argument(
        "--block", type=block, metavar="K", help=f'steps per block, or "auto"; see below {default("block")}'
    )
    gradient.add_argument(
        "--tolerance", type=checked(float, 0), default=TOLERANCE, metavar="T",
        help=f"relative noise of a reduction; 0: all terms are kept; see below (default {TOLERANCE})",
    )
    gradient.add_argument(
        "--late-carry", action=argparse.BooleanOptionalAction, default=False,
        help="with an update at every step: what is carried from earlier blocks adds to the gradient once per block, "
        "spread over the next block's steps; where losses are rare, it needs a lower --lr (default: no)",
    )

    learning = parser.add_argument_group("learning")
    learning.add_argument("--batch", type=checked(int, 1), metavar="B", help=f"number of lanes {default('batch')}")
    learning.add_argument("--lr", type=checked(float, 0, True), metavar="RATE", help=f"learning rate {default('lr')}")
    learning.add_argument(
        "--clip", type=checked(float, 0), metavar="NORM",
        help=f"largest norm of the recurrent gradient; 0: no limit {default('clip')}",
    )
    learning.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="adam", help="how gradients become updates (default adam)"
    )
    learning.add_argument(
        "--update-every", type=checked(int, 1), default=1, metavar="U", help="steps between updates (default 1)"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--steps", type=checked(int, 1), metavar="T", help=f"time steps to train {default('steps')}")
    run.add_argument("--seed", type=checked(int, 0), default=0, help="same seed, same run (default 0)")
    run.add_argument("--out", type=Path, metavar="DIR", help=f"folder of the run (default runs/{task}-001, -002, ...)")
    if paper:
        run.add_argument("--preset", choices=("paper",), help="the OK paper's sizes for all options not given")
    run.add_argument(
        "--log-every", type=checked(int, 0), default=0, metavar="T",
        help=f"steps per line of metrics.jsonl (default: {LOG_LINES} lines per run)",
    )
    add_running(run)
    run.set_defaults(save_every=float(SAVE_SECONDS), tensorboard=False)


def add_running(parser):
    """Add the options on how a run is run: none changes what it computes, where no influence overflows."""
    parser.add_argument(
        "--threads", type=checked(int, 1), metavar="N",
        help="threads for the lanes; 1 is best if other programs need the processors (default: all processors; "
        "under MPI 1 per process)",
    )
    parser.add_argument(
        "--save-every", type=checked(float, 0), metavar="SECONDS",
        help=f"seconds between two checkpoints (default {SAVE_SECONDS}; the first after {FIRST_SAVE} at most)",
    )
    parser.add_argument(
        "--time-limit", type=checked(float, 0, True), metavar="SECONDS",
        help="save after that time and exit with status 75, so that a script can resume the run",
    )
    parser.add_argument(
        "--on-overflow", choices=OVERFLOW_CHOICES,
        help="where the product of Jacobians overflows: raise stops the run; forget sets the lane's influence to zero, "
        "counts it in the metrics and goes on (default raise)",
    )
    parser.add_argument(
        "--tensorboard", action=argparse.BooleanOptionalAction,
        help="write the metrics for TensorBoard too, into DIR/tensorboard (default: no)",
    )


class _Parser(argparse.ArgumentParser):
    """A parser, as its subcommands are, that takes whole names only and raises ValueError."""

    def __init__(self, **arguments):
        super().__init__(**arguments | {"allow_abbrev": False})

    def error(self, message):
        """Raise what argparse would print."""
        raise ValueError(message)


def from_mapping(mapping):
    """Return the resolved options of ``okcore train`` for {option: value}, checked as those of the command line are.

    Parameters
    ----------
    mapping : dict
        ``task``, and any option of that task by its name on the command line, with ``_`` or ``-``.

    Raises
    ------
    ValueError
        Naming the option.
    """
    mapping = {name.replace("_", "-"): value for name, value in mapping.items()}
    task = mapping.pop("task", None)
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    positional = [name for name in TASKS[task].options if not name.startswith("-")]
    for name in positional:
        if name not in mapping and "nargs" not in TASKS[task].options[name]:
            raise ValueError(f"{name} must be given for the task {task}")
    positional = [name for name in positional if name in mapping]
    arguments = [task]
    for name in sorted(mapping.keys() - set(positional)):
        if not isinstance(mapping[name], (str, int, float)):
            raise ValueError(f"{name} must be a string, a number or a boolean, got {mapping[name]!r}")
        if isinstance(mapping[name], bool):
            arguments.append(f"--{name}" if mapping[name] else f"--no-{name}")
        else:
            arguments.append(f"--{name}={mapping[name]}")
    if positional:
        arguments += ["--", *(str(mapping[name]) for name in positional)]
    parser = _Parser(prog="okcore train")
    add_tasks(parser)
    return resolve(vars(parser.parse_args(arguments)))


def shadow_options(spec, options):
    """Return the options of an estimator that shadows a run, checked as those of the command line are.

    Parameters
    ----------
    spec : str
        ``"NAME OPTION=VALUE ..."``, such as ``"ok rank=4 block=1"``.
    options : dict
        Of the run; they hold for what `spec` leaves open.

    Raises
    ------
    ValueError
        Naming what is wrong in `spec`.
    """
    name, *assigned = spec.split() or [""]
    if name not in ESTIMATORS:
        raise ValueError(f"--with must begin with one of {', '.join(ESTIMATORS)}, got {spec!r}")
    said = dict(part.partition("=")[::2] for part in assigned)
    taken = ESTIMATORS[name].options
    for option in said:
        if option not in taken:
            known = f"takes {', '.join(taken)}" if taken else "takes no options"
            raise ValueError(f"--with {spec!r}: {name} {known}, got {option!r}")
    task = options["task"]
    needed = {name: options[name] for name in TASKS[task].options if not name.startswith("-")}
    try:
        found = from_mapping({"task": task, "estimator": name, **needed, **said})
    except ValueError as error:
        raise ValueError(f"--with {spec!r}: {error}") from None
    return options | {option: found[option] for option in ("estimator", *said)}


def resolve(said):
    """Return the options of a run: as given, else from the preset, else the default.

    Parameters
    ----------
    said : dict
        The command line's options; None for those not given.
    """
    task = TASKS[said["task"]]
    options = {name: value for name, value in said.items() if name not in ("command", "main", "out", "preset")}
    for name, value in (task.paper if said.get("preset") == "paper" else task.defaults).items():
        if options[name] is None:
            options[name] = value
    task.resolve(options)
    if "with" in options:
        options["with"] = [" ".join(spec.split()) for spec in options["with"]]
    if options["init"] is None:
        options["init"] = "normal" if options["cell"] == "rhn" else "uniform"
    if options["threads"] is None:
        options["threads"] = min(_config.usable_processors(), options["batch"])
    options["valid_every"] = max(1, options["steps"] // (task.evaluations or options["steps"]))
    options["log_every"] = options["log_every"] or max(1, options["steps"] // LOG_LINES)
    return options


def content(options):
    """Return what decides what a run computes: all options but those that may change when it is resumed."""
    return {name: value for name, value in sorted(options.items()) if name not in RESUMABLE}


def streams(options):
    """Return the seeds of task, cell, estimator and readout: children of the one seed."""
    return np.random.SeedSequence(options["seed"]).spawn(4)


def make_model(options, n_in, n_out):
    """Return (cell, readout) for `options`, with their initial weights."""
    _, for_cell, _, for_readout = streams(options)
    start = {"dtype": options["dtype"], "init": options["init"]}
    cell = CELLS[options["cell"]](n_in, options["hidden"], rng=for_cell, **start)
    return cell, TASKS[options["task"]].readout(options["hidden"], n_out, rng=for_readout, **start)


def make_trainer(options, ranks=parallel.ONE_PROCESS):
    """Return (trainer, task) for `options`: a task of all lanes, and a trainer of those of this rank."""
    lanes = ranks.lanes(options["batch"])
    for_task, _, for_estimator, _ = streams(options)
    task = TASKS[options["task"]].from_options(options, for_task)
    cell, readout = make_model(options, task.n_in, task.n_out)
    estimator = ESTIMATORS[options["estimator"]].from_options(
        cell, options | {"batch": len(lanes)}, for_estimator, lanes.start
    )
    optimizer = OPTIMIZERS[options["optimizer"]](options["lr"])
    clip = options["clip"] or None
    trainer = ranks.make_trainer(
        options["batch"], cell, estimator, readout, optimizer, clip, options["update_every"],
        options["late_carry"],
    )
    return trainer, task
