"""okcore plot: learning curves of runs, and the errors of gradients in comparisons."""

import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from okcore.estimators import ESTIMATORS
from okcore.runs import figure_style
from okcore.runs.console import say
from okcore.runs.load import load_runs
from okcore.runs.options import checked, content
from okcore.tasks import TASKS

EXAMPLES = """\
Draw learning curves. Runs that differ in nothing but the seed are one line, their mean, in a band of one standard
deviation to each side. Losses and errors are drawn as means over fiftieths of a run.

examples:
  okcore plot runs/copy-001 runs/copy-002              writes curves.svg
  okcore plot runs/* -o curves.pdf --x seconds
  okcore plot runs/* --by rank                         a line per rank, whatever else differs
"""

X = {"steps": ("step", "time steps"), "seconds": ("time_s", "seconds of training")}
COMPARED = {"relative_error": "relative error against", "cosine": "cosine with"}  # what is drawn of a comparison
IGNORED = "seed", "with"                # what may differ between the runs of one line
FIRST = "estimator", "cell"             # the options that name a line best
AVERAGES = {"loss_bits", *COMPARED, "variance", "step_ms"}  # metrics that are means since the line before
POINTS = 50                             # of a line of averages
WIDE = 30, 1e4                          # a logarithmic axis: its largest value over its smallest, at least and at most


def add_arguments(parser):
    """Add the arguments of ``okcore plot``."""
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders of runs")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("curves.svg"), metavar="FIGURE",
        help="file to write, .svg, .png or .pdf (default curves.svg)",
    )  # fmt: skip
    parser.add_argument("--x", choices=X, default="steps", help="horizontal axis (default steps)")
    parser.add_argument(
        "--y", metavar="METRIC",
        help="a number of metrics.jsonl, such as loss_bits (default: the task's measure; the errors of a comparison)",
    )
    parser.add_argument("--by", metavar="OPTION", help="draw a line per value of this option, over all else")
    parser.add_argument(
        "--width", type=checked(float, 0, True), default=figure_style.COLUMN, metavar="INCHES",
        help=f"of the figure (default {figure_style.COLUMN}, a printed column)",
    )


def main(arguments):
    """Draw a figure of runs, and say what its lines are."""
    path = figure_style.checked_path("FIGURE", arguments.out)
    lines = lines_of(load_runs(arguments.folders), arguments.x, arguments.y, arguments.by)
    draw(lines, path, arguments.x, arguments.width)
    unit = {"steps": "steps", "seconds": "s"}[arguments.x]
    width = max(len(line.label) for line in lines)
    for (task, words), panel in panels_of(lines).items():
        say(f"{task}: {words}")
        for line in panel:
            runs = f" ± {line.deviation[-1]:<8.3g} ({line.count} runs)" if line.count > 1 else " " * 11 + " (1 run)"
            say(f"  {line.label:<{width}}  {line.mean[-1]:>8.4g}{runs} after {line.x[-1]:,.0f} {unit}")
    say(f"Wrote {path}")
    return 0


@dataclass
class Line:
    """The mean of some runs over time; `words` is what it is the mean of."""

    task: str
    words: str
    label: str
    count: int               # of runs
    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray    # standard deviation over the runs, 0 for one run


def lines_of(runs, x="steps", y=None, by=None):
    """Return the lines of a figure.

    Parameters
    ----------
    runs : list of LoadedRun
    x : {"steps", "seconds"}
    y : str, optional
        A metric, instead of the task's measure and of what a comparison compares.
    by : str, optional
        Group the runs by this option only.

    Returns
    -------
    list of Line
        A panel's lines one after another.
    """
    by = by and by.replace("-", "_")
    groups = {}  # {(task, words): {(an estimator that was compared, or None; options): [(x, y) of a run]}}
    for run in runs:
        if by is not None and by not in run.options:
            known = ", ".join(run.options)
            raise ValueError(f"--by must be an option of every run, got {by}; {str(run.folder)!r} has {known}")
        curves = list(_curves(run, X[x][0], y))
        if not curves:
            warnings.warn(f"{run.folder} has no {y or 'measurements'} to draw yet", stacklevel=2)
        options = _identity(run.options) if by is None else {by: run.options[by]}
        for words, compared, *curve in curves:
            panel = groups.setdefault((run.options["task"], words), {})
            key = compared, tuple((name, repr(value)) for name, value in options.items())
            panel.setdefault(key, (compared, options, []))[2].append(curve)
    if not groups:
        raise ValueError("there is nothing to draw yet: no run has a line of metrics with it")
    return [
        Line(task, words, label, len(curves), *mean_and_deviation(curves))
        for (task, words), panel in groups.items()
        for label, (_, _, curves) in zip(_labels(list(panel.values()), by), panel.values(), strict=True)
    ]


def words_of(task):
    """Return what a task measures, with its unit."""
    return task.words + (f" ({task.unit})" if task.unit else "")


def _curves(run, x, y):
    """Yield (words, an estimator that was compared or None, x, y) of a run, without what was not measured."""
    metrics = run.metrics
    task = TASKS.get(run.options["task"])
    measure = task.measure if task and task.measure else "loss_bits"
    words = {"loss_bits": "loss (bits)"}
    if task and task.measure:
        words[measure] = words_of(task)
    if "with" in run.options:
        words |= {name: f"{text} {_reference(metrics)}" for name, text in COMPARED.items()}
    if y is None and "with" in run.options:
        wanted = COMPARED
    else:
        wanted = [measure if y is None else y]
    for quantity in wanted:
        for name in metrics:
            whole, _, compared = name.partition("/")
            there = ~np.isnan(metrics[name])
            if quantity in (whole, name) and there.any():
                curve = metrics[x][there], metrics[name][there]
                yield words.get(whole, whole), compared or None, *(_coarser(*curve) if whole in AVERAGES else curve)


