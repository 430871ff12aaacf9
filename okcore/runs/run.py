"""A run: a folder with options, metrics and a checkpoint, from which it resumes with bit-identical results."""

import contextlib
import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from okcore import _config, _validation
from okcore.runs import checkpoint, files
from okcore.runs.options import make_trainer

SAVE_SECONDS = 60      # between two checkpoints, unless --save-every says otherwise
PLAIN_LINES = 20       # lines printed per run if there is no terminal for a progress bar
FIRST_SAVE = 5         # seconds to the first checkpoint, at most
RESUMABLE = "steps", "threads", "save_every", "log_every", "valid_every"   # may differ when a run is resumed


SILENCED = set()       # streams that nobody can read any more


@contextmanager
def stop_signals(stopped):
    """Record SIGINT, SIGTERM and SIGHUP in the list `stopped`, so that the run can finish its step and save.

    A signal that is ignored (nohup) stays ignored.
    """

    def stop(number, frame):
        stopped.append(signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # signals are the main thread's
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(*text, file=None):
    """Print a line, to standard output unless told; return whether somebody can read it."""
    file = sys.stdout if file is None else file
    if file in SILENCED:
        return False
    try:
        print(*text, file=file, flush=True)
        return True
    except OSError:
        silence(file)
        return False


def silence(stream):
    """Send a stream that cannot be written to, a closed pipe or a lost terminal, to nowhere.

    What it still holds would otherwise fail as Python flushes it at its end, and give another exit status.
    """
    SILENCED.add(stream)
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Forgiving:
    """Standard error for a progress bar: a terminal that has gone is no reason to end a run halfway through a step."""

    encoding = property(lambda self: sys.stderr.encoding)

    def write(self, text):
        """Write what can be written."""
        try:
            sys.stderr.write(text)
        except OSError:
            silence(sys.stderr)

    def flush(self):
        """Flush what can be flushed."""
        try:
            sys.stderr.flush()
        except OSError:
            silence(sys.stderr)

    def isatty(self):
        """Return whether it is a terminal."""
        return sys.stderr.isatty()

    def fileno(self):
        """Return the descriptor, for the width of the terminal."""
        return sys.stderr.fileno()


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

    Notes
    -----
    The folder holds ``run.json`` (options, versions, machine), ``metrics.jsonl`` (one line per `log_every` steps) and
    ``checkpoint.npz``; the previous checkpoint is kept as ``checkpoint.previous.npz``.
    """

    def __init__(self, folder, options):
        self.folder = None if folder is None else Path(folder)
        self.options = {"save_every": SAVE_SECONDS} | options
        self.trainer, self.task = make_trainer(options)
        self.time = 0.0           # seconds of training, summed over resumes
        self.loss_sum = 0.0       # since the last metrics line
        self.loss_count = 0

        self.lock = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    @classmethod
    def create(cls, folder, options):
        """Start a run in a folder that does not hold one; None takes runs/<task>-001, or the first number that is free.

        The folder is this process's until the run is left (it is a context manager).
        """
        folder = None if folder is None else Path(folder)
        if folder is not None and folder.exists() and not folder.is_dir():
            raise FileExistsError(f"--out must be a folder, got the file {str(folder)!r}")
        run = cls(folder, options)
        if folder is None:
            run.folder = new_folder(options["task"])
        else:
            folder.mkdir(parents=True, exist_ok=True)
        run.lock = files.hold(run.folder)
        try:
            if any((run.folder / name).exists() for name in ("run.json", "checkpoint.npz", "metrics.jsonl")):
                raise FileExistsError(
                    f"--out must be a new folder, got {str(folder)!r}, which holds a run: use "
                    f"okcore resume {shlex.quote(str(folder))}"
                )
            files.remove_partial(run.folder)
            run._write_description()
            files.replace_text(run.folder / "metrics.jsonl", "")
        except BaseException:
            run.__exit__()
            raise
        return run

    @classmethod
    def open(cls, folder, steps=None, threads=None, save_every=None):
        """Resume the run in `folder` from its newest intact checkpoint; `steps` replaces its last step."""
        folder = Path(folder)
        if not (folder / "run.json").exists():
            raise FileNotFoundError(f"DIR must hold a run, got {str(folder)!r} without a run.json")
        lock = files.hold(folder)
        try:
            run = cls._open(folder, {"steps": steps, "threads": threads, "save_every": save_every})
        except BaseException:
            os.close(lock)
            raise
        run.lock = lock
        return run

    @classmethod
    def _open(cls, folder, said):
        files.remove_partial(folder)
        try:
            description = json.loads((folder / "run.json").read_text())
            options = dict(description["options"])
            options |= {name: value for name, value in said.items() if value is not None}
            numbers = {name: options[name] for name in ("steps", "threads", "log_every", "valid_every")}
            versions, resumed = description["versions"], description.get("resumed", [])
        except (LookupError, TypeError, ValueError) as error:  # JSON's and UTF-8's errors are ValueErrors
            raise ValueError(f"{folder / 'run.json'} is damaged: {type(error).__name__} {error}") from None
        for name, number in numbers.items():
            _validation.as_int(f"{folder / 'run.json'}: {name}", number, 1)
        try:
            run = cls(folder, options)
        except (LookupError, TypeError) as error:
            raise ValueError(f"{folder / 'run.json'} is damaged: {type(error).__name__} {error}") from None
        if (folder / "checkpoint.npz").exists() or checkpoint.previous(folder / "checkpoint.npz").exists():
            run._restore(checkpoint.read_newest(folder / "checkpoint.npz"))
        if said["steps"] is not None and said["steps"] < run.trainer.steps:
            raise ValueError(f"--steps must be at least the {run.trainer.steps} already taken, got {said['steps']}")
        now = _config.config()
        if found := different(resumed[-1]["versions"] if resumed else versions, now):
            warnings.warn("the last bits of the results may differ from here on: " + "; ".join(found), stacklevel=2)
        run._cut_metrics()
        run._write_description(versions, [*resumed, {"step": run.trainer.steps, "versions": now}])
        return run

    def _write_description(self, versions=None, resumed=()):
        options = self.options | {"block": self.trainer.estimator.block}
        description = {
            "options": options,
            "parameters": self.trainer.cell.theta.size,
            "versions": versions or _config.config(),
            "resumed": list(resumed),
        }
        files.replace_text(self.folder / "run.json", json.dumps(description, indent=2) + "\n")

    def _hyperparameters(self):
        """Return what must not change over a run's life, as text."""
        options = self.options | {"block": self.trainer.estimator.block}
        return json.dumps({name: value for name, value in sorted(options.items()) if name not in RESUMABLE})

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
        own = {
            "time": self.time, "loss_sum": self.loss_sum, "loss_count": self.loss_count,
            "options": self._hyperparameters(),
        }  # fmt: skip
        groups = {**self.trainer.state_dict(), "task": self.task.state_dict(), "run": own}
        checkpoint.write(self.folder / "checkpoint.npz", groups, keep=True)

    def train(self):
        """Train to the last step; return what stopped it early (a signal's name, say), or None.

        Whatever ends the training, a checkpoint is written.
        """
        total, first = self.options["steps"], self.trainer.steps
        every, save_every = self.options["log_every"], self.options["save_every"]
        shown = sys.stderr.isatty()
        bar = tqdm(total=total, initial=first, unit="step", disable=not shown, dynamic_ncols=True, file=Forgiving())
        stopped = []
        clock = time.monotonic()
        next_save = clock + min(save_every, FIRST_SAVE)

        def after_step(trainer, loss):
            nonlocal clock, next_save
            now = time.monotonic()
            self.time += now - clock
            clock = now
            self.loss_sum += loss
            self.loss_count += 1
            bar.update()
            if (trainer.steps % every == 0 or trainer.steps == total) and not self._log(metrics, bar):
                stopped.append("a closed standard output")
            if now > next_save:
                self.save()
                next_save = now + save_every
            return bool(stopped)

        with stop_signals(stopped), bar, open(self.folder / "metrics.jsonl", "a") as metrics:
            try:
                self.trainer.fit(self.task, max(0, total - first), progress=False, callback=after_step)
            except BaseException:
                bar.close()
                self._save_after_failure()
                raise
            self.save()
        return stopped[0] if stopped and self.trainer.steps < total else None

    def _save_after_failure(self):
        """Write a checkpoint if it can be resumed from; say where the newest one is."""
        arrays = checkpoint.flatten(self.trainer.state_dict()).values()
        if all(np.isfinite(array).all() for array in arrays if getattr(array, "dtype", None) in ("f", "d")):
            self.save()
        if (self.folder / "checkpoint.npz").exists():
            say(f"The run failed; its last checkpoint is in {self.folder}", file=sys.stderr)

    def _log(self, metrics, bar):
        """Write a line of metrics and show it; return False if nobody can read what is printed."""
        step, total = self.trainer.steps, self.options["steps"]
        line = {"step": step, "time_s": round(self.time, 3), "loss_bits": self.loss_sum / self.loss_count}
        self.loss_sum, self.loss_count = 0.0, 0
        if self.options["task"] == "copy":
            line["copy_length"] = self.task.length
            said = f"copy length {self.task.length}"
        else:
            every = self.options["valid_every"]  # on the first line after each multiple of it
            due = step == total or step // every > (step - self.options["log_every"]) // every
            line["valid_bpc"] = self.trainer.evaluate_bits(self.task.valid) if due else None
            said = "" if line["valid_bpc"] is None else f"validation {line['valid_bpc']:.3f} bits per character"
        metrics.write(json.dumps(line) + "\n")
        metrics.flush()
        said = f"loss {line['loss_bits']:.3f} bits" + (f", {said}" if said else "")
        if not bar.disable:
            bar.set_postfix_str(said)
        elif step == total or step * PLAIN_LINES // total > (step - self.options["log_every"]) * PLAIN_LINES // total:
            return say(f"step {step:>{len(str(total))}} of {total}: {said}")
        return True

    def summary(self):
        """Return a sentence about what the network has learned."""
        steps = f"{self.trainer.steps:,} steps"
        seconds = f"{self.time:.0f} s"
        if self.options["task"] == "copy":
            length = self.task.length
            learned = (
                f"the network repeats random strings of {length - 1} bits almost without error and is learning {length}"
                if length > 1
                else "the network does not yet repeat a single bit reliably"
            )
            return f"After {steps} ({seconds}) the copy length is {length}: {learned}."
        bits = self.trainer.evaluate_bits(self.task.valid)
        return (
            f"After {steps} ({seconds}) the network predicts the validation text with {bits:.3f} bits per character "
            f"(guessing among its {self.task.n_out} characters would take {np.log2(self.task.n_out):.2f})."
        )


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
