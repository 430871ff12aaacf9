"""Measure and draw the figures of docs/performance.md: python bench/figures.py [--out DIR] [--redraw]

    scaling       time per step and memory against n for all algorithms, with fitted slopes
    noise-cost    error of one gradient against time per step, for OK by rank and block and for the others

Each figure is written as SVG and PNG. The measurements go to measurements.json, from which --redraw draws again.
"""

import argparse
import json
import platform
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import measure
from tqdm import tqdm

from okcore.runs import figure_style
from okcore.runs.figure_style import COLORS

NAMES = {  # label, colour and marker
    "rtrl-block1": ("exact RTRL, textbook", COLORS["vermilion"], "s"),
    "rtrl": ("exact RTRL, blocked", COLORS["orange"], "D"),
    "ok-block1": ("OK, rank 8, block 1", COLORS["sky"], "^"),
    "ok": ("OK, rank 8, blocked", COLORS["blue"], "o"),
    "kf-rtrl": ("KF-RTRL", COLORS["green"], "v"),
    "uoro": ("UORO", COLORS["purple"], "P"),
    "snap1": ("SnAp-1", COLORS["brown"], "h"),
    "tbptt": ("TBPTT, window 25", COLORS["black"], "X"),
}
RANKS = {2: COLORS["sky"], 4: COLORS["green"], 8: COLORS["blue"], 16: COLORS["purple"]}  # of OK, in the figure of noise
BLOCKS = {1: "s", 4: "^", 16: "o"}
SCREEN = {"font.size": 10, "axes.titlesize": 11, "lines.linewidth": 1.5, "lines.markersize": 5}  # wider than a column


def style(name):
    """Return an estimator's label, colour and marker."""
    return NAMES.get(name, (name, "#777777", "*"))


# ---- measurements ----------------------------------------------------------------------------------------------------


def scaling_of(form):
    """Return sizes, seconds per step and bytes of an algorithm."""
    time_sizes, memory_sizes = measure.TIME_SIZES[form], measure.MEMORY_SIZES[form]
    return {
        "time_sizes": time_sizes,
        "seconds": [measure.seconds_per_step(form, n) for n in time_sizes],
        "seconds_flushed": [measure.seconds_per_step(form, n, flushed=True) for n in time_sizes],
        "memory_sizes": memory_sizes,
        "bytes": [measure.memory_bytes(form, n) for n in memory_sizes],
    }


def noise():
    """Return the relative error of one gradient after 200 steps (RMS over seeds) and the seconds per step: RHN, n = 64."""
    cell = measure.remembering_cell(16, measure.size(64))
    others = [form for form in measure.FORMS if form not in ("ok", "ok-block1")]  # OK by rank and block instead
    jobs = {f"OK {r} {K}": ("ok", {"rank": r, "block": K}) for r in RANKS for K in BLOCKS} | {form: (form, {}) for form in others}
    found = {}
    for name, (form, options) in tqdm(jobs.items(), "noise-cost"):
        error = measure.gradient_error(form, cell, 10 * measure.size(20), 2 if measure.TOY else 12, **options)
        job = measure.Stream(measure.make_estimator(form, cell, **options))
        found[name] = [error, measure.typical_seconds(job.block, choose=np.median) / job.period]
    return found


def measurements():
    """Return everything that is drawn."""
    return {
        "machine": f"{platform.machine()}, {measure.kernels()}",
        "scaling": {form: scaling_of(form) for form in tqdm(measure.FORMS, "scaling")},
        "noise": noise(),
    }


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw_scaling(found):
    """Draw time and memory against n with fitted slopes."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 5))
    labels = []
    for axes, sizes, values, title, unit in (
        (panels[0], "time_sizes", "seconds", "Time per step with its gradient", "microseconds"),
        (panels[1], "memory_sizes", "bytes", "Memory of one lane", "megabytes"),
    ):
        ends = []
        for name in found:
            label, color, marker = style(name)
            x, y = np.array(found[name][sizes]), np.array(found[name][values]) * 1e6 ** (1 if values == "seconds" else -1)
            slope = measure.exponent(x, y)
            axes.loglog(x, y, color=color, marker=marker)
            ends.append((x[-1], y[-1], f"{label}: n$^{{{slope:.1f}}}$", color))
            if name == "rtrl" and values == "seconds":
                y = np.array(found[name]["seconds_flushed"]) * 1e6
                axes.loglog(x, y, color=color, marker=marker, ls="--", mfc="white")
                slope = measure.exponent(x, y)
                ends.append((x[-1], y[-1], f"... with one gradient per block: n$^{{{slope:.1f}}}$", color))
        axes.set_title(title)
        axes.set_xlabel("hidden units n\n(RNN, 16 inputs, one lane, float32, one thread)")
        axes.set_ylabel(unit)
        ticks = sorted({n for name in found for n in found[name][sizes]})
        axes.set_xticks(ticks, [str(n) for n in ticks], rotation=45 if len(ticks) > 6 else 0)
        axes.minorticks_off()
        labels.append((axes, ends))
    figure.draw_without_rendering()
    for axes, ends in labels:
        figure_style.label_lines(axes, ends, 8.5)
    return figure


def draw_noise(found):
    """Draw the error of one gradient against time per step."""
    figure, axes = plt.subplots(figsize=(8.5, 5.5))
    for rank, color in RANKS.items():
        points = np.array([found[f"OK {rank} {K}"] for K in BLOCKS])
        axes.plot(points[:, 1] * 1e6, points[:, 0], color=color, lw=1)
        for (error, seconds), (K, marker) in zip(points, BLOCKS.items(), strict=True):
            label = f"OK, rank {rank}" if K == 16 else None
            axes.plot(seconds * 1e6, error, color=color, marker=marker, ms=8, ls="", label=label)
    for K, marker in BLOCKS.items():
        axes.plot([], [], color="#777777", marker=marker, ls="", ms=8, label=f"block {K}")
    for name in (form for form in measure.FORMS if form in found):
        (error, seconds), (label, color, marker) = found[name], style(name)
        if error > 1e-5:
            axes.plot(seconds * 1e6, error, color=color, marker=marker, ms=9, ls="", mfc="none", label=label)
        else:  # rounding, which would stretch the axis
            axes.axvline(seconds * 1e6, color=color, lw=1.2, ls="--", label=f"{label}: no error")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("microseconds per step, with a gradient at each\n(RHN that remembers about 20 steps, n = 64, one lane, float32, one thread)")
    axes.set_ylabel("error of one gradient, relative to the exact one")
    axes.set_title("Longer blocks are cheaper and less noisy")
    axes.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw(found, folder):
    """Write every figure as SVG and PNG."""
    drawings = {"scaling": draw_scaling, "noise-cost": draw_noise}
    with figure_style.styled(**SCREEN):
        for name, drawing in drawings.items():
            figure = drawing(found[name.partition("-")[0]])
            for kind in "svg", "png":
                figure_style.save(figure, folder / f"{name}.{kind}", dpi=130)
            plt.close(figure)
            print(folder / f"{name}.svg", folder / f"{name}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent.parent / "docs" / "figures"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: docs/figures)")
    parser.add_argument("--redraw", action="store_true", help="draw from measurements.json without measuring")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "measurements.json"
    if not options.redraw:
        with measure.comparison():
            kept.write_text(json.dumps(measurements(), indent=1) + "\n")
    draw(json.loads(kept.read_text()), options.out)


if __name__ == "__main__":
    main()
