"""Figures say what the runs say: what is a line, its mean and spread, its name, and that all of it can be read."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import okcore
from okcore.runs import figure_style, plot
from tests.test_load import lines, write_run
from tests.test_runs import SMALL
from tests.test_runs import okcore as cli

pytest.importorskip("matplotlib")


def figure(loaded, x="steps", width=3.4, **options):
    """Return (lines, figure) of runs."""
    found = plot.lines_of(loaded, x, **options)
    with figure_style.styled():
        return found, plot.figure_of(found, x, width)


def labels(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def runs_of(tmp_path):
    """Return a function that writes runs, each with some values and options, and loads them."""

    def make(*each, **more):
        start = len(list(tmp_path.iterdir()))
        folders = [
            write_run(tmp_path / f"{start + i:03d}", lines(values, **more), **options)
            for i, (values, options) in enumerate(each)
        ]
        return okcore.load_runs(folders)

    return make


# ---- what is a line ------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_are_one_line(runs_of):
    same = {"threads": 2, "log_every": 3, "steps": 99, "save_every": 1, "valid_every": 5, "time_limit": 9}
    same["tolerance"] = None
    loaded = runs_of(([1, 2, 4], {"seed": 0}), ([1, 4, 8], {"seed": 1} | same), ([1, 3, 3], {"estimator": "uoro"}))
    ok, uoro = plot.lines_of(loaded)
    assert (ok.label, uoro.label, ok.task, ok.words) == ("ok", "uoro", "copy", "copy length (bits)")
    assert (ok.count, uoro.count) == (2, 1)
    np.testing.assert_array_equal(ok.x, [10, 20, 30])
    np.testing.assert_allclose(ok.mean, [1, 3, 6])
    np.testing.assert_allclose(ok.deviation, [0, np.sqrt(2), np.sqrt(8)])
    np.testing.assert_array_equal(uoro.mean, [1, 3, 3])
    np.testing.assert_array_equal(uoro.deviation, 0)


def test_a_mean_goes_as_far_as_all_of_its_runs(runs_of):
    (line,) = plot.lines_of(runs_of(([1, 2, 3, 4], {}), ([3, 4], {"seed": 1})))
    assert line.x.tolist() == [10, 20] and line.mean.tolist() == [2, 3]


def test_seconds_are_those_of_each_run(tmp_path):
    write_run(tmp_path / "a", lines([0, 10], seconds=1))
    write_run(tmp_path / "b", lines([0, 20], seconds=2), seed=1)
    (line,) = plot.lines_of(okcore.load_runs(tmp_path / "*"), x="seconds")
    assert line.x.tolist() == [2] and line.mean.tolist() == [5]  # a has 10 there, b still 0
    write_run(tmp_path / "c", lines([0, 30], seconds=1.5), seed=2)
    (line,) = plot.lines_of(okcore.load_runs([tmp_path / "b", tmp_path / "c"]), x="seconds")
    assert line.x.tolist() == [2, 3] and line.mean.tolist() == [(0 + 10) / 2, (10 + 30) / 2]
    write_run(tmp_path / "d", lines([1], seconds=9), seed=3)
    with pytest.raises(ValueError, match="must overlap"):
        plot.lines_of(okcore.load_runs([tmp_path / "a", tmp_path / "d"]), x="seconds")


def test_what_was_not_measured_is_left_out(runs_of):
    (line,) = plot.lines_of(runs_of(([None, 3, None, 2], {"task": "text"}), name="valid_bpc"))
    assert line.x.tolist() == [20, 40] and line.mean.tolist() == [3, 2]
    assert line.words == "validation bits per character"


@pytest.mark.parametrize("options, expected", [
    ([{"rank": 4}, {"rank": 8}], ["rank 4", "rank 8"]),
    ([{"rank": 4}, {"rank": 8}, {"estimator": "uoro"}], ["ok, rank 4", "ok, rank 8", "uoro"]),
    ([{"estimator": "ok"}, {"estimator": "tbptt", "block": 25}], ["ok", "tbptt"]),
    ([{"estimator": "uoro", "rank": 2}, {"estimator": "uoro", "rank": 4, "seed": 1}], ["uoro"]),  # it has no rank
    ([{"cell": "rhn", "init": "normal"}, {"cell": "lstm", "init": "uniform"}], ["rhn", "lstm"]),
    ([{"lr": 0.1, "update_every": 2}, {"lr": 0.1, "update_every": 3}], ["update every 2", "update every 3"]),
    ([{"source": "/some/where/a.txt"}, {"source": "/else/where/b.txt"}], ["a.txt", "b.txt"]),
])  # fmt: skip
def test_lines_are_named_by_what_tells_them_apart(options, expected, runs_of):
    assert [line.label for line in plot.lines_of(runs_of(*(([1], each) for each in options)))] == expected


def test_by_an_option(runs_of):
    options = itertools.product((4, 8), (0, 2), (0, 1))
    loaded = runs_of(*(([rank + lr], {"rank": rank, "lr": lr, "seed": seed}) for rank, lr, seed in options))
    assert len(plot.lines_of(loaded)) == 4
    four, eight = plot.lines_of(loaded, by="rank")
    assert (four.label, eight.label, four.count) == ("rank 4", "rank 8", 4)
    assert four.mean.tolist() == [5] and eight.mean.tolist() == [9]
    np.testing.assert_allclose(four.deviation, np.std([4, 4, 6, 6], ddof=1))
    assert [line.label for line in plot.lines_of(loaded[:1], by="rank")] == ["rank 4"]
    with pytest.raises(ValueError, match=r"--by must be an option of every run, got color; .*has task, estimator"):
        plot.lines_of(loaded, by="color")


def test_any_metric(runs_of):
    loaded = runs_of(([5, 6], {}))
    (line,) = plot.lines_of(loaded, y="loss_bits")
    assert line.words == "loss (bits)" and line.mean.tolist() == [1, 0.5]
    with pytest.warns(UserWarning, match="no spam"), pytest.raises(ValueError, match="nothing to draw"):
        plot.lines_of(loaded, y="spam")


def test_a_task_of_which_nothing_is_known(runs_of):
    (line,) = plot.lines_of(runs_of(([5, 6], {"task": "mine"})))
    assert line.words == "loss (bits)" and line.mean.tolist() == [1, 0.5]


def test_averages_are_drawn_over_fiftieths(runs_of):
    (line,) = plot.lines_of(runs_of(([1] * 101, {})), y="loss_bits")
    losses = 1 / np.arange(1, 102)
    assert len(line.x) == 34 and line.x[0] == 30 and line.x[-1] == 1010
    np.testing.assert_allclose(line.mean, [losses[i : i + 3].mean() for i in range(0, 101, 3)])


def test_runs_without_lines(runs_of):
    started, going_on = runs_of(([], {}), ([1, 2], {}))
    with pytest.warns(UserWarning, match="000 has no measurements"):
        (line,) = plot.lines_of([started, going_on])
    assert line.count == 1
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="nothing to draw yet"):
        plot.lines_of([started])


def test_a_comparison(tmp_path):
    each = [
        {"step": t, "time_s": t, "loss_bits": 1, "copy_length": t, "step_ms": {"ok": 1, "uoro": 1, "rtrl": 1},
         "relative_error": {"ok": 0.1 * t, "uoro": 2 * t}, "cosine": {"ok": None, "uoro": 0.5}}
        for t in (1, 2)
    ]  # fmt: skip
    for seed in (0, 1):
        write_run(tmp_path / f"comparison{seed}", each, seed=seed, **{"with": ["uoro", "rtrl"]})
    loaded = okcore.load_runs(tmp_path / "*")
    found = [(line.words, line.label, line.count, line.mean.tolist()) for line in plot.lines_of(loaded)]
    error, cosine = "relative error against the exact gradient", "cosine with the exact gradient"
    assert found == [(error, "ok", 2, [0.1, 0.2]), (error, "uoro", 2, [2, 4]), (cosine, "uoro", 2, [0.5, 0.5])]
    (line,) = plot.lines_of(loaded, y="copy_length")
    assert line.mean.tolist() == [1, 2]
    assert [line.label for line in plot.lines_of(loaded, y="step_ms/rtrl")] == ["rtrl"]
    for line in each:
        del line["cosine"]["ok"], line["step_ms"]["rtrl"]
    write_run(tmp_path / "without", each, **{"with": ["uoro"]})
    assert plot.lines_of(okcore.load_runs(tmp_path / "without"))[-1].words == "cosine with ok"
    both = plot.lines_of(loaded, y="relative_error", by="seed")
    assert [line.label for line in both] == ["ok, seed 0", "uoro, seed 0", "ok, seed 1", "uoro, seed 1"]


# ---- what is drawn -------------------------------------------------------------------------------


def test_a_figure_says_what_it_shows(runs_of):
    found, drawn = figure(runs_of(([1, 2], {}), ([1, 4], {"seed": 1}), ([2, 2], {"estimator": "tbptt"})))
    (axes,) = drawn.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time steps", "copy length (bits)")
    assert axes.get_title(loc="left") == "mean ± standard deviation of 1 to 2 runs"
    assert sorted(labels(axes)) == ["ok", "tbptt"]
    for line, curve in zip(found, axes.lines, strict=True):
        assert np.array_equal(curve.get_xdata(), line.x) and np.array_equal(curve.get_ydata(), line.mean)
    (band,) = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices.round(6).tolist()}
    assert {(20, round(3 - np.sqrt(2), 6)), (20, round(3 + np.sqrt(2), 6)), (10, 1)} <= corners
    _, drawn = figure(runs_of(([1, 2], {})), x="seconds")
    assert drawn.axes[0].get_xlabel() == "seconds of training"
    assert not labels(drawn.axes[0]) and not drawn.axes[0].get_title(loc="left")


def test_a_panel_per_task_and_measure(tmp_path):
    write_run(tmp_path / "a", lines([1, 2]))
    write_run(tmp_path / "b", lines([3, 2], name="valid_nrmse"), task="series")
    write_run(tmp_path / "c", lines([30, 9], name="delay"), task="delay")
    loaded = okcore.load_runs(tmp_path / "*")
    for width, columns in ((3.4, 1), (7, 2)):
        _, drawn = figure(loaded, width=width)
        assert [axes.get_title(loc="left") for axes in drawn.axes] == ["copy", "series", "delay"]
        said = [axes.get_ylabel().replace("\n", " ") for axes in drawn.axes]
        assert said == ["copy length (bits)", "normalised error of the validation part", "delay (steps)"]
        assert len({round(axes.get_position().x0, 2) for axes in drawn.axes}) == columns
        assert drawn.get_size_inches()[0] == width


def test_lines_differ_in_more_than_colour(runs_of):
    _, drawn = figure(runs_of(*(([1, 2], {"rank": rank}) for rank in range(1, 13))))
    assert len({(str(line._dash_pattern), line.get_marker()) for line in drawn.axes[0].lines}) == 12
    whole = [tuple(map(str, figure_style.line_style(i).values())) for i in range(360)]
    assert len(set(whole)) == 360


def extents(drawn, axes):
    """Return the boxes of the labels, without the lines that join them to the curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw_without_rendering()
    return [Text.get_window_extent(text, renderer) for text in axes.texts]


