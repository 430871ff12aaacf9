"""A run: a folder with options, metrics and a checkpoint, from which it resumes with bit-identical results."""

import contextlib
import itertools
import json
import math
import os
import shlex
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

from okcore import _config, _validation
from okcore._progress import progress_bar
from okcore.runs import checkpoint, files, parallel, tensorboard
from okcore.runs.console import Forgiving, say, stop_signals
from okcore.runs.options import FIRST_SAVE, SAVE_SECONDS, content, make_trainer

TIME_LIMIT = "the time limit"
QUESTION_SECONDS = 0.25  # between two looks at whether a run should stop
PLAIN_LINES = 20       # lines printed per run if there is no terminal for a progress bar


def different(old, new):
    """Return what differs between two installations so that last bits may differ, in words."""

    def blas(config):
        pools = [pool for pool in config.get("thread_pools", ()) if pool.get("user_api") == "blas"]
        return sorted({f"{p.get('internal_api')} {p.get('version')} ({p.get('architecture')})" for p in pools})

    names = {name: (old.get(name), new.get(name)) for name in ("okcore", "numpy", "scipy", "instructions", "build")}
    names["BLAS"] = blas(old), blas(new)
    return [f"{name} {after} instead of {before}" for name, (before, after) in names.items() if before != after]


