"""okcore sweep: many runs, each in a folder named by its content, on the processors of one machine or of many."""

import contextlib
import hashlib
import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time
import tomllib
import traceback
import uuid
import warnings
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from okcore import _config
from okcore._progress import progress_bar
from okcore.runs import files
from okcore.runs.console import INCOMPLETE, Forgiving, called, say, stop_signals
from okcore.runs.options import checked, content, from_mapping
from okcore.runs.run import TIME_LIMIT, Run, steps_taken
from okcore.tasks import TASKS

EXAMPLES = """\
Carry out the runs of a grid, several at a time. A sweep can be killed anywhere and started again, also with other -j,
--backend or --shard: complete runs are skipped and the others resumed, with bit-identical results.

GRID.toml holds options of "okcore train":

  [defaults]
  task = "copy"
  steps = 20000
  [grid]                        # each with each; several grids are written as [[grid]]
  estimator = ["ok", "uoro"]
  seed = [0, 1, 2]
  [[run]]                       # and single ones
  estimator = "rtrl"

The exit status is 0 if all runs of this call are complete, 1 if some are not.

examples:
  okcore sweep grid.toml --dry-run                          list the runs and how far they are
  okcore sweep grid.toml -j 4                               four at a time
  okcore sweep grid.toml --shard 3/16                       the third of 16 parts, in a job array
  okcore sweep grid.toml --backend dask --scheduler-file scheduler.json
"""

TERMINAL_SIGNALS = signal.SIGINT, signal.SIGHUP
BUSY_SECONDS = 3     # a folder may still be held by a process that is about to end
LOOK_SECONDS = 1     # between two looks at the runs' progress
PARENT = os.getppid()  # a process of a sweep that has died has another one
ATTEMPTS = 3         # if a process dies, its run is resumed; this often without any progress