@pytest.mark.parametrize("width", [3.4, 7])
@pytest.mark.parametrize("count", [2, 7, 30])
def test_labels_lie_apart_and_inside_the_figure(count, width, runs_of):
    _, drawn = figure(runs_of(*(([1, 5 + 0.001 * rank], {"rank": rank}) for rank in range(count))), width=width)
    (axes,) = drawn.axes
    boxes = extents(drawn, axes)
    assert len(boxes) == count
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    right, top = drawn.get_size_inches() * drawn.dpi
    for box in boxes:
        assert box.x0 > axes.bbox.x1 and box.x1 <= right and box.y0 >= 0 and box.y1 <= top
    assert axes.bbox.width > 0.4 * right
    by_height = sorted(axes.texts, key=lambda text: text.xyann[1])
    assert labels(axes) == [text.get_text() for text in by_height]  # in the order of the lines' ends


def test_spread():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 20):
        places = rng.uniform(size=count)
        moved = figure_style.spread(places, 0.04, 0, 1)
        assert np.array_equal(np.argsort(moved), np.argsort(places))
        assert (np.diff(np.sort(moved)) >= 0.04 - 1e-12).all() and moved.min() >= -1e-12 and moved.max() <= 1 + 1e-12
    np.testing.assert_allclose(figure_style.spread([0.9, 0.1, 0.5], 0.1, 0, 1), [0.9, 0.1, 0.5])
    np.testing.assert_allclose(figure_style.spread([0.5, 0.5], 0.1, 0, 1), [0.45, 0.55])
    np.testing.assert_allclose(figure_style.spread([1, 0.98], 0.1, 0, 1), [1, 0.9])
    np.testing.assert_allclose(figure_style.spread([0.2] * 3, 1, 0, 1), [-0.5, 0.5, 1.5])  # no room: around the middle


