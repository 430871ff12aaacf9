"""The Penn Treebank: downloaded once, or read from a folder; a file that is another one is refused."""

import hashlib
import http.server
import json
import sys
import threading

import numpy as np
import pytest

from okcore import tasks
from okcore.runs import command_line as cli
from okcore.runs import options
from okcore.tasks import _ptb
from tests.test_runs import SMALL, assert_same_run, metrics, okcore

TEXTS = {
    "ptb.train.txt": b" the market fell <unk> N points\n" * 30,
    "ptb.valid.txt": b" stocks rose\n" * 5,
    "ptb.test.txt": b" bonds did not\n" * 5,
}
TRAIN = ["train", "text", "ptb", *SMALL, "--steps", 20]


@pytest.fixture(autouse=True)
def corpus(monkeypatch, tmp_path):
    """Put small texts in the place of the Treebank's, and the cache and the working folder among temporary files."""
    monkeypatch.setattr(_ptb, "MD5", {name: hashlib.md5(text).hexdigest() for name, text in TEXTS.items()})
    monkeypatch.setattr(_ptb, "URL", "http://127.0.0.1:9/")  # where nothing is served
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def served(monkeypatch):
    """Serve `served.texts` on this machine; `served.asked` are the names that were asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        texts, asked = dict(TEXTS), []

        def do_GET(self):
            name = self.path.lstrip("/")
            self.asked.append(name)
            self.send_response(200 if name in self.texts else 404)
            self.end_headers()
            self.wfile.write(self.texts.get(name, b""))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(_ptb, "URL", f"http://127.0.0.1:{server.server_port}/")
        yield Handler
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the texts, which nobody may write to."""
    path = tmp_path / "data"
    path.mkdir()
    for name, text in TEXTS.items():
        (path / name).write_bytes(text)
        (path / name).chmod(0o444)
    path.chmod(0o555)
    yield path
    path.chmod(0o755)


def edited(folder, name, text):
    folder.chmod(0o755)
    (folder / name).chmod(0o644)
    (folder / name).write_bytes(text)


def test_download_once_and_resume_offline(served, tmp_path, monkeypatch, caplog):
    errors = okcore(*TRAIN, "--out", "run")[1]
    assert [record.name for record in caplog.records if "research" in record.message] == ["okcore.tasks._ptb"]
    assert errors and all("Downloading" in line for line in errors.splitlines())
    assert served.asked == list(TEXTS)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "okcore").iterdir()} == TEXTS
    monkeypatch.setattr(_ptb, "URL", "http://127.0.0.1:9/")
    assert okcore("resume", "run", "--steps", 30)[1] == ""
    assert metrics(tmp_path / "run")[-1]["step"] == 30
    assert okcore(*TRAIN, "--steps", 30, "--out", "same")[1] == ""
    assert served.asked == list(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_a_download_that_is_another_text_is_refused_and_not_kept(name, served, tmp_path, caplog):
    served.texts[name] = TEXTS[name].swapcase()
    _, errors = okcore(*TRAIN, "--out", "run", status=1)
    assert "research" in caplog.text and name in errors and _ptb.MD5[name] in errors
    cached = {path.name: path.read_bytes() for path in (tmp_path / "cache" / "okcore").iterdir()}
    assert name not in cached and cached.items() <= TEXTS.items()
    assert not (tmp_path / "run").exists()


def test_a_cached_text_that_was_damaged_is_downloaded_again(served, tmp_path):
    cache = tmp_path / "cache" / "okcore"
    cache.mkdir(parents=True)
    (cache / "ptb.train.txt").write_bytes(b"half a tex")
    okcore(*TRAIN, "--out", "run")
    assert (cache / "ptb.train.txt").read_bytes() == TEXTS["ptb.train.txt"]


def test_no_network(served, tmp_path, monkeypatch):
    del served.texts["ptb.valid.txt"]
    for word in ("404", "refused"):
        _, errors = okcore(*TRAIN, "--out", "run", status=1)
        assert "okcore: error: cannot download" in errors and word in errors and "--data-dir" in errors
        assert not (tmp_path / "run").exists()
        monkeypatch.setattr(_ptb, "URL", "http://127.0.0.1:9/")


def test_without_pooch_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    _, errors = okcore(*TRAIN, "--out", "run", status=1)
    assert 'pip install "okcore[data]"' in errors and "--data-dir" in errors
    assert not (tmp_path / "run").exists()
    assert okcore(*TRAIN, "--data-dir", folder, "--out", "run")[1] == ""


def test_a_folder_is_only_read(folder, served, tmp_path):
    said, errors = okcore(*TRAIN, "--data-dir", "data", "--out", "run")
    assert errors == "" and served.asked == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(TEXTS)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["options"]["data_dir"] == str(folder)
    variant = "raw bytes of ptb.*.txt, 50 symbols; not comparable with ptb.char.*"
    assert run["task"]["variant"] == variant
    assert variant in said[said.index("After 20 steps") :].splitlines()[0]
    okcore(*TRAIN, "--out", "downloaded")
    assert_same_run(tmp_path / "run", tmp_path / "downloaded")


def test_a_run_goes_on_where_the_folder_has_moved(folder, tmp_path):
    okcore(*TRAIN, "--data-dir", folder, "--out", "run")
    okcore(*TRAIN, "--data-dir", folder, "--steps", 30, "--out", "whole")
    folder.rename(tmp_path / "moved")
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace(str(folder), str(tmp_path / "moved")))
    okcore("resume", "run", "--steps", 30)
    (tmp_path / "moved").rename(folder)
    assert metrics(tmp_path / "run")[-1]["loss_bits"] == metrics(tmp_path / "whole")[-1]["loss_bits"]


