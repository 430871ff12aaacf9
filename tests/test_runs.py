"""The command line: what a run writes, and that a run stopped, killed or damaged resumes bitwise."""

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from okcore import estimators
from okcore.runs import checkpoint, console
from okcore.runs import command_line as cli
from okcore.runs import run as runs
from okcore.tasks import TASKS
from tests.conftest import ESTIMATORS

SMALL = "--hidden 6 --batch 3 --rank 2 --block 4 --threads 1 --log-every 5".split()
MEASURED = {"copy": "copy_length", "text": "valid_bpc", "delay": "delay", "series": "valid_nrmse"}


def command(*arguments):
    return [sys.executable, "-m", "okcore", *map(str, arguments)]


def shell(*arguments, folder=None, status=0):
    """Run a command in a process of its own and return (stdout, stderr)."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=folder, timeout=60)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def okcore(*arguments, status=0):
    """Do what `shell` does, in this process: quicker."""
    said, errors = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        warnings.simplefilter("default")
        assert cli.main([str(argument) for argument in arguments]) == status
    return said.getvalue(), errors.getvalue()


@contextlib.contextmanager
def started(*arguments):
    """Start a command; end it if the test does not."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(*arguments), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition, process):
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def has_lines(folder, number):
    path = folder / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") > number


def timeless(folder):
    """Return the metrics without the only thing that may differ between two runs."""
    return [{name: value for name, value in line.items() if name != "time_s"} for line in metrics(folder)]


def assert_same_run(folder, expected):
    ours, theirs = (checkpoint.flatten(checkpoint.read(f / "checkpoint.npz")) for f in (folder, expected))
    assert ours.keys() == theirs.keys()
    for name in theirs.keys() - {"run/time"}:
        assert np.array_equal(ours[name], theirs[name]), name
    assert timeless(folder) == timeless(expected)
    times = [line["time_s"] for line in metrics(folder)]
    assert times == sorted(times)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some text.txt"
    path.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind\n" * 40)
    return path


# ---- train ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task, estimator", [
    *itertools.product(("copy", "text"), ESTIMATORS), *((task, "ok") for task in TASKS if task not in ("copy", "text"))
])  # fmt: skip
def test_train(estimator, task, text, tmp_path):
    folder = tmp_path / "run"
    source = [text] if task == "text" else []
    options = [*SMALL, "--estimator", estimator, "--steps", 43, "--out", folder]
    said, errors = shell("train", task, *source, *options)
    assert errors == ""
    assert f"okcore resume {shlex.quote(str(folder))}" in said
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint.npz", "metrics.jsonl", "run.json"]

    lines = metrics(folder)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30, 35, 40, 43]
    for line in lines:
        assert list(line) == ["step", "time_s", "loss_bits", MEASURED[task]]
        assert 0 < line["loss_bits"] < 20
    if task in ("copy", "delay"):
        assert {line[MEASURED[task]] for line in lines} == {1}
    if task == "copy":  # whose weights start near zero
        assert lines[0]["loss_bits"] == pytest.approx(2, abs=0.2)
    if task not in ("copy", "delay"):
        assert all(0 < line[MEASURED[task]] < 20 for line in lines)  # ten times a run: here on every line

    run = json.loads((folder / "run.json").read_text())
    options = {
        "task": task, "cell": "rhn", "hidden": 6, "batch": 3, "rank": 2, "threads": 1, "estimator": estimator,
        "steps": 43, "seed": 0, "log_every": 5, "optimizer": "adam", "dtype": "float32",
    }  # fmt: skip
    assert run["options"].items() >= options.items()
    assert run["options"]["block"] == (4 if "block" in estimators.ESTIMATORS[estimator].options else 1)
    assert run["options"]["lr"] > 0 and run["options"]["clip"] > 0
    for word in ("okcore", "python", "numpy", "scipy", "machine"):
        assert word in run["versions"]
    assert "blas" in json.dumps(run).lower()

    groups = checkpoint.read(folder / "checkpoint.npz")
    assert groups.keys() >= {"trainer", "estimator", "optimizer", "task"}
    assert groups["trainer"]["steps"] == groups["estimator"]["steps"] == 43
    assert groups["trainer"]["theta"].size == run["parameters"]