def add_arguments(parser):
    """Add the arguments of the command."""
    parser.add_argument("grid", metavar="GRID.toml", type=Path, help="a file that says which runs, as above")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="holds a folder per run, named by its options (default runs/<GRID>)"
    )
    parser.add_argument(
        "-j", "--jobs", type=checked(int, 1), metavar="N", help="runs at a time (default: one per processor)"
    )
    parser.add_argument(
        "--backend", choices=("loky", "dask"), default="loky",
        help="processes of this machine (default), or a dask cluster: one of N local workers without --scheduler-file",
    )
    parser.add_argument("--scheduler-file", type=Path, metavar="F", help="what the dask scheduler has written")
    parser.add_argument("--shard", type=shard, metavar="I/N", default=(1, 1), help="only the I-th of N parts, from 1")
    parser.add_argument(
        "--time-limit", type=checked(float, 0, True), metavar="SECONDS",
        help="stop all runs after that time, saved, and exit with status 75",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs and do nothing")


def shard(text):
    """Parse I/N."""
    index, _, number = text.partition("/")
    number = checked(int, 1)(number)
    index = checked(int, 1)(index)
    if index > number:
        raise ValueError
    return index, number


RESUMED = "steps", "threads", "time_limit", "on_overflow"  # of a run that a sweep goes on with


# ---- what a sweep consists of --------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A run of a sweep: its folder and its options."""

    folder: Path
    options: dict[str, Any]

    @property
    def steps(self):
        """The last step."""
        return self.options["steps"]

    def taken(self):
        """Return the steps that its checkpoint holds."""
        return steps_taken(self.folder)


def name_of(options):
    """Return a folder's name: task, estimator, what differs from the task's defaults, seed, and a hash of all content.

    The same options have the same name in every sweep.
    """
    mine = content(options)
    positional = {name: mine[name] for name in TASKS[mine["task"]].options if not name.startswith("-")}
    usual = content(from_mapping({"task": mine["task"]} | positional))
    parts = [mine["task"], *(Path(value).stem for value in positional.values()), mine["estimator"]]
    for name, value in mine.items():
        if value not in (None, usual[name]) and name not in ("estimator", "seed"):
            parts.append(f"{name.replace('_', '-')}{Path(str(value)).name}")
    digest = hashlib.sha256(json.dumps(mine).encode()).hexdigest()[:8]
    return f"{'-'.join(parts)[:120]}-seed{mine['seed']}-{digest}"


def read_grid(path, out):
    """Return the trials of a grid file, without repetitions, seed by seed: stopped early, a sweep has tried all once.

    Raises
    ------
    ValueError
        Naming the file, and the table and option that cannot be.
    """
    try:
        tables = tomllib.loads(Path(path).read_text())
    except ValueError as error:  # of TOML or of UTF-8
        raise ValueError(f"{path}: {error}") from None
    if unknown := tables.keys() - {"defaults", "grid", "run"}:
        raise ValueError(f"{path}: tables must be [defaults], [grid] and [[run]], got {', '.join(sorted(unknown))}")
    defaults, grids, single = (tables.get(name, {}) for name in ("defaults", "grid", "run"))
    grids = grids if isinstance(grids, list) else [grids] * bool(grids)
    for name, table in (("defaults", defaults), *(("grid", grid) for grid in grids)):
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {name} must be a table, [{name}], got {table!r}")
    for name, values in (item for grid in grids for item in grid.items()):
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: {name} in [grid] must be a list of values, got {values!r}")
    if single and not (isinstance(single, list) and all(isinstance(options, dict) for options in single)):
        raise ValueError(f"{path}: single runs must be written as [[run]]")
    said = [dict(zip(grid, values, strict=True)) for grid in grids for values in itertools.product(*grid.values())]
    said += single if single else ([] if grids else [{}])
    trials = {}
    for options in said:
        options = {"threads": 1} | defaults | options
        if "out" in options:
            raise ValueError(f"{path}: out cannot be given: a run's folder is named by its content")
        try:
            options = from_mapping(options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}, in the run {options}") from None
        trial = Trial(Path(out).resolve() / name_of(options), options)
        if trial.folder not in trials or trials[trial.folder].steps < trial.steps:
            trials[trial.folder] = trial
    return sorted(trials.values(), key=lambda trial: trial.options["seed"])


# ---- one run, in a process of its own ------------------------------------------------------------


def carry_out(trial, token):
    """Do a run to its end, as long as the file `token` exists; return what became of it, in words, and never raise."""
    try:
        here = token.read_text() == str(os.getpid())
    except OSError:
        return "not started"

    def until():
        orphaned = os.getppid() != PARENT and not here
        return "the sweep" if orphaned or not token.exists() else None

    if not here and threading.current_thread() is threading.main_thread():
        for number in TERMINAL_SIGNALS:  # blocked only where the sweep has started this process, not in a dask cluster
            signal.signal(number, signal.SIG_IGN)
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        if until():
            return "not started"
        try:
            return _carry_out(trial, until)
        except files.FolderInUse:
            if time.monotonic() > deadline:
                return "another process works on it"
            time.sleep(0.2)
        except Exception as error:
            with contextlib.suppress(OSError), open(trial.folder / "log.txt", "a") as log:
                traceback.print_exc(file=log)
            return f"failed: {type(error).__name__}: {error}"


def _carry_out(trial, until):
    if trial.taken() >= trial.steps:
        return "complete"
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        if (trial.folder / "run.json").exists():
            run = Run.open(trial.folder, **{name: trial.options[name] for name in RESUMED})
        else:
            run = Run.create(trial.folder, trial.options)
    with run, open(trial.folder / "log.txt", "a") as log:
        for warning in noted:
            print(f"warning: {warning.message}", file=log)
        stopped = run.train(output=log, until=until)
        say(f"Stopped by {stopped} after step {run.trainer.steps:,}." if stopped else run.summary(), file=log)
    return f"stopped by {stopped}" if stopped else "complete"


# ---- all runs ------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine(backend, jobs, scheduler_file):
    """Make joblib carry out calls in processes of this machine or on a dask cluster; each uses one thread."""
    import joblib

    if backend == "loky":
        with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            yield
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("--backend dask needs distributed: pip install okcore[dask]") from None
    if scheduler_file is not None and not scheduler_file.exists():
        raise FileNotFoundError(f"--scheduler-file must be an existing file, got {str(scheduler_file)!r}")
    with contextlib.ExitStack() as stack:
        if scheduler_file is None:
            cluster = stack.enter_context(LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None))
            client = stack.enter_context(Client(cluster))
        else:
            client = stack.enter_context(Client(scheduler_file=str(scheduler_file)))
        stack.enter_context(joblib.parallel_config("dask", n_jobs=-1, client=client))
        yield


@contextlib.contextmanager
def terminal_signals_blocked():
    """Start processes inside that do not hear Ctrl-C or the loss of the terminal: they save when the token is gone."""
    resource_tracker.ensure_running()  # its start would unblock SIGINT, and one process that dies of it takes all along
    with contextlib.suppress(ImportError):  # loky has its own, which does so too before joblib 1.6
        from joblib.externals.loky.backend import resource_tracker as of_loky

        of_loky.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Progress:
    """One progress bar over the steps of all runs, or a plain line per run that ends; read from their folders."""

    def __init__(self, trials):
        self.trials = {trial.folder: trial for trial in trials}
        self.taken = {trial.folder: min(trial.taken(), trial.steps) for trial in trials}
        self.complete = sum(self.taken[folder] >= trial.steps for folder, trial in self.trials.items())
        self.bar = progress_bar(
            total=sum(trial.steps for trial in trials), initial=sum(self.taken.values()), unit="step", unit_scale=True,
            dynamic_ncols=True, file=Forgiving(),
        )  # fmt: skip
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        if not self.bar.disable:
            self._show()
            self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.bar.close()

    def _show(self):
        self.bar.set_postfix_str(f"{self.complete} of {len(self.trials)} runs complete")

    def _watch(self):
        while not self._over.wait(LOOK_SECONDS):
            for folder, trial in self.trials.items():
                if self.taken[folder] < trial.steps:
                    step = min(last_logged(folder), trial.steps)
                    self.bar.update(max(0, step - self.taken[folder]))
                    self.taken[folder] = max(step, self.taken[folder])

    def ended(self, folder, outcome):
        """Show that a run has ended."""
        self.complete += outcome == "complete"
        if self.bar.disable:
            say(f"{folder.name}: {outcome} ({self.complete} of {len(self.trials)} runs complete)")
        else:
            self._show()
            if outcome.startswith("failed"):
                self.bar.write(f"{folder.name}: {outcome}", file=sys.stderr)


