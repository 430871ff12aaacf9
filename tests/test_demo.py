"""okcore demo: two contestants, the same time, a sentence and a figure."""

import re
import sys

import numpy as np
import pytest

from okcore.runs import demo
from tests.test_runs import okcore


def test_the_demo_ends_with_a_sentence_and_a_figure(tmp_path):
    pytest.importorskip("matplotlib")
    said, errors = okcore("demo", "--seconds", 1, "--out", tmp_path / "demo.svg")
    assert re.search(r"OK +[\d,]+ updates, remembers over +[\d,]+ steps\n  TBPTT\(25\) +[\d,]+ updates", said)
    assert re.search(r"In the same time, untruncated gradients have bridged .* truncated backpropagation .*\.", said)
    figure = (tmp_path / "demo.svg").read_text()
    assert "TBPTT(25)" in figure and "delay mastered" in figure and not errors


def test_a_bad_figure_is_refused_before_the_work(tmp_path):
    assert "FIGURE" in okcore("demo", "--out", tmp_path / "demo.txt", status=1)[1]
    assert "FIGURE" in okcore("demo", "--out", tmp_path / "none" / "demo.svg", status=1)[1]


def test_without_matplotlib_there_is_still_the_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said, _ = okcore("demo", "--seconds", 0.2, "--out", tmp_path / "demo.svg")
    assert "In the same time" in said and "pip install matplotlib" in said


def test_both_have_the_same_time_and_the_same_start(monkeypatch):
    monkeypatch.setattr(demo, "TURN", 5)
    ok, tbptt = (demo.Contestant(name, 3) for name in demo.CONTESTANTS)
    np.testing.assert_array_equal(ok.trainer.cell.theta, tbptt.trainer.cell.theta)
    np.testing.assert_array_equal(next(ok.task)[0], next(tbptt.task)[0])
    demo.train([ok, tbptt], 0.3)
    for one in (ok, tbptt):
        turns = np.diff(one.seconds)
        assert one.seconds[-1] >= 0.3 > one.seconds[-1] - turns[-1]  # no turn too many
        assert len(one.delays) == len(one.seconds)