def test_train_python_docs(tmp_path):
    folder = tmp_path / "deep" / "run"
    said, _ = shell("train", "text", "python-docs", *SMALL, "--steps", 10, "--out", folder)
    bits = metrics(folder)[-1]["valid_bpc"]
    assert bits == pytest.approx(np.log2(97), abs=2)
    assert f"{bits:.3f}" in said


def test_train_text_with_a_validation_text(text, tmp_path):
    (text.parent.parent / "valid.txt").write_text("the question is to be or not to be\n" * 3)
    options = [*SMALL, "--steps", 5, "--out", tmp_path / "run"]
    shell("train", "text", text.name, "--valid", "../valid.txt", *options, folder=text.parent)
    okcore("resume", tmp_path / "run", "--steps", 8)  # from another folder: the paths in run.json are whole
    assert metrics(tmp_path / "run")[-1]["step"] == 8


def test_block_auto_is_written_down(tmp_path):
    okcore("train", "copy", *SMALL, "--block", "auto", "--steps", 5, "--out", tmp_path)
    assert isinstance(json.loads((tmp_path / "run.json").read_text())["options"]["block"], int)


def test_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        okcore("train", "copy", *SMALL, "--steps", 5)
        assert (tmp_path / "runs" / f"copy-00{number}" / "checkpoint.npz").exists()


def test_same_seed_same_run(tmp_path):
    options = ["train", "copy", *SMALL, "--steps", 40]
    okcore(*options, "--out", tmp_path / "one")
    okcore(*options, "--threads", 2, "--out", tmp_path / "same")
    okcore(*options, "--seed", 1, "--out", tmp_path / "other")
    assert_same_run(tmp_path / "same", tmp_path / "one")
    assert timeless(tmp_path / "other") != timeless(tmp_path / "one")


def test_time_goes_on_over_a_resume(tmp_path, monkeypatch):
    # With a clock that says one second more whenever it is asked, which is once a step.
    ticks = itertools.count()
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    folder = tmp_path / "run"
    okcore("train", "copy", *SMALL, "--steps", 23, "--out", folder)
    assert [(line["step"], line["time_s"]) for line in metrics(folder)] == [(t, t) for t in (5, 10, 15, 20, 23)]
    for _ in range(1000):  # nobody trains meanwhile
        next(ticks)
    okcore("resume", folder, "--steps", 42)
    assert [line["step"] for line in metrics(folder)] == [5, 10, 15, 20, 23, 25, 30, 35, 40, 42]
    assert all(line["time_s"] == line["step"] for line in metrics(folder))
    assert checkpoint.read(folder / "checkpoint.npz")["run"]["time"] == 42


def test_time_is_that_of_a_clock(tmp_path):
    start = time.monotonic()
    okcore("train", "copy", *SMALL, "--steps", 200, "--out", tmp_path)
    assert 0 < metrics(tmp_path)[-1]["time_s"] <= time.monotonic() - start + 1e-3  # it is rounded to a millisecond


# ---- signals -------------------------------------------------------------------------------------

NUMBERS = signal.SIGINT, signal.SIGTERM


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.fixture
def own_handlers():
    """Put handlers in place that can be told from any others."""
    before = {number: signal.signal(number, lambda number, frame: None) for number in NUMBERS}
    yield handlers()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_collected_and_handlers_put_back(own_handlers):
    stopped = []
    with console.stop_signals(stopped):
        assert not set(handlers()) & set(own_handlers)
        for number in NUMBERS:
            signal.raise_signal(number)
    assert stopped == ["SIGINT", "SIGTERM"]
    assert handlers() == own_handlers
    with pytest.raises(ZeroDivisionError), console.stop_signals(stopped):
        raise ZeroDivisionError
    assert handlers() == own_handlers


