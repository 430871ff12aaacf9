"""Measure and draw time and memory against n, with fitted slopes: python bench/figures.py [--out DIR] [--redraw]

What is measured goes to measurements-SET.json, where SET is the instruction set in use. scaling.svg and .png have a panel
of times for each such file. For AVX2's on a wider processor: OKCORE_INSTRUCTIONS=avx2 OPENBLAS_CORETYPE=Haswell
"""

import argparse
import json
from datetime import date
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import measure
import numpy as np
from tqdm import tqdm

from okcore import _config, _kernels
from okcore.runs import figure_style

NAMES = {
    "rtrl-block1": "exact RTRL, textbook", "rtrl": "exact RTRL, blocked", "ok-block1": "OK, rank 8, block 1",
    "ok": "OK, rank 8, blocked", "kf-rtrl": "KF-RTRL", "uoro": "UORO", "snap1": "SnAp-1", "tbptt": "TBPTT, window 25",
}  # fmt: skip
GRADIENTS = dict(zip(measure.GRADIENTS, ("", ", late carry", ", a gradient per block"), strict=True))
STYLE = {"font.size": 10, "axes.titlesize": 11, "lines.linewidth": 1.5, "lines.markersize": 5}  # wider than a column


def measurements():
    """Return everything that is drawn: sizes, seconds and bytes by algorithm, and where and when they were measured."""
    machine = f"{_config.config()['machine']}; {measure.kernels()}"
    found = {"date": date.today().isoformat(), "machine": machine, "seconds": {}, "bytes": {}}
    for form in tqdm(measure.FORMS, "scaling"):
        for gradient in GRADIENTS if form == "rtrl" else ["at every step"]:
            times = {n: measure.seconds_per_step(form, n, gradient) for n in measure.TIME_SIZES[form]}
            found["seconds"][NAMES.get(form, form) + GRADIENTS[gradient]] = times
        found["bytes"][NAMES.get(form, form)] = {n: measure.memory_bytes(form, n) for n in measure.MEMORY_SIZES[form]}
    return found


def draw(found):
    """Draw time by instruction set, and memory, against n."""
    panels = [(f"Time per step, {name}, microseconds", one["seconds"], 1e6) for name, one in found.items()]
    panels += [("Memory of one lane, megabytes", list(found.values())[-1]["bytes"], 1e-6)]
    colors = [name for one in found.values() for name in one["bytes"]]
    figure, places = plt.subplots(1, len(panels), figsize=(6 * len(panels), 5))
    ends = []
    for axes, (title, lines, scale) in zip(places, panels, strict=True):
        here = []
        for name, points in lines.items():
            x, y = np.array(list(points), float), scale * np.array(list(points.values()))
            plain = name.removesuffix(GRADIENTS["late"]).removesuffix(GRADIENTS["once per block"])
            style = figure_style.line_style(colors.index(plain))
            axes.loglog(x, y, **style | {"mfc": None if name == plain else "white", "linestyle": "-" if name == plain else "--"})
            here.append((x[-1], y[-1], f"{name}: n$^{{{measure.exponent(x, y):.1f}}}$", style["color"]))
        axes.set_title(title)
        axes.set_xlabel("hidden units n\n(RNN, 16 inputs, one lane, float32, one thread)")
        ticks = sorted({int(n) for points in lines.values() for n in points})
        axes.set_xticks(ticks, [str(n) for n in ticks], rotation=45)
        axes.minorticks_off()
        ends.append((axes, here))
    figure.draw_without_rendering()
    for axes, here in ends:
        figure_style.label_lines(axes, here, 8.5)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent.parent / "docs" / "figures"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: docs/figures)")
    parser.add_argument("--redraw", action="store_true", help="draw what was measured before")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        with measure.comparison():
            kept = options.out / f"measurements-{_kernels.instructions()}.json"
            kept.write_text(json.dumps(measurements(), indent=1) + "\n")
    found = {path.stem.partition("-")[2]: json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))}
    with figure_style.styled(**STYLE):
        figure = draw(found)
        for kind in "svg", "png":
            figure_style.save(figure, options.out / f"scaling.{kind}", dpi=130)
            print(options.out / f"scaling.{kind}")


if __name__ == "__main__":
    main()
