"""okcore generate: text from a character model, from nothing but the folder of its run."""

import collections
import json
import os
import pty
import shutil
import subprocess
import warnings

import numpy as np
import pytest

import okcore
from okcore import reference
from okcore.runs import checkpoint, files, generate
from okcore.runs import command_line as cli
from tests.test_runs import SMALL, command, has_lines, started, wait_for
from tests.test_runs import okcore as run_okcore

LINE = "whether 'tis nobler in the mind; né\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run that knows a line by heart; its text is gone."""
    root = tmp_path_factory.mktemp("generate")
    (root / "line.txt").write_text(LINE * 60)
    options = "--hidden 32 --batch 8 --rank 8 --block 8 --threads 1 --lr 0.01 --steps 2000 --out".split()
    said, _ = run_okcore("train", "text", root / "line.txt", *options, root / "run")
    assert f"okcore generate {root / 'run'}" in said
    (root / "line.txt").unlink()
    return root / "run"


@pytest.fixture
def okcore_generate(capsysbinary):
    def run(*arguments, status=0):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert cli.main(["generate", *map(str, arguments)]) == status
        said, errors = capsysbinary.readouterr()
        return said, errors.decode()

    return run


def test_what_was_learned_is_written(trained, okcore_generate):
    said, errors = okcore_generate(trained, "-n", 200, "--temperature", 0)
    assert errors == "" and said == (LINE * 9).encode()[:200]
    said, _ = okcore_generate(trained, "-n", 60, "--temperature", 0, "--prompt", "nobler in")
    assert said == (LINE[LINE.index("nobler") :] + LINE * 2).encode()[: 9 + 60]
    said, _ = okcore_generate(trained, "-n", 1, "--temperature", 0, "--prompt", "mind; né")
    assert said == "mind; né\n".encode()  # a character of two bytes


def test_temperature_zero_takes_the_most_probable_of_the_reference(trained, okcore_generate):
    said, _ = okcore_generate(trained, "-n", 80, "--temperature", 0, "--prompt", "nob")
    run = json.loads((trained / "run.json").read_text())
    alphabet = run["task"]["alphabet"].encode("latin-1")
    assert alphabet == bytes(sorted(set(LINE.encode())))
    own = checkpoint.read(trained / "checkpoint.npz")["trainer"]
    cell = reference.RHN(len(alphabet), 32, dtype="float64")
    cell.theta = own["theta"].astype("float64")
    reader = reference.TBPTT(cell, 1)
    hidden = [reader.step(np.array([alphabet.index(byte)]))[0] for byte in said]
    for h, byte in zip(hidden[2:-1], said[3:], strict=True):
        assert byte == alphabet[np.argmax(own["weights"] @ np.append(h, 1))]


def test_draws_have_the_probabilities_of_the_temperature():
    cell, readout = okcore.RHN(3, 4), okcore.SoftmaxReadout(4, 3, init="zeros")
    cell.theta[...] = 0  # the state stays zero, and all draws are alike
    readout.weights[:, -1] = outputs = np.array([0.0, -1.0, 0.7])
    draws, rng = 4000, np.random.default_rng(0)
    for temperature in (0.5, 1.0, 2.0):
        weights = np.exp(outputs / temperature)
        expected = draws * weights / weights.sum()
        found = collections.Counter(generate.sample(cell, readout, [2], draws, temperature, rng))
        # chi-square with two degrees of freedom: exceeded once in 20,000
        assert sum((found[symbol] - expected[symbol]) ** 2 / expected[symbol] for symbol in range(3)) < 20
        assert expected.min() > 50 and np.ptp(expected) > 100


def test_same_seed_same_text(trained, okcore_generate):
    texts = [okcore_generate(trained, "--temperature", 1.5, *more)[0] for more in ([], ["--seed", 0], ["--seed", 1])]
    assert texts[0] == texts[1] != texts[2]
    assert [len(text) for text in texts] == [500] * 3
    assert set(texts[0]) <= set(LINE.encode())


def test_a_prompt_is_of_the_alphabet(trained, okcore_generate):
    said, errors = okcore_generate(trained, "--prompt", "the Bß~Bn", status=1)
    assert said == b"" and errors.count("\n") == 1
    assert "--prompt" in errors and "got 'B', 'ß', '~'" in errors
    # The bytes of the command line, whatever they are
    subprocess.run([*command("generate", trained, "--prompt"), b"\xc3", "-n", "1"], check=True, capture_output=True)