def test_a_run_puts_handlers_back(own_handlers, tmp_path):
    okcore("train", "copy", *SMALL, "--steps", 10, "--out", tmp_path / "run")
    assert handlers() == own_handlers
    diverging = [*SMALL, "--optimizer", "sgd", "--lr", "1e38", "--clip", "0", "--out", tmp_path / "diverges"]
    okcore("train", "copy", *diverging, status=1)
    assert handlers() == own_handlers


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["run.json", "checkpoint.npz"])
def test_out_is_refused_if_it_holds_another_run(file, tmp_path):
    (tmp_path / file).write_text("precious")
    _, errors = okcore("train", "copy", *SMALL, "--out", tmp_path, status=1)
    assert "--out" in errors and str(tmp_path) in errors
    assert (tmp_path / file).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_out_is_refused_if_it_is_a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    _, errors = okcore("train", "copy", *SMALL, "--out", tmp_path / "file", status=1)
    assert "--out" in errors
    assert (tmp_path / "file").read_text() == "precious"


TEXTS = [
    ("missing.txt", None, [], "missing.txt"), (".", None, [], "source"),
    ("empty.txt", b"", [], "empty.txt"), ("short.txt", b"ab", [], "at least"),
    ("binary.txt", b"\x7fELF\0\1\2" * 99, [], "binary"),
    ("good.txt", b"to be or not" * 9, ["--valid", "missing.txt"], "valid"),
    ("good.txt", b"to be or not" * 9, ["--valid", "."], "valid"),
]  # fmt: skip


@pytest.mark.parametrize("name, data, options, word", TEXTS)
def test_texts_that_are_none(name, data, options, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert cli.main(["train", "text", name, *options, *SMALL, "--out", "run"]) == 1
    said, errors = capsys.readouterr()
    assert said == ""
    assert errors.startswith("okcore: error: ") and word in errors and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_text_through_the_shell(tmp_path):
    _, errors = shell("train", "text", "missing.txt", folder=tmp_path, status=1)
    assert "missing.txt" in errors
    assert list(tmp_path.iterdir()) == []


BAD_OPTIONS = """
    --hidden 0 | --hidden -3 | --hidden 1.5 | --hidden many | --batch 0 | --rank 0 | --block 0 | --block -1
    --block short | --lr 0 | --lr -1 | --lr nan | --lr inf | --clip -1 | --clip nan | --steps 0 | --steps 1e4
    --steps | --seed -1 | --seed x | --threads 0 | --log-every -1 | --update-every 0 | --cell perceptron
    --tolerance -1 | --tolerance nan | --tolerance inf | --tolerance x
    --estimator bptt | --optimizer adamw | --dtype float16 | --init xavier | --preset big | --spam 1
"""


@pytest.mark.parametrize("options", re.split(r"\s*[|\n]\s*", BAD_OPTIONS.strip()))
def test_bad_options_exit_2(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "copy", *options.split()])
    assert exit.value.code == 2
    assert options.split()[0] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


BAD_COMMANDS = [
    "", "train", "train chess", "train text", "resume", "sing", "resume x --steps 0", "plot", "plot x --x hours",
    "compare", "compare copy", "compare chess --with uoro", "generate",
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_COMMANDS)
def test_bad_commands_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments.split())
    assert exit.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    "", "train", "train copy", "train delay", "train series", "train text", "resume", "plot", "compare", "compare copy",
    "demo", "generate", "sweep", "config",
])  # fmt: skip
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([*arguments.split(), "--help"])
    assert exit.value.code == 0
    # Lines like "  okcore train copy          what it does": each is a command that can be given
    examples = re.findall(r"^  okcore (\S+(?: \S+)*)", capsys.readouterr().out, re.MULTILINE)
    assert any(example.startswith(arguments) for example in examples)
    for example in examples:
        cli.make_parser().parse_args(shlex.split(example))


def parsers(parser):
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from parsers(choice)