def last_logged(folder):
    """Return the step of the last line of a run's metrics, 0 if there is none."""
    with contextlib.suppress(OSError, ValueError, LookupError), open(folder / "metrics.jsonl", "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
        return json.loads(file.read().splitlines()[-1])["step"]
    return 0


def carry_out_all(trials, out, jobs, backend="loky", scheduler_file=None, time_limit=None):
    """Carry out trials; return ({folder: outcome in words}, what stopped the sweep or None)."""
    import joblib

    outcomes = {trial.folder: "complete" if trial.taken() >= trial.steps else "not started" for trial in trials}
    stopped = []
    token = out / f".sweep-{uuid.uuid4().hex}"  # the runs stop when it is gone
    token.write_text(str(os.getpid()))
    handle = files.hold(token)
    clock = threading.Timer(time_limit or 0, lambda: (stopped.append(TIME_LIMIT), token.unlink(missing_ok=True)))
    clock.daemon = True
    try:
        with stop_signals(stopped, lambda: token.unlink(missing_ok=True)), Progress(trials) as progress:
            if time_limit:
                clock.start()
            attempts = 0
            while attempts < ATTEMPTS and token.exists():
                left = [trial for trial in trials if outcomes[trial.folder] == "not started"]
                if not left:
                    break
                before = sum(trial.taken() for trial in left)
                with contextlib.ExitStack() as stack:
                    with terminal_signals_blocked():
                        stack.enter_context(engine(backend, jobs, scheduler_file))
                        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="all")
                        ended = parallel(joblib.delayed(_with_folder)(trial, token) for trial in left)
                    try:
                        for folder, outcome in ended:
                            outcomes[folder] = outcome
                            progress.ended(folder, outcome)
                            reason = outcome.removeprefix("stopped by ")
                            if reason in signal.Signals.__members__ and jobs == 1 and backend == "loky":
                                stopped.append(reason)  # the run, in this process, heard it first
                                token.unlink(missing_ok=True)
                    except Exception as error:  # a process died: joblib and distributed have many names for it
                        attempts = 0 if sum(trial.taken() for trial in left) > before else attempts + 1
                        if not stopped:
                            say(f"A process died ({type(error).__name__}); its run is resumed.", file=sys.stderr)
    finally:
        clock.cancel()
        token.unlink(missing_ok=True)
        os.close(handle)
    return outcomes, stopped[0] if stopped else None


def _with_folder(trial, token):
    return trial.folder, carry_out(trial, token)


def main(arguments):
    """Carry out a sweep; return the exit status."""
    out = arguments.out or Path("runs") / arguments.grid.stem
    if not arguments.grid.is_file():
        raise FileNotFoundError(f"GRID.toml must be an existing file, got {str(arguments.grid)!r}")
    index, number = arguments.shard
    trials = read_grid(arguments.grid, out)[index - 1 :: number]
    if arguments.dry_run:
        for trial in trials:
            taken = trial.taken()
            state = "complete" if taken >= trial.steps else f"{taken:,} of {trial.steps:,} steps" if taken else "new"
            say(f"{trial.folder.name}: {state}")
        say(f"{len(trials)} runs in {out}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    for token in out.glob(".sweep-*"):
        files.remove_if_left(token)
    jobs = arguments.jobs or _config.usable_processors()
    outcomes, stopped = carry_out_all(
        trials, out.resolve(), jobs, arguments.backend, arguments.scheduler_file, arguments.time_limit
    )
    incomplete = {folder: outcome for folder, outcome in outcomes.items() if outcome != "complete"}
    say(f"{len(outcomes) - len(incomplete)} of {len(outcomes)} runs are complete in {out}")
    for folder, outcome in incomplete.items():
        log = f"; see {shlex.quote(str(folder / 'log.txt'))}" if outcome.startswith("failed") else ""
        say(f"  {folder.name}: {outcome}{log}", file=sys.stderr)
    if stopped:
        say(f"Stopped by {stopped}; everything is saved. Go on with\n  {called()} {shlex.join(sys.argv[1:])}")
    if not incomplete:
        return 0
    return INCOMPLETE if stopped == TIME_LIMIT else 1
