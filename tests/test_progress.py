"""Progress bars: on a terminal and in a notebook, nowhere else unless asked for."""

import subprocess
import sys
import types

import pytest
import tqdm.auto

import okcore
from okcore.runs.options import from_mapping
from okcore.runs.run import Run
from okcore.runs.sweep import Progress, Trial


@pytest.fixture
def notebook(monkeypatch):
    """Make this process look like that of a notebook."""
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))


@pytest.fixture
def shown(monkeypatch):
    """Return a list that says of each bar that is made from here on whether it is shown."""
    said = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            said.append(not self.disable)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    return said


def fit(**options):
    task = okcore.tasks.Copy(batch_size=2, rng=0)
    cell = okcore.RNN(task.n_in, 3, rng=1)
    trainer = okcore.OnlineTrainer(cell, okcore.SnAp1(cell, 2), okcore.SoftmaxReadout(3, 4, rng=2), okcore.SGD(0.01))
    trainer.fit(task, 5, **options)


def run(folder, **options):
    with Run.create(folder, from_mapping({"task": "copy", "hidden": 3, "batch": 2, "steps": 5})) as made:
        made.train(**options)


def sweep(folder):
    with Progress([Trial(folder, {"steps": 5})]):
        pass


def everything(folder):
    fit()
    run(folder / "run")
    sweep(folder / "sweep")


def test_a_notebook_has_bars(notebook, shown, tmp_path):
    everything(tmp_path)
    assert shown == [True, True, False, True]  # the trainer of a run leaves the bar to it


def test_a_terminal_has_bars(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    everything(tmp_path)
    assert shown == [True, True, False, True]


def test_no_bars_elsewhere(shown, tmp_path):
    everything(tmp_path)
    assert shown == 4 * [False]


def test_bars_as_asked_for(shown, tmp_path, capsys, monkeypatch):
    fit(progress=True)
    assert shown == [True] and "5/5" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(progress=False)
    with open(tmp_path / "lines", "w") as lines:
        run(tmp_path / "run", output=lines)
    assert shown == [True, False, False, False]


def test_a_notebook_without_widgets_has_a_line_of_text_and_no_warning():
    code = """
import sys, types
for name in ("ipykernel", "ipykernel.zmqshell", "IPython"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["ipywidgets"] = None
sys.modules["IPython"].get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": {}})
from tests.test_progress import fit
fit()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "5/5" in done.stderr and "Warning" not in done.stderr, done.stderr