@pytest.mark.parametrize("parser", [pytest.param(parser, id=parser.prog) for parser in parsers(cli.make_parser())])
def test_every_argument_and_command_is_explained(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert all(choice.help for choice in action._choices_actions)
        else:
            assert re.sub(r"\(default.*\)", "", action.help or "").strip(), action


def test_help_and_version_through_the_shell():
    assert shell("--help")[0].startswith("usage: okcore ")
    assert shell("--version")[0].startswith("okcore ")
    assert "usage" in shell("train", "copy", "--steps", "0", status=2)[1]


def test_config_names_versions_and_blas():
    said, _ = okcore("config")
    for word in ("okcore", "numpy", "scipy", "blas", "threads", "build"):
        assert word in said


def test_a_run_that_diverges_says_so(tmp_path):
    options = [*SMALL, "--optimizer", "sgd", "--lr", "1e38", "--clip", "0", "--out", tmp_path / "run"]
    _, errors = shell("train", "copy", *options, status=1)
    assert "at step" in errors


def test_a_run_whose_influence_overflows_goes_on_if_told_to(tmp_path):
    folder, other = tmp_path / "run", tmp_path / "in parts"
    okcore("train", "delay", *SMALL, "--delay", 40, "--estimator", "rtrl", "--steps", 20, "--out", folder)
    groups = checkpoint.read(folder / "checkpoint.npz")
    groups["estimator"]["carry.influence"][...] = 3e38
    groups["estimator"]["carry.nonzero"][...] = True
    groups["trainer"]["weights"] *= 1000  # and so the credits
    checkpoint.write(folder / "checkpoint.npz", groups)
    for _ in range(2):  # also from the checkpoint that is written after the failure
        _, errors = okcore("resume", folder, "--steps", 60, status=1)
        assert "the influence of lanes 0, 1, 2 is not finite at step" in errors and "--on-overflow forget" in errors
    shutil.copytree(folder, other)
    said, _ = okcore("resume", folder, "--on-overflow", "forget")
    assert "3 influences forgotten" in said
    lines = metrics(folder)
    assert [line["overflows"] for line in lines if line["step"] > 20] == [3] * 8
    assert json.loads((folder / "run.json").read_text())["options"]["on_overflow"] == "forget"
    okcore("resume", other, "--on-overflow", "forget", "--steps", 35)
    okcore("resume", other, "--steps", 60)
    assert_same_run(folder, other)
    okcore("resume", folder, "--steps", 65, "--on-overflow", "raise")
    assert "overflows" not in metrics(folder)[-1]


# ---- resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    ["--estimator", "ok"], ["--estimator", "uoro", "--update-every", "3", "--cell", "lstm"],
    ["--estimator", "tbptt", "--optimizer", "sgd", "--cell", "gru", "--dtype", "float64"],
], ids=" ".join)  # fmt: skip
def test_more_steps_are_the_longer_run(options, tmp_path):
    okcore("train", "copy", *SMALL, *options, "--steps", 50, "--out", tmp_path / "whole")
    folder = tmp_path / "in parts"
    okcore("train", "copy", *SMALL, *options, "--steps", 20, "--out", folder)
    said, errors = okcore("resume", folder)  # nothing is left to do
    assert errors == "" and metrics(folder)[-1]["step"] == 20
    okcore("resume", folder, "--steps", 35, "--threads", 2)
    assert json.loads((folder / "run.json").read_text())["options"]["steps"] == 35
    said, errors = okcore("resume", folder, "--steps", 50)
    assert errors == "" and f"okcore resume {shlex.quote(str(folder))}" in said
    assert_same_run(folder, tmp_path / "whole")


RUNS = {
    "copy": ["train", "copy", "--estimator", "ok", "--lr", 0.01],
    "text": ["train", "text", "TEXT", "--estimator", "kf-rtrl", "--update-every", 3],
}


