"""Interrupt runs at random times, resume them, and compare with runs that nobody interrupted, to the last bit.

    python -m tests.campaigns.kill --kills 200

Every run is a real `okcore train` in processes of its own. The seed draws the options of the runs, the signals and
their times; what a signal hits still depends on the machine, so a failure may need some repeats. A run that fails is
kept.
"""

import argparse
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import okcore
from okcore.cells import CELLS
from okcore.estimators import ESTIMATORS
from okcore.optimizers import OPTIMIZERS
from okcore.runs import checkpoint
from okcore.tasks import TASKS
from tests.test_runs import assert_same_run, command

SIGNALS = "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"

STEPS = 5000            # a second or so
KILLS_PER_RUN = 5       # at most; then the run is left to finish
TIMEOUT = 120           # seconds that no process needs
PACKAGE = str(Path(okcore.__file__).parent)


class Failure(Exception):
    """A run that is not what it should be."""


def case(number, seed):
    """Return (estimator, task, options, rng) of a run: each algorithm meets each task in turn; the rest is drawn."""
    rng = np.random.default_rng([seed, number])
    estimator = tuple(ESTIMATORS)[number % len(ESTIMATORS)]
    task = tuple(TASKS)[(number + number // len(ESTIMATORS)) % len(TASKS)]
    options = {
        "estimator": estimator,
        "cell": rng.choice(tuple(CELLS)),
        "dtype": rng.choice(("float32", "float64")),
        "optimizer": rng.choice(tuple(OPTIMIZERS)),
        "hidden": rng.integers(1, 9), "batch": rng.integers(1, 5),
        "rank": rng.integers(1, 4), "block": rng.integers(1, 7), "update-every": rng.choice((1, 1, 3)),
        "lr": 1e-3, "seed": rng.integers(1000), "steps": STEPS, "log-every": rng.integers(5, 500), "save-every": 0.05,
    }  # fmt: skip
    return estimator, task, [word for name, value in options.items() for word in (f"--{name}", value)], rng


def ends(arguments, name=None, after=None):
    """Run a command; send it the signal `name` after some seconds if it runs still. Return whether it was sent."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    sent = False
    with subprocess.Popen(command(*arguments), **pipes) as process:
        try:
            said, errors = process.communicate(timeout=TIMEOUT if name is None else after)
        except subprocess.TimeoutExpired:
            if name is None:
                process.kill()
                raise Failure(f"no end after {TIMEOUT} s") from None
            process.send_signal(getattr(signal, name))
            sent = True
            try:
                said, errors = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Failure(f"no end {TIMEOUT} s after {name}") from None
    # Without the run's own handler, early or late, a signal ends a process in the system's way, SIGINT in Python's.
    allowed = {0} if name is None else {0, -getattr(signal, name)} | ({130} if name == "SIGINT" else set())
    if name == "SIGINT" and "Fatal Python error: init_" in errors:  # the interpreter starts; none of our code has run
        return sent
    if process.returncode not in allowed:
        raise Failure(f"exit status {process.returncode}: {said}{errors}")
    before_the_guard = "from okcore import _interrupt" in errors  # as Python itself starts: less than a millisecond
    if "Traceback" in errors and PACKAGE in errors and not before_the_guard:
        raise Failure(f"a traceback: {errors}")
    return sent


def steps_taken(folder):
    """Return the step of the newest checkpoint."""
    path = folder / "checkpoint.npz"
    return checkpoint.read(path)["trainer"]["steps"] if path.exists() else 0


def interrupted(number, seed, folder, kills=KILLS_PER_RUN):
    """Make a run of its own twice, once interrupted up to `kills` times; return (estimator, signals sent).

    Raises
    ------
    Failure
        If the two differ, or a process ends as it should not.
    """
    estimator, task, options, rng = case(number, seed)
    text = folder / "text.txt"
    text.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind\n" * 20)
    whole, parts = folder / "whole", folder / "parts"
    arguments = ["train", task, *([text] if task == "text" else []), *options]
    history = [" ".join(map(str, arguments))]
    try:
        start = time.monotonic()
        ends([*arguments, "--out", whole])
        duration = time.monotonic() - start
        sent = Counter()
        while True:
            threads = ["--threads", rng.integers(1, 3)]  # no bit depends on it
            again = ["resume", parts] if (parts / "run.json").exists() else [*arguments, "--out", parts]
            name, after = rng.choice(SIGNALS), rng.uniform(0, duration)
            if sent.total() == kills:
                ends([*again, *threads])
                break
            history.append(f"{again[0]} with {threads[1]} threads, {name} after {after:.3f} s")
            if not ends([*again, *threads], name, after):
                break
            sent[str(name)] += 1
        if steps_taken(parts) != STEPS:
            raise Failure(f"it ended at step {steps_taken(parts)} of {STEPS}")
        try:
            assert_same_run(parts, whole)
        except AssertionError as error:
            raise Failure(f"not the run that nobody interrupted: {error}") from None
    except Failure as error:
        raise Failure("\n  ".join([f"run {number}", *history, str(error)])) from None
    return estimator, sent


def campaign(kills, seed, jobs=2, kills_per_run=KILLS_PER_RUN):
    """Interrupt runs until `kills` signals were sent; return (a Counter of (estimator, signal), runs, failures)."""
    table, runs, failures, number = Counter(), Counter(), [], 0

    def run(number):
        folder = Path(tempfile.mkdtemp(prefix=f"okcore-kill-{number}-"))
        try:
            result = interrupted(number, seed, folder, kills_per_run)
        except Failure as error:
            return None, f"{error}\n  kept in {folder}"
        shutil.rmtree(folder)
        return result, None

    with ThreadPoolExecutor(jobs) as pool:
        while table.total() < kills:
            for result, failure in pool.map(run, range(number, number + jobs)):
                if failure is not None:
                    failures.append(failure)
                    print(failure, file=sys.stderr, flush=True)
                    continue
                estimator, sent = result
                runs[estimator] += 1
                table.update({(estimator, name): n for name, n in sent.items()})
            number += jobs
            if len(failures) > 10:
                break
    return table, runs, failures


def main():
    """Run the campaign, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    table, runs, failures = campaign(arguments.kills, seed, arguments.jobs)
    print(f"{'algorithm':<10}" + "".join(f"{name:>9}" for name in SIGNALS) + f"{'runs equal':>12}")
    for estimator in ESTIMATORS:
        counts = "".join(f"{table[estimator, name]:>9}" for name in SIGNALS)
        print(f"{estimator:<10}{counts}{runs[estimator]:>12}")
    print(f"{table.total()} signals in {runs.total()} runs that came out equal; {len(failures)} failures; seed {seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