def _reference(metrics):
    """Return what gradients were compared with: the estimator of which nothing but the time was measured."""
    timed, compared = (
        [name.partition("/")[2] for name in metrics if name.startswith(what + "/")] for what in ("step_ms", "cosine")
    )
    name = "".join(name for name in timed if name not in compared)
    estimator = ESTIMATORS.get(name.partition(" ")[0])
    return "the exact gradient" if estimator and estimator.quality == "exact" else name


def _coarser(x, y):
    """Return the means of at most `POINTS` stretches of y, each at its last x."""
    starts = np.arange(0, len(y), -(-len(y) // POINTS))
    ends = np.append(starts[1:], len(y))
    return x[ends - 1], np.add.reduceat(y, starts) / (ends - starts)


def _identity(options):
    """Return the options that matter to what a run computes, the seed left out; those that name a line best first."""
    taken = getattr(ESTIMATORS.get(options["estimator"]), "options", options)
    ours = {name for estimator in ESTIMATORS.values() for name in estimator.options}
    return {
        name: value for name, value in sorted(content(options).items(), key=lambda item: item[0] not in FIRST)
        if name not in IGNORED and (name in taken or name not in ours) and value is not None
    }  # fmt: skip


def _labels(groups, by):
    """Return a name for each (compared, options, curves): the options, as few as possible, that tell them apart."""
    names = dict.fromkeys(name for _, options, _ in groups for name in options)
    labels = [compared or "" for compared, _, _ in groups]
    for name in names:
        longer = [
            ", ".join(filter(None, (label, _said(name, options[name]) if name in options else "")))
            for label, (_, options, _) in zip(labels, groups, strict=True)
        ]
        if len(set(longer)) > len(set(labels)) or name == by:
            labels = longer
    return labels if all(labels) else [_said("estimator", groups[0][1]["estimator"])]  # one group, with nothing to tell


def _said(name, value):
    """Return an option for a reader: words speak for themselves, numbers do not."""
    if isinstance(value, str) and name in ("source", "valid", "name"):
        value = Path(value).name
    return value if isinstance(value, str) else f"{name.replace('_', ' ')} {value}"


def mean_and_deviation(curves):
    """Return x, the mean and the standard deviation of curves (x, y), where all of them have been measured.

    Between its measurements, a curve is a straight line.
    """
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if not len(grid):
        raise ValueError(f"the runs of a line must overlap: one begins at {start:g}, another ends at {end:g}")
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    return grid, values.mean(axis=0), values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(grid))


def panels_of(lines):
    """Return {(task, words): lines}."""
    panels = {}
    for line in lines:
        panels.setdefault((line.task, line.words), []).append(line)
    return panels


def draw(lines, path, x="steps", width=figure_style.COLUMN):
    """Write a figure of lines, one panel for each thing that was measured."""
    with figure_style.styled():
        figure_style.save(figure_of(lines, x, width), path)


def figure_of(lines, x="steps", width=figure_style.COLUMN):
    """Return a matplotlib figure of lines; call it, and save the figure, inside `figure_style.styled()`."""
    from matplotlib.figure import Figure

    panels = panels_of(lines)
    columns = min(len(panels), max(1, int(width // figure_style.COLUMN)))
    rows = -(-len(panels) // columns)
    height = max(2.2, 0.6 + 0.14 * max(map(len, panels.values())))
    figure = Figure(figsize=(width, rows * height))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(line.label for line in lines))}
    several = len({line.task for line in lines}) > 1
    for axes, ((task, words), panel) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, panel, numbers)
        axes.set(xlabel=X[x][1], ylabel=textwrap.fill(words, 32), title=_title(panel, task if several else None))
    figure.draw_without_rendering()  # the layout, which decides how far apart labels must be
    for axes, panel in zip(grid, panels.values(), strict=False):
        if len(lines) > 1:
            figure_style.label_lines(axes, [
                (line.x[-1], line.mean[-1], line.label, figure_style.line_style(numbers[line.label])["color"])
                for line in panel
            ])  # fmt: skip
    return figure


def _draw_panel(axes, panel, numbers):
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    means = np.concatenate([line.mean for line in panel])
    lowest = max(means[means > 0].min(initial=np.inf), means.max() / WIDE[1])
    logarithmic = means.min() >= 0 and means.max() > WIDE[0] * lowest and "cosine" not in panel[0].words
    for line in panel:
        style = figure_style.line_style(numbers[line.label])
        every = max(1, len(line.x) // 8)
        first = numbers[line.label] * every // 3 % every  # markers of lines that lie on each other do not
        axes.plot(line.x, line.mean, markevery=(first, every), **style)
    if logarithmic:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(lowest / 1.3, means.max() * 1.3)
        wide = means.max() > 300 * lowest
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    limits = axes.get_ylim()
    for line in panel:
        if line.count > 1:
            color = figure_style.line_style(numbers[line.label])["color"]
            low, high = line.mean - line.deviation, line.mean + line.deviation
            low = np.maximum(low, limits[0]) if logarithmic else low  # a band may reach down to 0
            axes.fill_between(line.x, low, np.maximum(high, low), color=color, alpha=0.18, linewidth=0)
    if logarithmic:
        axes.set_ylim(limits)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)


def _title(panel, task):
    counts = sorted({line.count for line in panel})
    said = [task] if task else []
    if counts[-1] > 1:
        runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        said.append(f"mean ± standard deviation of {runs} runs")
    return ": ".join(said)