@pytest.fixture(scope="module", params=RUNS)
def whole(request, text, tmp_path_factory):
    """Return a run that was never interrupted, and its command."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    arguments = [text if argument == "TEXT" else argument for argument in RUNS[request.param]]
    arguments += [*SMALL, "--steps", 10_000, "--log-every", 20]
    okcore(*arguments, "--out", folder)
    return folder, arguments


def test_a_time_limit_saves_and_says_how_to_go_on(whole, tmp_path):
    expected, arguments = whole
    folder = tmp_path / "run"
    said, errors = okcore(*arguments, "--out", folder, "--time-limit", 0.01, status=75)
    assert errors == "" and "the time limit" in said and f"okcore resume {shlex.quote(str(folder))}" in said
    stopped_at = checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"]
    assert 0 < stopped_at < 10_000
    okcore("resume", folder, "--time-limit", 0.01, status=75)
    assert stopped_at < checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"] < 10_000
    okcore("resume", folder)  # the limit was that call's
    assert_same_run(folder, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_was_stopped_resumes_bitwise(number, whole, tmp_path):
    expected, arguments = whole
    folder = tmp_path / "run"
    with started(*arguments, "--out", folder) as process:
        wait_for(has_lines(folder, 3), process)
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
        assert process.returncode == 0
    assert errors == ""
    assert number.name in said and f"okcore resume {shlex.quote(str(folder))}" in said
    stopped_at = checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"]
    assert 60 < stopped_at < 10_000
    assert 0 <= stopped_at - metrics(folder)[-1]["step"] < 20
    shell("resume", folder)
    assert_same_run(folder, expected)


def test_a_run_that_was_killed_resumes_bitwise(whole, tmp_path):
    expected, arguments = whole
    folder = tmp_path / "run"
    with started(*arguments, "--out", folder, "--save-every", 0.05) as process:
        wait_for((folder / "checkpoint.previous.npz").exists, process)
        wait_for(has_lines(folder, 20), process)
        process.kill()
        process.wait()
    okcore("resume", folder)
    assert_same_run(folder, expected)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(whole, tmp_path):
    expected, arguments = whole
    folder = tmp_path / "run"
    with started(*arguments, "--out", folder) as process:
        wait_for(has_lines(folder, 3), process)
        process.kill()
        process.wait()
    assert not (folder / "checkpoint.npz").exists()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 100, "time_s"')  # killed in the middle of a line
    okcore("resume", folder)
    assert_same_run(folder, expected)


def test_a_second_signal_does_not_spoil_the_checkpoint(tmp_path):
    folder = tmp_path / "run"
    with started("train", "copy", *SMALL, "--steps", 10**7, "--out", folder) as process:
        wait_for(has_lines(folder, 3), process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert checkpoint.read(folder / "checkpoint.npz")["trainer"]["steps"] > 0


# ---- damaged runs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Return (a run of 20 and then 30 steps, with a checkpoint of each; the same of 40 steps)."""
    root = tmp_path_factory.mktemp("damaged")
    options = ["train", "copy", *SMALL, "--estimator", "ok", "--out"]
    okcore(*options, root / "run", "--steps", 20)
    okcore("resume", root / "run", "--steps", 30)
    okcore(*options, root / "whole", "--steps", 40)
    assert checkpoint.read(root / "run" / "checkpoint.previous.npz")["trainer"]["steps"] == 20
    assert checkpoint.read(root / "run" / "checkpoint.npz")["trainer"]["steps"] == 30
    return root / "run", root / "whole"


