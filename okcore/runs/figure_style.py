"""How okcore's figures look: lines told apart by more than colour, names at their ends, sizes for print.

Matplotlib is imported where something is drawn: it is an extra, and nothing else needs it.
"""

from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from okcore.runs import files

FORMATS = "svg", "png", "pdf"
COLUMN = 3.4           # width of a printed column in inches
SIZE = 7.5             # of text, in points

# Okabe and Ito's colours, which suit colour-blind readers; those that are legible on white, the clearest first
COLORS = {
    "blue": "#0072B2", "vermilion": "#D55E00", "green": "#009E73", "purple": "#CC79A7", "black": "#000000",
    "orange": "#E69F00", "sky": "#56B4E9", "brown": "#8C510A",
}  # fmt: skip
DASHES = "-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2))
MARKERS = "o", "s", "^", "D", "v", "P", "X", "h", "*"

SETTINGS = {
    "svg.fonttype": "none",       # text that can be searched and read aloud
    "svg.hashsalt": "okcore",     # the same figure, the same file
    "pdf.fonttype": 42,
    "font.family": "sans-serif", "font.size": SIZE, "axes.titlesize": SIZE, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2, "lines.markersize": 3.5, "figure.constrained_layout.use": True,
}  # fmt: skip


def styled(**more):
    """Return a context in which figures are drawn and saved in this style."""
    try:
        import matplotlib
    except ImportError:
        raise ModuleNotFoundError("figures need matplotlib: pip install matplotlib") from None
    return matplotlib.rc_context(SETTINGS | more)


def line_style(number):
    """Return the colour, dashes and marker of a figure's line, as arguments of `plot`: no two of 360 are the same."""
    colors = list(COLORS.values())
    kinds = {"color": colors, "linestyle": DASHES, "marker": MARKERS}
    return {name: kind[number % len(kind)] for name, kind in kinds.items()}


def spread(places, gap, low, high):
    """Return the places moved as little as possible until any two are `gap` apart, within `low` and `high` if they fit.

    Parameters
    ----------
    places : (n,) floats
    gap, low, high : float

    Returns
    -------
    (n,) array
        In the order of `places`.
    """
    places = np.asarray(places, np.float64)
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = isotonic_regression(places[order] - steps).x
    room = high - low - gap * (len(places) - 1)
    moved = np.clip(moved, low, low + room) if room >= 0 else np.full_like(moved, low + room / 2)
    found = np.empty_like(places)
    found[order] = moved + steps
    return found


def label_lines(axes, ends, size=SIZE):
    """Write the names of lines to the right of the axes, each joined to the end of its line.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Its limits and its height must be final.
    ends : list of (x, y, text, color)
        In data coordinates. An end below the axes is marked by an arrow down.
    size : float
        Of the text, in points.
    """
    from matplotlib.colors import to_rgb

    bottom, top = axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((x, min(max(y, bottom), top)))[1] for x, y, _, _ in ends]
    gap = 1.25 * size / 72 * axes.figure.dpi / axes.bbox.height
    for (x, y, text, color), place in zip(ends, spread(places, gap, 0, 1), strict=True):
        arrow = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
        axes.annotate(
            text + " ↓" * bool(y < bottom), (x, min(max(y, bottom), top)), xytext=(1.05, place),
            textcoords="axes fraction", va="center", fontsize=size, annotation_clip=False, arrowprops=arrow,
            color=[0.75 * part for part in to_rgb(color)],  # letters are thinner than lines
        )  # fmt: skip


def checked_path(name, path):
    """Return where a figure can be written; an ending that is no format, or a missing folder, is refused."""
    path = Path(path)
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise ValueError(f"{name} must end in .{', .'.join(FORMATS)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} must lie in an existing folder, got {str(path)!r}")
    return path


def save(figure, path, dpi=300):
    """Write a figure, atomically and without a date, in the format of the path's ending."""
    kind = Path(path).suffix.lower().lstrip(".")
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    files.replace(path, lambda file: figure.savefig(file, format=kind, dpi=dpi, metadata=dateless.get(kind)))
