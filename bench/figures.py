"""Measure and draw the figures of docs/performance.md: python bench/figures.py [--out DIR] [--redraw]

    scaling       time per step and memory against n for all algorithms, with fitted slopes
    floor         time / floor, where the floor is the step's large products alone, by BLAS
    noise-cost    error of one gradient against time per step, for OK by rank and block and for the others

Each figure is written as SVG and PNG.  The measurements go to measurements.json, from which --redraw draws again.
Leave OPENBLAS_CORETYPE unset: it would choose BLAS's kernels, and so change the floor.
"""

import argparse
import json
import platform
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from benchmarks import scaling
from benchmarks.common import ESTIMATORS, TOY, Stream
from measure import paired
from targets import Stepper, products, warm
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import okcore

NAMES = {  # label, colour and marker; the colours (Okabe and Ito) suit colour-blind readers
    "rtrl-block1": ("exact RTRL, textbook", "#D55E00", "s"),
    "rtrl": ("exact RTRL, blocked", "#E69F00", "D"),
    "ok-block1": ("OK, rank 8, block 1", "#56B4E9", "^"),
    "ok": ("OK, rank 8, blocked", "#0072B2", "o"),
    "kf-rtrl": ("KF-RTRL", "#009E73", "v"),
    "uoro": ("UORO", "#CC79A7", "P"),
    "snap1": ("SnAp-1", "#8C510A", "h"),
    "tbptt": ("TBPTT, window 25", "#000000", "X"),
}


def style(name):
    """Return an estimator's label, colour and marker."""
    return NAMES.get(name, (name, "#777777", "*"))


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure_scaling(bar):
    """Return sizes, seconds per step and bytes for every algorithm."""
    found = {}
    for name in ESTIMATORS:
        bar.set_postfix_str(name)
        time_sizes, memory_sizes = scaling.sizes_for_time(name), scaling.sizes_for_memory(name)
        found[name] = {
            "time_sizes": time_sizes,
            "seconds": [scaling.seconds_a_step(name, n) for n in time_sizes],
            "seconds_flushed": [scaling.seconds_a_step(name, n, flushed=True) for n in time_sizes],
            "memory_sizes": memory_sizes,
            "bytes": [scaling.memory_bytes(name, n) for n in memory_sizes],
        }
        bar.update()
    return found


def measure_floor(bar):
    """Return [label, time / floor, target] for each target whose floor is matrix products."""
    found = []
    for n, target in ((128, 1.4), (256, 1.25), (512, 1.15)):
        for rank in (8, 16):
            n_now = 4 if TOY else n
            cell = okcore.RNN(16, n_now, rng=0)
            job = warm(Stepper(cell, okcore.OK(cell, rank, 1, rng=0)), 2 * rank + 2)
            ratio, *_ = paired(job, products([(n_now, n_now, n_now, rank)]), 7)
            found.append([f"OK, rank {rank}, n = {n}", ratio, target])
            bar.update()
    n = 4 if TOY else 128
    cell = okcore.RNN(16, n, rng=0)
    ratio, *_ = paired(warm(Stepper(cell, okcore.RTRL(cell, 1))), products([(n, n, n * (n + 17), 1)]), 7)
    found.append(["exact RTRL, textbook, n = 128", ratio, 1.2])
    bar.update()
    return found


def measure_noise(bar):
    """Return the relative error of one gradient after 200 steps (RMS over seeds) and the seconds per step: RHN, n = 64."""
    n, T, seeds = (4, 20, 2) if TOY else (64, 200, 12)
    cell = okcore.RHN(16, n, rng=0)
    cell.theta[n:, -1] += 3  # f is about 0.95: a state lasts about twenty steps
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(T, 1, 16)).astype(cell.dtype)
    dh = rng.normal(size=(1, n)).astype(cell.dtype)
    exact = okcore.RTRL(cell)
    exact.run(xs)
    truth = exact.gradient(dh)
    makers = {f"OK {r} {K}": lambda seed, r=r, K=K: okcore.OK(cell, r, K, rng=seed) for r in (2, 4, 8, 16) for K in (1, 4, 16)}
    makers |= {
        "kf-rtrl": lambda seed: okcore.KFRTRL(cell, rng=seed),
        "uoro": lambda seed: okcore.UORO(cell, rng=seed),
        "tbptt": lambda seed: okcore.TBPTT(cell, 25),
        "rtrl-block1": lambda seed: okcore.RTRL(cell, 1),
        "rtrl": lambda seed: okcore.RTRL(cell),
    }
    found = {}
    for name, make in makers.items():
        bar.set_postfix_str(name)
        squares = []
        for seed in range(1 if name in ("tbptt", "rtrl", "rtrl-block1") else seeds):
            estimator = make(seed)
            estimator.run(xs[:-1])
            estimator.step(xs[-1])  # leaves the last block open, as after most steps
            squares.append(np.sum((estimator.gradient(dh) - truth).astype(float) ** 2))
        job = Stream(make(0))
        job.block()
        seconds = np.median([scaling.seconds_of(job, job.block, 0.02) for _ in range(5)])
        found[name] = [float(np.sqrt(np.mean(squares) / np.sum(truth.astype(float) ** 2))), float(seconds)]
        bar.update()
    return found