def flipped(data, place, bit=1):
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def directory(data):
    return data.rindex(b"PK\1\2", 0, len(data) // 100 * 99)  # an entry near the end of the zip's directory


DAMAGE = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "a byte short": lambda data: data[:-1],
    "garbage": lambda data: np.random.default_rng(0).bytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "a byte flipped in the middle": lambda data: flipped(data, len(data) // 2),
    "a byte flipped in the directory's flags": lambda data: flipped(data, directory(data) + 8),
    "a byte flipped in the directory's methods": lambda data: flipped(data, directory(data) + 10, 64),
    "a byte flipped in the directory's lengths": lambda data: flipped(data, directory(data) + 32, 64),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, two_checkpoints, tmp_path):
    run, expected = two_checkpoints
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    newest = folder / "checkpoint.npz"
    data = DAMAGE[damage](newest.read_bytes())
    newest.unlink() if data is None else newest.write_bytes(data)
    resume = shell if damage == "truncated" else okcore
    _, errors = resume("resume", folder, "--steps", 40)
    assert "warning" in errors and "checkpoint.npz" in errors and errors.count("\n") == 1
    assert_same_run(folder, expected)
    checkpoint.read(folder / "checkpoint.previous.npz")  # sound: the damaged one has not taken its place


def test_nothing_sound_is_left(two_checkpoints, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints[0], folder)
    for name in ("checkpoint.npz", "checkpoint.previous.npz"):
        os.truncate(folder / name, 1000)
    before = (folder / "metrics.jsonl").read_text()
    _, errors = okcore("resume", folder, "--steps", 40, status=1)
    assert "error" in errors and "checkpoint" in errors
    assert (folder / "metrics.jsonl").read_text() == before
    assert (folder / "checkpoint.npz").stat().st_size == 1000


def test_a_checkpoint_of_another_run_is_refused(two_checkpoints, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(two_checkpoints[0], folder)
    okcore("train", "copy", *SMALL, "--hidden", 7, "--steps", 5, "--out", other)
    foreign = (other / "checkpoint.npz").read_bytes()
    (folder / "checkpoint.npz").write_bytes(foreign)
    before = (folder / "metrics.jsonl").read_text()
    _, errors = okcore("resume", folder, "--steps", 40, status=1)
    assert "error" in errors and "hidden" in errors
    assert (folder / "checkpoint.npz").read_bytes() == foreign
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_checkpoint_without_the_runs_own_part_is_refused(two_checkpoints, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints[0], folder)
    groups = checkpoint.read(folder / "checkpoint.npz")
    checkpoint.write(folder / "checkpoint.npz", {name: groups[name] for name in groups if name != "run"})
    (folder / "checkpoint.previous.npz").unlink()
    _, errors = okcore("resume", folder, "--steps", 40, status=1)
    assert "error" in errors and "checkpoint" in errors


NO_RUNS = [None, "", "{", "[]", "{}", '{"options": {}}', '{"options": 7}', "\0"]


@pytest.mark.parametrize("description", NO_RUNS)
def test_a_folder_that_is_no_run(description, two_checkpoints, tmp_path, capsys):
    if description is not None:
        shutil.copytree(two_checkpoints[0], tmp_path, dirs_exist_ok=True)
        (tmp_path / "run.json").write_text(description)
    assert cli.main(["resume", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("okcore: error: ") and "run.json" in errors


def test_a_text_that_has_gone(text, tmp_path, capsys):
    source = shutil.copy(text, tmp_path / "text.txt")
    okcore("train", "text", source, *SMALL, "--steps", 10, "--out", tmp_path / "run")
    source.write_text("Now is the winter of our discontent\n" * 99)  # another text is no resume
    assert cli.main(["resume", str(tmp_path / "run"), "--steps", "20"]) == 1
    assert "must" in capsys.readouterr().err
    source.unlink()
    assert cli.main(["resume", str(tmp_path / "run"), "--steps", "20"]) == 1
    assert "text.txt" in capsys.readouterr().err
    assert metrics(tmp_path / "run")[-1]["step"] == 10


def test_the_validation_text_is_read_ten_times_a_run(text, tmp_path):
    okcore("train", "text", text, *SMALL, "--steps", 100, "--log-every", 3, "--out", tmp_path / "run")
    lines = metrics(tmp_path / "run")
    measured = [line["step"] for line in lines if line["valid_bpc"] is not None]
    assert measured == [12, 21, 30, 42, 51, 60, 72, 81, 90, 100]


def test_a_text_that_was_edited_is_not_gone_on_with(text, tmp_path):
    edited = tmp_path / "edited.txt"
    shutil.copy(text, edited)
    text = edited
    okcore("train", "text", text, *SMALL, "--steps", 10, "--out", tmp_path / "run")
    content = text.read_bytes()
    text.write_bytes(content[1:2] + content[:1] + content[2:])  # the same bytes in another order
    _, errors = okcore("resume", tmp_path / "run", "--steps", 20, status=1)
    assert "text" in errors and "checksum" in errors


def test_resume_refuses_fewer_steps_than_were_taken(tmp_path):
    okcore("train", "copy", *SMALL, "--steps", 20, "--out", tmp_path / "run")
    _, errors = okcore("resume", tmp_path / "run", "--steps", 10, status=1)
    assert "--steps must be at least the 20" in errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["steps"] == 20