def test_the_texts_are_the_files(folder):
    made = tasks.TASKS["text"].from_options(resolved(folder), None)
    assert made.symbols[made.train].tobytes() == TEXTS["ptb.train.txt"]
    assert made.symbols[made.valid].tobytes() == TEXTS["ptb.valid.txt"]
    assert tasks.ptb(folder) == (TEXTS["ptb.train.txt"], TEXTS["ptb.valid.txt"])


def resolved(folder):
    return options.from_mapping({"task": "text", "source": "ptb", "data_dir": str(folder), "batch": 2})


def test_a_grid_is_checked_without_a_download(served, tmp_path, folder):
    listed = set()
    for more in ("", 'data_dir = "data"'):  # where the files lie is not in a folder's name
        grid = f'[defaults]\ntask = "text"\nsource = "ptb"\n{more}\n[grid]\nseed = [0, 1]\n'
        (tmp_path / "grid.toml").write_text(grid)
        listed.add(okcore("sweep", "grid.toml", "--dry-run"))
    ((said, errors),) = listed
    assert errors == "" and said.count("text-ptb") == 2
    assert served.asked == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["ptb.train.txt", "ptb.valid.txt"])
def test_a_folder_with_another_text_is_refused(name, folder, tmp_path):
    edited(folder, name, TEXTS[name][::-1])
    _, errors = okcore(*TRAIN, "--data-dir", folder, "--out", "run", status=1)
    assert name in errors and _ptb.MD5[name] in errors and hashlib.md5(TEXTS[name][::-1]).hexdigest() in errors
    (folder / name).unlink()
    _, errors = okcore(*TRAIN, "--data-dir", folder, "--out", "run", status=1)
    assert f"must hold {name}" in errors and str(folder) in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments, word", [
    (["ptb", "--valid", "valid.txt"], "--valid"), (["text.txt", "--data-dir", "data"], "--data-dir"),
    (["python-docs", "--data-dir", "data"], "--data-dir"),
])  # fmt: skip
def test_what_does_not_go_together(arguments, word, folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(TEXTS["ptb.train.txt"])
    assert cli.main(["train", "text", *arguments, *SMALL, "--out", "run"]) == 1
    assert f"okcore: error: {word} must be left out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_paper_preset_is_the_papers(folder):
    found = options.from_mapping({"task": "text", "source": "ptb", "data_dir": str(folder), "preset": "paper"})
    sizes = {"hidden": 256, "rank": 8, "batch": 32, "clip": 100, "steps": 1_000_000, "init": "normal", "cell": "rhn"}
    assert found.items() >= sizes.items()
    made = tasks.TASKS["text"].from_options(found, None)
    resets = [next(made)[2] for _ in range(300)]
    positions = np.arange(300)[:, None] + np.arange(32) * (len(TEXTS["ptb.train.txt"]) - 1) // 31
    assert np.array_equal(resets, positions % len(TEXTS["ptb.train.txt"]) % 100 == 0)
