"""The options of a run, their defaults, and the trainer and task made from them."""

from pathlib import Path

import numpy as np

from okcore import _config, tasks
from okcore.cells import CELLS
from okcore.estimators import ESTIMATORS
from okcore.optimizers import OPTIMIZERS
from okcore.readouts import SoftmaxReadout
from okcore.trainer import OnlineTrainer

LOG_LINES = 200   # metrics lines per run
EVALUATIONS = 10  # of the validation text, per run

# The defaults are a small run; the presets are those of the OK paper's experiments.
DEFAULTS = {
    "copy": {"hidden": 64, "rank": 8, "block": 16, "batch": 16, "lr": 1e-3, "clip": 1.0, "steps": 60_000},
    "text": {"hidden": 64, "rank": 8, "block": 16, "batch": 16, "lr": 1e-3, "clip": 100.0, "steps": 10_000},
}
PAPER = {
    "copy": {"hidden": 128, "rank": 16, "block": 16, "batch": 16, "lr": 3.16e-4, "clip": 1.0, "steps": 2_000_000},
    "text": {"hidden": 256, "rank": 8, "block": 16, "batch": 32, "lr": 3.16e-4, "clip": 100.0, "steps": 1_000_000},
}


def resolve(said):
    """Return the options of a run: as given, else from the preset, else the default.

    Parameters
    ----------
    said : dict
        The command line's options; None for those not given.
    """
    options = {name: value for name, value in said.items() if name not in ("command", "out", "preset")}
    defaults = (PAPER if said["preset"] == "paper" else DEFAULTS)[said["task"]]
    for name, value in defaults.items():
        if options[name] is None:
            options[name] = value
    options.setdefault("source", None)
    options.setdefault("valid", None)
    for name in ("source", "valid"):
        if options[name] not in (None, "python-docs"):
            options[name] = str(Path(options[name]).resolve())
    if options["init"] is None:
        options["init"] = "normal" if options["cell"] == "rhn" else "uniform"
    if options["threads"] is None:
        options["threads"] = min(_config.usable_processors(), options["batch"])
    options["valid_every"] = max(1, options["steps"] // EVALUATIONS)
    options["log_every"] = options["log_every"] or max(1, options["steps"] // LOG_LINES)
    return options


def make_task(options, rng):
    """Return the task that `options` name."""
    if options["task"] == "copy":
        return tasks.Copy(options["batch"], rng=rng)
    source = tasks.python_docs() if options["source"] == "python-docs" else options["source"]
    return tasks.Text(source, options["batch"], valid=options["valid"])


def make_trainer(options):
    """Return (trainer, task) for `options`; every random stream is a child of the one seed."""
    for_task, for_cell, for_estimator, for_readout = np.random.SeedSequence(options["seed"]).spawn(4)
    task = make_task(options, for_task)
    start = {"dtype": options["dtype"], "init": options["init"]}
    cell = CELLS[options["cell"]](task.n_in, options["hidden"], rng=for_cell, **start)
    estimator = ESTIMATORS[options["estimator"]].from_options(cell, options, for_estimator)
    readout = SoftmaxReadout(options["hidden"], task.n_out, rng=for_readout, **start)
    optimizer = OPTIMIZERS[options["optimizer"]](options["lr"])
    clip = options["clip"] or None
    return OnlineTrainer(cell, estimator, readout, optimizer, clip, options["update_every"]), task