class Run:
    """A training run in a folder.

    Parameters
    ----------
    folder : str or Path
    options : dict
        The entry "options" of ``run.json``.
    ranks : okcore.runs.parallel.OneProcess or Ranks
        The processes that carry it out together; every one of them makes the same calls.

    Notes
    -----
    The folder holds ``run.json`` (options, versions, machine), ``metrics.jsonl`` (one line per `log_every` steps) and
    ``checkpoint.npz``; the previous checkpoint is kept as ``checkpoint.previous.npz``.
    """

    make_trainer = staticmethod(make_trainer)

    def __init__(self, folder, options, ranks=parallel.ONE_PROCESS):
        self.folder = None if folder is None else Path(folder)
        usual = {"save_every": SAVE_SECONDS, "time_limit": None, "tensorboard": False, "on_overflow": None}
        self.options = usual | options
        if self.options["tensorboard"]:
            tensorboard.summary_writer()  # refused now if it is not there
        self.ranks = ranks
        self.trainer, self.task = self.make_trainer(options, ranks)
        self.time = 0.0           # seconds of training, summed over resumes
        self.loss_sum = 0.0       # since the last metrics line
        self.loss_count = 0
        self.measured = None      # of the last metrics line that has one
        self.overflows = 0        # influences forgotten by then, of all ranks
        self.events = None        # TensorBoard's, while the run is training
        self.lock = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    @staticmethod
    def create(folder, options, ranks=parallel.ONE_PROCESS):
        """Start a run in a folder that does not hold one; None takes runs/<task>-001, or the first number that is free.

        The folder is this process's until the run is left (it is a context manager).
        """
        run = ranks.each(run_of, folder, options, ranks)
        run.folder = ranks.lead(run._claim)
        return run

    def _claim(self):
        """Make the folder and take it for this process; return it."""
        folder = self.folder
        if folder is None:
            self.folder = new_folder(self.options["task"])
        elif folder.exists() and not folder.is_dir():
            raise FileExistsError(f"--out must be a folder, got the file {str(folder)!r}")
        else:
            folder.mkdir(parents=True, exist_ok=True)
        self.lock = files.hold(self.folder)
        try:
            if any((self.folder / name).exists() for name in ("run.json", "checkpoint.npz", "metrics.jsonl")):
                raise FileExistsError(
                    f"--out must be a new folder, got {str(folder)!r}, which holds a run: use "
                    f"okcore resume {shlex.quote(str(folder))}"
                )
            files.remove_partial(self.folder)
            self._write_description()
            files.replace_text(self.folder / "metrics.jsonl", "")
        except BaseException:
            self.__exit__()
            raise
        return self.folder

    @staticmethod
    def open(folder, ranks=parallel.ONE_PROCESS, **changes):
        """Resume the run in `folder` from its newest intact checkpoint.

        Parameters
        ----------
        folder : str or Path
        ranks : OneProcess or Ranks
        **changes
            Of ``steps``, ``threads``, ``save_every``, ``time_limit``, ``tensorboard`` and ``on_overflow``; None leaves
            what the run has.
        """
        folder = Path(folder)
        lock = ranks.lead(Run._hold, folder)
        try:
            run = Run._open(folder, changes, ranks)
        except BaseException:
            if ranks.leader:
                os.close(lock)
            raise
        run.lock = lock if ranks.leader else None
        return run

    @staticmethod
    def _hold(folder):
        """Take the folder for this process."""
        read_description(folder)  # a folder that is no run is not claimed
        return files.hold(folder)

    @staticmethod
    def _open(folder, said, ranks):
        options, versions, resumed = ranks.lead(Run._read_description, folder, said)
        run = ranks.each(Run._make, folder, options, ranks)
        groups = ranks.take(run._read_checkpoint)
        if groups is not None:
            ranks.each(run._restore, groups)
        ranks.lead(run._prepare_folder, said, versions, resumed)
        return run

    @staticmethod
    def _make(folder, options, ranks):
        try:
            return run_of(folder, options, ranks)
        except (LookupError, TypeError) as error:
            raise ValueError(f"{folder / 'run.json'} is damaged: {type(error).__name__} {error}") from None

    @staticmethod
    def _read_description(folder, said):
        """Return the options of the run in `folder`, with those `said`, its versions and those it was resumed with."""
        files.remove_partial(folder)
        description = read_description(folder)
        try:
            options = dict(description["options"])
            options["time_limit"] = None  # that of this process only
            options |= {name: value for name, value in said.items() if value is not None}
            numbers = {name: options[name] for name in ("steps", "threads", "log_every", "valid_every")}
            versions, resumed = description["versions"], description.get("resumed", [])
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'run.json'} is damaged: {type(error).__name__} {error}") from None
        for name, number in numbers.items():
            _validation.as_int(f"{folder / 'run.json'}: {name}", number, 1)
        return options, versions, resumed

    def _read_checkpoint(self):
        """Return the groups of the newest intact checkpoint, or None."""
        path = self.folder / "checkpoint.npz"
        if path.exists() or checkpoint.previous(path).exists():
            return checkpoint.read_newest(path)
        return None

    def _prepare_folder(self, said, versions, resumed):
        """Make the folder ready to go on from the checkpoint."""
        if (said.get("steps") or math.inf) < self.trainer.steps:
            raise ValueError(f"--steps must be at least the {self.trainer.steps} already taken, got {said['steps']}")
        now = _config.config()
        if found := different(resumed[-1]["versions"] if resumed else versions, now):
            warnings.warn("the last bits of the results may differ from here on: " + "; ".join(found), stacklevel=2)
        self._cut_metrics()
        self._write_description(versions, [*resumed, {"step": self.trainer.steps, "versions": now}])

    def _write_description(self, versions=None, resumed=()):
        options = self.options | {"block": self.trainer.estimator.block}
        description = {
            "options": options,
            "task": self.task.description(),
            "parameters": self.trainer.cell.theta.size,
            "versions": versions or _config.config(),
            "resumed": list(resumed),
        }
        files.replace_text(self.folder / "run.json", json.dumps(description, indent=2) + "\n")

    def _hyperparameters(self):
        """Return what must not change over a run's life, as text."""
        options = self.options | {"block": self.trainer.estimator.block}
        return json.dumps(content(options))

    def _restore(self, groups):
        entries = ("time", "loss_sum", "loss_count", "options")
        own = _validation.as_dict("checkpoint's group run", groups.get("run"), entries)
        before, now = json.loads(own["options"]), json.loads(self._hyperparameters())
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"{self.folder / 'run.json'}: {name} must be {before.get(name)!r}, as in the checkpoint, "
                    f"got {now.get(name)!r} (an option of a run cannot change; start a new one)"
                )
        self.trainer.load_state_dict(groups)
        self.task.load_state_dict(groups.get("task"))
        self.time, self.loss_sum, self.loss_count = own["time"], own["loss_sum"], own["loss_count"]

    def _cut_metrics(self):
        """Drop the lines after the checkpoint: those steps will be repeated."""
        path = self.folder / "metrics.jsonl"
        kept = []
        for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
            try:
                if json.loads(line.decode())["step"] <= self.trainer.steps:
                    kept.append(line.decode())
            except UnicodeDecodeError:
                raise ValueError(f"{path}, line {number}, is damaged: it is not UTF-8") from None
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # half a line, from when the run was killed
        files.replace_text(path, "".join(line + "\n" for line in kept))

    def save(self):
        """Write the checkpoint."""
        self.ranks.lead(self._write_checkpoint, self.ranks.join(self.trainer.state_dict()))

    def _write_checkpoint(self, groups):
        own = {
            "time": self.time, "loss_sum": self.loss_sum, "loss_count": self.loss_count,
            "options": self._hyperparameters(),
        }  # fmt: skip
        groups = {**groups, "task": self.task.state_dict(), "run": own}
        checkpoint.write(self.folder / "checkpoint.npz", groups, keep=True)

    def train(self, output=None, until=None):
        """Train to the last step; return what stopped it early (a signal's name, say), or None.

        Whatever ends the training, a checkpoint is written.

        Parameters
        ----------
        output : file, optional
            For plain lines; by default a progress bar on a terminal and in a notebook, else lines on standard output.
        until : callable, optional
            Asked a few times per second; what it returns, if anything, stops the run.
        """
        total, first, ranks = self.options["steps"], self.trainer.steps, self.ranks
        every, save_every = self.options["log_every"], self.options["save_every"]
        show = None if ranks.leader and output is None else False
        bar = progress_bar(show, total=total, initial=first, unit="step", dynamic_ncols=True, file=Forgiving())
        stopped = []
        start = clock = time.monotonic()
        limit = self.options["time_limit"] or math.inf
        next_save = clock + min(save_every, FIRST_SAVE)
        next_question = clock if until else math.inf

        def after_step(trainer, loss):
            nonlocal clock, next_save, next_question
            now = time.monotonic()
            self.time += now - clock
            clock = now
            self.loss_sum += loss
            self.loss_count += 1
            bar.update()
            if trainer.steps % every == 0 or trainer.steps == total:
                ranks.check(trainer)
                self.overflows = sum(ranks.collect([self._overflows()]))
                if ranks.leader and not self._log(metrics, bar, output):
                    stopped.append("a closed standard output")
            if now - start > limit:
                stopped.append(TIME_LIMIT)
            if now > next_question:
                next_question = now + QUESTION_SECONDS
                if reason := until():
                    stopped.append(reason)
            stop, save = ranks.agree(bool(stopped), now > next_save)
            if save:
                self.save()
                next_save = now + save_every
            return stop

        task = ranks.share(self.task, self.trainer.estimator)
        lines = self.folder / "metrics.jsonl" if ranks.leader else os.devnull
        wanted = ranks.leader and self.options["tensorboard"]
        events = tensorboard.open_events(self.folder, first) if wanted else contextlib.nullcontext()
        with stop_signals(stopped), bar, events as self.events, open(lines, "a") as metrics:
            try:
                self.trainer.fit(task, max(0, total - first), progress=False, callback=after_step)
            except BaseException as error:
                bar.close()
                self._save_after_failure(error, output)
                raise
            self.save()
            stopped = ranks.collect(stopped)
        return stopped[0] if stopped and self.trainer.steps < total else None

    def _save_after_failure(self, error, output):
        """Write a checkpoint if it can be resumed from; say where the newest one is."""
        if self.ranks.share_failure(error) and not isinstance(error, parallel.ParametersDiffer):
            with contextlib.suppress(parallel.StepsDiffer):
                if all(self.ranks.collect([self._can_resume()])):
                    self.save()
        if self.ranks.leader and (self.folder / "checkpoint.npz").exists():
            say(f"The run failed; its last checkpoint is in {self.folder}", file=output or sys.stderr)

    def _can_resume(self):
        arrays = checkpoint.flatten(self.trainer.state_dict()).values()
        return all(np.isfinite(array).all() for array in arrays if getattr(array, "dtype", None) in ("f", "d"))

    def _overflows(self):
        """Return how many influences were forgotten so far."""
        return self.trainer.estimator.overflows

    def _more_metrics(self):
        """Return what a line of metrics holds beside the loss and the task's measure."""
        return {}

    def _log(self, metrics, bar, output):
        """Write a line of metrics and show it; return False if nobody can read what is printed."""
        step, total = self.trainer.steps, self.options["steps"]
        line = {"step": step, "time_s": round(self.time, 3), "loss_bits": self.loss_sum / self.loss_count}
        self.loss_sum, self.loss_count = 0.0, 0
        every = self.options["valid_every"]  # on the first line after each multiple of it
        if due := step == total or step // every > (step - self.options["log_every"]) // every:
            self.measured = self.task.evaluate(self.trainer)
        line[self.task.measure] = self.measured if due else None
        said = [f"loss {line['loss_bits']:.3f} bits"]
        if due:
            said.append(f"{self.task.words} {self.measured:.4g}")
        if self.options["on_overflow"] == "forget":
            line["overflows"] = self.overflows
            if self.overflows:
                said.append(f"{self.overflows} influences forgotten")
        line |= self._more_metrics()
        metrics.write(json.dumps(line) + "\n")
        metrics.flush()
        if self.events is not None:
            tensorboard.add_line(self.events, line)
        said = ", ".join(said)
        if not bar.disable:
            bar.set_postfix_str(said)
        elif step == total or step * PLAIN_LINES // total > (step - self.options["log_every"]) * PLAIN_LINES // total:
            return say(f"step {step:>{len(str(total))}} of {total}: {said}", file=output)
        return True

    def introduction(self):
        """Return what is trained."""
        spread = f"\n{self.options['batch']} lanes on {self.ranks.size} processes" if self.ranks.size > 1 else ""
        return f"{self.trainer.cell.theta.size:,} recurrent parameters, {self.trainer.estimator!r}{spread}"

    def summary(self):
        """Return a sentence about what the network has learned."""
        value = self.task.evaluate(self.trainer) if self.measured is None else self.measured
        return f"After {self.trainer.steps:,} steps ({self.time:.0f} s) {self.task.summary(value)}"


def steps_taken(folder):
    """Return the steps of a run that its checkpoint holds, 0 if there is none that can be read."""
    try:
        with np.load(Path(folder) / "checkpoint.npz", allow_pickle=False) as file:
            return int(file["trainer/steps"])
    except (OSError, LookupError, ValueError, zipfile.BadZipFile):
        return 0


def read_description(folder):
    """Return what the ``run.json`` of a folder holds."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"DIR must hold a run, got {str(folder)!r} without a run.json")
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # JSON's and UTF-8's errors are ValueErrors
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from None


def run_of(folder, options, ranks):
    """Return the run that has these options: a comparison if there are estimators to compare with."""
    from okcore.runs.compare import Comparison  # which builds on Run

    return (Comparison if "with" in options else Run)(folder, options, ranks)


def new_folder(task):
    """Make runs/<task>-001, or the first number that is free: making it is what claims it."""
    for number in itertools.count(1):
        folder = Path("runs") / f"{task}-{number:03d}"
        folder.parent.mkdir(exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