def measure():
    """Measure everything, with BLAS on one thread."""
    with threadpool_limits(1, user_api="blas"), tqdm(total=len(ESTIMATORS) + 7 + 17, unit="measurement") as bar:
        return {
            "machine": f"{platform.machine()}, {okcore._kernels.instructions()} kernels",
            "scaling": measure_scaling(bar),
            "floor": measure_floor(bar),
            "noise": measure_noise(bar),
        }


# ---- drawing ---------------------------------------------------------------------------------------------------------


def label_lines(axes, ends):
    """Write each line's label at its right end, and move labels apart where they would touch."""
    bottom, top = np.log10(axes.get_ylim())
    gap = 0.045 * (top - bottom)
    at = -np.inf
    for y, x, text, color in sorted(ends):
        at = max(np.log10(y), at + gap)
        axes.annotate(text, (x, y), xytext=(axes.get_xlim()[1] * 1.04, 10**at), color=color, va="center", fontsize=8.5,
                      annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 0, "shrinkB": 3})


def draw_scaling(found):
    """Draw time and memory against n with fitted slopes."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 5))
    for axes, sizes, values, title, unit in (
        (panels[0], "time_sizes", "seconds", "Time per step with its gradient", "microseconds"),
        (panels[1], "memory_sizes", "bytes", "Memory of one lane", "megabytes"),
    ):
        ends = []
        for name in found:
            label, color, marker = style(name)
            x, y = np.array(found[name][sizes]), np.array(found[name][values]) * 1e6 ** (1 if values == "seconds" else -1)
            slope = scaling.exponent(x, y)
            axes.loglog(x, y, color=color, marker=marker, ms=5, lw=1.5)
            ends.append((y[-1], x[-1], f"{label}: n$^{{{slope:.1f}}}$", color))
            if name == "rtrl" and values == "seconds":
                y = np.array(found[name]["seconds_flushed"]) * 1e6
                axes.loglog(x, y, color=color, marker=marker, ms=5, lw=1.5, ls="--", mfc="white")
                slope = scaling.exponent(x, y)
                ends.append((y[-1], x[-1], f"... with one gradient per block: n$^{{{slope:.1f}}}$", color))
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("hidden units n\n(RNN, 16 inputs, one lane, float32, one thread)")
        axes.set_ylabel(unit)
        ticks = sorted({n for name in found for n in found[name][sizes]})
        axes.set_xticks(ticks, [str(n) for n in ticks], rotation=45 if len(ticks) > 6 else 0)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        label_lines(axes, ends)
    figure.tight_layout(w_pad=3)
    return figure


def draw_floor(found):
    """Draw time / floor beside the targets."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for row, (_, ratio, target) in enumerate(found):
        axes.barh(row, ratio, color="#0072B2" if ratio <= target else "#D55E00", height=0.6)
        axes.plot([target, target], [row - 0.4, row + 0.4], color="#000000", lw=2)
        axes.text(ratio + 0.02, row, f"{ratio:.2f}", va="center", fontsize=9)
    axes.axvline(1, color="#000000", lw=0.8, ls=":")
    axes.set_yticks(range(len(found)), [label for label, *_ in found])
    axes.invert_yaxis()
    axes.set_xlabel("time of a step and its gradient / time of its large products by BLAS (bar: target)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def draw_noise(found):
    """Draw the error of one gradient against time per step."""
    figure, axes = plt.subplots(figsize=(8.5, 5.5))
    ranks = {2: "#56B4E9", 4: "#009E73", 8: "#0072B2", 16: "#CC79A7"}
    markers = {1: "s", 4: "^", 16: "o"}
    for rank, color in ranks.items():
        points = np.array([found[f"OK {rank} {K}"] for K in markers])
        axes.plot(points[:, 1] * 1e6, points[:, 0], color=color, lw=1)
        for (error, seconds), (K, marker) in zip(points, markers.items(), strict=True):
            label = f"OK, rank {rank}" if K == 16 else None
            axes.plot(seconds * 1e6, error, color=color, marker=marker, ms=8, ls="", label=label)
    for K, marker in markers.items():
        axes.plot([], [], color="#777777", marker=marker, ls="", ms=8, label=f"block {K}")
    for name in ("kf-rtrl", "uoro", "tbptt"):
        label, color, marker = style(name)
        axes.plot(found[name][1] * 1e6, found[name][0], color=color, marker=marker, ms=9, ls="", mfc="none", label=label)
    for name in ("rtrl", "rtrl-block1"):
        label, color, _ = style(name)
        axes.axvline(found[name][1] * 1e6, color=color, lw=1.2, ls="--", label=f"{label}: no error")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("microseconds per step, with a gradient at each\n(RHN that remembers about 20 steps, n = 64, one lane, float32, one thread)")
    axes.set_ylabel("error of one gradient, relative to the exact one")
    axes.set_title("Longer blocks are cheaper and less noisy", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def draw(found, folder):
    """Write every figure as SVG and PNG."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "okcore", "font.family": "sans-serif"}
    for name, figure in {
        "scaling": draw_scaling(found["scaling"]),
        "floor": draw_floor(found["floor"]),
        "noise-cost": draw_noise(found["noise"]),
    }.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        figure.savefig(folder / f"{name}.png", dpi=130, bbox_inches="tight")
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
        kept.write_text(json.dumps(measure(), indent=1) + "\n")
    draw(json.loads(kept.read_text()), options.out)


if __name__ == "__main__":
    main()
