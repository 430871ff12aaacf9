"""A run: a folder with options, metrics and a checkpoint, from which it resumes with bit-identical results."""

import json
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from okcore import _config, _validation
from okcore.runs import checkpoint
from okcore.runs.options import make_trainer

PLAIN_LINES = 20       # lines printed per run if there is no terminal for a progress bar
SAVE_SECONDS = 60      # seconds between two checkpoints


@contextmanager
def stop_signals(stopped):
    """Record SIGINT and SIGTERM in the list `stopped`, so that the run can finish its step and save."""

    def stop(number, frame):
        stopped.append(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        self.folder = Path(folder)
        self.options = options
        self.trainer, self.task = make_trainer(options)
        self.time = 0.0           # seconds of training, summed over resumes
        self.loss_sum = 0.0       # since the last metrics line
        self.loss_count = 0

    @classmethod
    def create(cls, folder, options):
        """Start a run in a folder that does not hold one."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"--out must be a folder, got the file {str(folder)!r}")
        if any((folder / name).exists() for name in ("run.json", "checkpoint.npz", "metrics.jsonl")):
            raise FileExistsError(
                f"--out must be a new folder, got {str(folder)!r}, which holds a run: use okcore resume {folder}"
            )
        run = cls(folder, options)
        folder.mkdir(parents=True, exist_ok=True)
        run._write_description()
        (folder / "metrics.jsonl").write_text("")
        return run

    @classmethod
    def open(cls, folder, steps=None, threads=None):
        """Open the run in `folder` at its newest sound checkpoint; `steps` replaces its last step."""
        folder = Path(folder)
        try:
            description = json.loads((folder / "run.json").read_text())
            changed = {"steps": steps, "threads": threads}
            options = description["options"] | {name: value for name, value in changed.items() if value is not None}
            run = cls(folder, options)
            versions, resumed = description["versions"], description.get("resumed", [])
        except FileNotFoundError as error:
            if (folder / "run.json").exists():  # the text is missing, not the run
                raise
            raise FileNotFoundError(f"DIR must hold a run, got {str(folder)!r} without a run.json") from error
        except (LookupError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder / 'run.json'} is damaged: {type(error).__name__} {error}") from None
        if (folder / "checkpoint.npz").exists() or checkpoint.previous(folder / "checkpoint.npz").exists():
            run._restore(checkpoint.read_newest(folder / "checkpoint.npz"))
        if steps is not None and steps < run.trainer.steps:
            raise ValueError(f"--steps must be at least the {run.trainer.steps} that the run has taken, got {steps}")
        run._cut_metrics()
        run._write_description(versions, [*resumed, {"step": run.trainer.steps, "versions": _config.config()}])
        return run

    def _write_description(self, versions=None, resumed=()):
        options = self.options | {"block": self.trainer.estimator.block}
        description = {
            "options": options,
            "parameters": self.trainer.cell.theta.size,
            "versions": versions or _config.config(),
            "resumed": list(resumed),
        }
        partial = self.folder / "run.json.partial"
        partial.write_text(json.dumps(description, indent=2) + "\n")
        partial.replace(self.folder / "run.json")

    def _restore(self, groups):
        own = _validation.as_dict("checkpoint's group run", groups.get("run"), ("time", "loss_sum", "loss_count"))
        self.trainer.load_state_dict(groups)
        self.task.load_state_dict(groups.get("task"))
        self.time, self.loss_sum, self.loss_count = own["time"], own["loss_sum"], own["loss_count"]

    def _cut_metrics(self):
        """Drop the lines after the checkpoint: those steps will be repeated."""
        path = self.folder / "metrics.jsonl"
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                if json.loads(line)["step"] <= self.trainer.steps:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # half a line, from when the run was killed
        partial = self.folder / "metrics.jsonl.partial"
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(path)

    def save(self):
        """Write the checkpoint."""
        own = {"time": self.time, "loss_sum": self.loss_sum, "loss_count": self.loss_count}
        groups = {**self.trainer.state_dict(), "task": self.task.state_dict(), "run": own}
        checkpoint.write(self.folder / "checkpoint.npz", groups, keep=True)

    def train(self):
        """Train to the last step; return the name of the signal that stopped it early, or None."""
        total, first = self.options["steps"], self.trainer.steps
        every = self.options["log_every"]
        bar = tqdm(total=total, initial=first, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        stopped = []
        clock = saved = time.monotonic()

        def after_step(trainer, loss):
            nonlocal clock, saved
            now = time.monotonic()
            self.time += now - clock
            clock = now
            self.loss_sum += loss
            self.loss_count += 1
            bar.update()
            if trainer.steps % every == 0 or trainer.steps == total:
                self._log(metrics, bar)
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
            return bool(stopped)

        with stop_signals(stopped), bar, open(self.folder / "metrics.jsonl", "a") as metrics:
            try:
                self.trainer.fit(self.task, max(0, total - first), progress=False, callback=after_step)
            except FloatingPointError:
                bar.close()
                if (self.folder / "checkpoint.npz").exists():
                    print(f"The run failed; its last checkpoint is in {self.folder}", file=sys.stderr)
                raise
            self.save()
        return stopped[0] if stopped and self.trainer.steps < total else None

    def _log(self, metrics, bar):
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
            print(f"step {step:>{len(str(total))}} of {total}: {said}", flush=True)

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


def free_folder(task):
    """Return runs/<task>-001, or the first number that is not taken."""
    number = 1
    while (folder := Path("runs") / f"{task}-{number:03d}").exists():
        number += 1
    return folder