def test_a_text_without_line_breaks(tmp_path, okcore_generate):
    (tmp_path / "text").write_bytes(b"\xff\xfe" * 200)  # no UTF-8 either: bytes are written as they are
    run_okcore("train", "text", tmp_path / "text", *SMALL, "--lr", 0.03, "--steps", 300, "--out", tmp_path / "run")
    assert okcore_generate(tmp_path / "run", "-n", 5, "--temperature", 0)[0] == b"\xff\xfe\xff\xfe\xff"


def test_a_pipe_that_closes_ends_it_quietly(trained):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command("generate", trained, "-n", 10**9), **pipes) as process:
        assert len(process.stdout.read(1000)) == 1000
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


def test_a_terminal_gets_a_line_break_at_the_end(trained):
    ours, theirs = pty.openpty()
    subprocess.run(command("generate", trained, "-n", 5, "--temperature", 0), stdout=theirs, check=True, timeout=60)
    assert os.read(ours, 1000) == b"wheth\r\n"
    os.close(ours)
    os.close(theirs)


# ---- what is refused, and what another process does ------------------------------------------------------------------


def test_runs_of_other_tasks_are_refused(tmp_path, okcore_generate):
    run_okcore("train", "copy", *SMALL, "--steps", 5, "--out", tmp_path)
    said, errors = okcore_generate(tmp_path, status=1)
    assert said == b"" and "a run of copy" in errors and str(tmp_path) in errors


@pytest.mark.parametrize("option", ["-n 0", "-n x", "--temperature -1", "--temperature nan", "--seed -1", "--seed x"])
def test_bad_options_exit_2(option, trained, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["generate", str(trained), *option.split()])
    assert exit.value.code == 2
    assert option.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("damage, word", [
    (lambda run: run["task"].pop("alphabet"), "run.json is damaged"),
    (lambda run: run.update(task=3), "run.json is damaged"),
    (lambda run: run["task"].update(alphabet="\u20ac"), "run.json is damaged"),
    (lambda run: run["options"].update(cell="perceptron"), "run.json is damaged"),
    (lambda run: run["options"].update(cell="lstm"), "theta"),
    (lambda run: run["options"].update(dtype="float64"), "theta"),
])  # fmt: skip
def test_a_run_json_that_does_not_fit(damage, word, trained, tmp_path, okcore_generate):
    folder = shutil.copytree(trained, tmp_path / "run")
    run = json.loads((folder / "run.json").read_text())
    damage(run)
    (folder / "run.json").write_text(json.dumps(run))
    said, errors = okcore_generate(folder, status=1)
    assert said == b"" and word in errors and errors.count("\n") == 1


def test_a_folder_without_a_run_or_a_checkpoint(trained, tmp_path, okcore_generate):
    assert "run.json" in okcore_generate(tmp_path, status=1)[1]
    shutil.copy(trained / "run.json", tmp_path)
    assert "without one yet" in okcore_generate(tmp_path, status=1)[1]


def test_only_reads(trained, tmp_path, okcore_generate):
    # A damaged checkpoint is the holder's to set aside; between the holder's two renames there is none of that name.
    expected = okcore_generate(trained)[0]
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.copy(folder / "checkpoint.npz", folder / "checkpoint.previous.npz")
    os.truncate(folder / "checkpoint.npz", 1000)
    names = sorted(os.listdir(folder))
    said, errors = okcore_generate(folder)
    assert said == expected and "warning" in errors and "previous" in errors
    assert sorted(os.listdir(folder)) == names
    (folder / "checkpoint.npz").unlink()
    assert okcore_generate(folder) == (expected, "")


def test_while_another_process_trains(tmp_path, okcore_generate):
    (tmp_path / "text").write_text(LINE * 60)
    folder = tmp_path / "run"
    options = [*SMALL, "--steps", 10**7, "--save-every", 0, "--out", folder]
    with started("train", "text", tmp_path / "text", *options) as process:
        wait_for((folder / "checkpoint.previous.npz").exists, process)
        with pytest.raises(files.FolderInUse):
            files.hold(folder)
        (tmp_path / "text").unlink()
        for _ in range(50):
            said, errors = okcore_generate(folder, "-n", 3)
            assert len(said) == 3 and errors == ""
        lines = (folder / "metrics.jsonl").read_bytes().count(b"\n")
        wait_for(has_lines(folder, lines), process)  # it was not disturbed