def test_a_logarithmic_axis(tmp_path):
    def error(**errors):
        line = {"time_s": 1, "loss_bits": 1, "relative_error": errors, "step_ms": {"rtrl": 1}}
        return [line | {"step": t} for t in (1, 2)]

    for name, errors, scale in (("narrow", {"uoro": 2, "ok": 0.1}, "linear"), ("wide", {"uoro": 5, "ok": 0.1}, "log")):
        write_run(tmp_path / name, error(**errors), **{"with": ["uoro"]})
        assert figure(okcore.load_runs(tmp_path / name))[1].axes[0].get_yscale() == scale
    write_run(tmp_path / "exact", error(uoro=5, ok=1e-9, rtrl=0), **{"with": ["uoro"]})
    _, drawn = figure(okcore.load_runs(tmp_path / "exact"))
    assert drawn.axes[0].get_ylim()[0] > 1e-4  # rounding does not stretch the axis
    assert sorted(labels(drawn.axes[0])) == ["ok ↓", "rtrl ↓", "uoro"]


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plot")
    for estimator in ("ok", "uoro"):
        cli("train", "copy", *SMALL, "--steps", 40, "--estimator", estimator, "--out", folder / estimator)
    return folder


def test_a_newcomers_figure_of_two_runs(two_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, errors = cli("plot", two_runs / "ok", two_runs / "uoro")
    assert errors == "" and said.splitlines()[0] == "copy: copy length (bits)" and "Wrote curves.svg" in said
    for row, name in zip(said.splitlines()[1:3], ("ok", "uoro"), strict=True):
        assert row.split() == [name, "1", "(1", "run)", "after", "40", "steps"]
    text = Path("curves.svg").read_text()
    for word in ("copy length (bits)", "time steps", ">ok<", ">uoro<"):
        assert word in text
    assert list(tmp_path.iterdir()) == [tmp_path / "curves.svg"]
    before = text
    cli("plot", two_runs / "ok", two_runs / "uoro")
    assert Path("curves.svg").read_text() == before


@pytest.mark.parametrize("kind, start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("PDF", b"%PDF")])
def test_formats(kind, start, two_runs, tmp_path):
    path = tmp_path / f"figure.{kind}"
    cli("plot", two_runs / "*", "-o", path, "--x", "seconds", "--y", "loss_bits", "--width", 7)
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("arguments, words", [
    (["*", "-o", "figure.jpg"], "FIGURE must end in .svg, .png, .pdf, got 'figure.jpg'"),
    (["*", "-o", "figure"], "FIGURE must end in"), (["*", "-o", "none/figure.svg"], "none/figure.svg"),
    (["none"], "none' must be the folder of a run"), (["none*"], "no folder matches"),
    (["*", "--by", "color"], "--by must be an option of every run"),
])  # fmt: skip
def test_what_is_refused(arguments, words, two_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, errors = cli("plot", two_runs / arguments[0], *arguments[1:], status=1)
    assert said == "" and errors.startswith("okcore: error: ") and words in errors
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(two_runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, errors = cli("plot", two_runs / "*", "-o", tmp_path / "a.svg", status=1)
    assert errors == "okcore: error: figures need matplotlib: pip install matplotlib\n"
    assert list(tmp_path.iterdir()) == []


def test_every_task_says_the_unit_of_its_measure():
    for name, task in okcore.tasks.TASKS.items():
        assert task.unit or " per " in task.words or "normalised" in task.words, name
