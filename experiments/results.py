"""Make docs/results/ from the folders of runs.

collect  docs/results/EXPERIMENT/RUN.json: options, versions and metrics of every run in the folders
time     docs/results/step-times-SET.json: milliseconds of a step of each configuration in docs/results, on the networks
         trained in the folders, on one thread and in one sitting, so that seconds can be compared whatever ran beside
         the runs. Let nothing else run meanwhile.
noise    docs/results/noise.json: error and milliseconds of each estimator's gradient, from the comparisons of noise.sh
costs    docs/results/costs-SET.json: milliseconds of a training step by algorithm, units and lanes, measured likewise
draw     the figures beside these files, and the tables as Markdown on standard output

SET is the instruction set in use. As in: python experiments/results.py collect runs/delay runs/copy runs/ptb
"""

import argparse
import datetime
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import okcore
from okcore import _config
from okcore.runs import checkpoint, figure_style, plot
from okcore.runs.load import LoadedRun
from okcore.runs.options import from_mapping, make_trainer, shadow_options
from okcore.tasks import TASKS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent.parent / "docs" / "results"
NOISE = RESULTS / "noise.json"
SECONDS = "avx512"                      # the instruction set whose step times make seconds of steps
LINES = 80                              # of a run's metrics that are kept
CURRICULA = {"copy": "length", "delay": "longest"}  # tasks that grow, and the attribute that says how far
PLACES = {"copy": (1, 5, 10, 15, 20, 30), "delay": (1, 30, 300, 3000)}  # where steps are timed
BUDGET = {32: 24, 64: 40, 128: 64}      # seconds of the delay task that are drawn, by hidden units
COPY_BUDGET = 300                       # and of the Copy task
# Words of algorithms that tables have, and figures, for the sake of others, have not
NOT_DRAWN = {"delay": ("late carry", "clip"), "copy": ("tolerance 0.1", "tolerance 0.03", "0.3, late carry"), "ptb": ()}


# ---- what a run is ---------------------------------------------------------------------------------------------------


def name_of(options):
    """Return the name of an algorithm with its sizes."""
    estimator, rank, block = options["estimator"], options["rank"], options["block"]
    name = {
        "ok": f"OK({rank})", "tbptt": f"TBPTT({block})", "rtrl": "exact RTRL", "snap1": "SnAp-1", "uoro": "UORO",
        "kf-rtrl": "KF-RTRL",
    }[estimator]  # fmt: skip
    if estimator == "ok" and options["tolerance"]:
        name = f"OK({rank}), tolerance {options['tolerance']:g}"
    if estimator == "ok" and block == 1:
        name += ", block 1"
    if options.get("late_carry"):  # older runs have no such option
        name += ", late carry"
    if options["update_every"] > 1:
        name += f", update every {options['update_every']}"
    if options["clip"] != TASKS[options["task"]].defaults["clip"]:
        name += f", clip {options['clip']:g}"
    return name


def configuration(options):
    """Return what a step time is filed under: all that it depends on but the length or delay."""
    return f"{options['task']} n={options['hidden']} {name_of(options)}"


def measure_of(run):
    """Return the name of what the task measures."""
    return TASKS[run.options["task"]].measure


# ---- collect ---------------------------------------------------------------------------------------------------------


def collect(folders):
    """Write a JSON per run, as far as it has come."""
    for folder in folders:
        for run in okcore.load_runs([path.parent for path in sorted(folder.glob("*/metrics.jsonl"))]):
            measured = np.flatnonzero(~np.isnan(run.metrics.get(measure_of(run), np.array([np.nan]))))
            if not len(measured):
                continue  # it has only begun
            kept = measured[np.unique(np.linspace(0, len(measured) - 1, LINES).astype(int))]
            metrics = {"step": run.metrics["step"][kept].tolist()}
            for name in ("loss_bits", measure_of(run), "overflows"):
                if name in run.metrics:
                    metrics[name] = [float(f"{value:.5g}") for value in run.metrics[name][kept]]
            options = {name: value for name, value in run.options.items() if name != "data_dir"}
            path = RESULTS / folder.name / f"{run.folder.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {"options": options, "parameters": run.parameters, "versions": run.versions, "metrics": metrics}
            path.write_text(json.dumps(found) + "\n")


def read(experiment):
    """Return the runs of an experiment as `okcore.load_runs` does, with ``time_s`` computed from the step times."""
    times = sittings("step-times").get(SECONDS, {})
    runs = []
    for path in sorted((RESULTS / experiment).glob("*.json")):
        found = json.loads(path.read_text())
        found["metrics"] = {name: np.array(values) for name, values in found["metrics"].items()}
        run = LoadedRun(path, **found)
        name = configuration(run.options)
        if name in times:
            run.metrics["time_s"] = seconds(run, times[name])
        runs.append(run)
    return runs


def seconds(run, times):
    """Return the seconds of training at each line: between two lines, the steps times the milliseconds of one there."""
    reached = run.metrics[measure_of(run)]
    before = np.concatenate([reached[:1], reached[:-1]])
    ms = np.interp(np.log((before + reached) / 2), np.log([float(at) for at in times]), list(times.values()))
    return np.cumsum(np.diff(run.metrics["step"], prepend=0) * ms) / 1000


# ---- time ------------------------------------------------------------------------------------------------------------


def time_steps(folders):
    """Write the milliseconds of a step of each configuration that has results, by length or delay.

    All of one task and size are timed on the same trained network: the one in the folders that came furthest.
    """
    networks = {}
    for run in okcore.load_runs([path.parent for folder in folders for path in sorted(folder.glob("*/metrics.jsonl"))]):
        known = networks.get(size_of(run.options))
        if known is None or reached_by(run) > reached_by(known):
            networks[size_of(run.options)] = run
    longest = {}
    for run in itertools.chain.from_iterable(read(experiment) for experiment in CURRICULA):
        known = longest.get(configuration(run.options))
        if size_of(run.options) in networks and (known is None or reached_by(run) > reached_by(known)):
            longest[configuration(run.options)] = run
    found = {}
    with threadpool_limits(1):
        for name, run in tqdm(sorted(longest.items()), "step times"):
            found[name] = milliseconds(run, networks[size_of(run.options)])
            keep("step-times", found)


def size_of(options):
    """Return what the shapes of a network depend on."""
    return options["task"], options["hidden"]


def reached_by(run):
    """Return the length or delay that a run came to."""
    return int(run.metrics[measure_of(run)].max())


def sittings(what):
    """Return {instruction set: milliseconds} of what was kept."""
    files = {path.stem.removeprefix(what + "-"): path for path in sorted(RESULTS.glob(f"{what}-*.json"))}
    return {name: json.loads(path.read_text())["milliseconds"] for name, path in files.items()}


def keep(what, milliseconds):
    """Write what was measured, with date and machine."""
    config = _config.config()
    machine = {name: config[name] for name in ("okcore", "instructions", "thread_pools")}
    found = {"date": datetime.date.today().isoformat(), "machine": machine, "milliseconds": milliseconds}
    path = RESULTS / f"{what}-{config['instructions']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


def milliseconds(run, network):
    """Return {length or delay: milliseconds of a step} on a trained network, up to where the run came."""
    found = {}
    trained = checkpoint.read(network.folder / "checkpoint.npz")["trainer"]
    for place in [place for place in PLACES[run.options["task"]] if place < reached_by(run)] + [reached_by(run)]:
        trainer, task = make_trainer({"late_carry": False} | run.options | {"threads": 1})  # older runs have none
        trainer.cell.theta = trained["theta"]
        trainer.readout.weights[...] = trained["weights"]
        task.THRESHOLD = 0  # it grows no more
        setattr(task, CURRICULA[run.options["task"]], place)
        found[str(place)] = round(1000 * seconds_of_a_step(trainer, task, place), 4)
    return found


def seconds_of_a_step(trainer, task, place):
    """Return the least mean over whole sequences of several, or over as many steps of longer ones."""
    steps = min(max(100, 2 * place + 10), 700)
    trainer.fit(task, steps, progress=False)
    best, start = np.inf, time.perf_counter()
    while time.perf_counter() - start < 0.5:
        before = time.perf_counter()
        trainer.fit(task, steps, progress=False)
        best = min(best, (time.perf_counter() - before) / steps)
    return best


def noise(folders):
    """Write the error of a gradient, relative to the exact one, and the milliseconds of a step, by estimator.

    Means over the last fifth of each comparison, when the network has learned most, and the delay or length by then.
    What is there of other comparisons stays.
    """
    found = json.loads(NOISE.read_text()) if NOISE.exists() else {}
    for run in okcore.load_runs([path.parent for folder in folders for path in sorted(folder.glob("*/metrics.jsonl"))]):
        last = run.metrics["step"] > 0.8 * run.metrics["step"][-1]
        names = [name.partition("/")[2] for name in run.metrics if name.startswith("step_ms/")]

        def mean(what, name, run=run, last=last):
            values = run.metrics.get(f"{what}/{name}", np.zeros(len(last)))  # the exact one has no error
            return float(f"{np.nanmean(values[last]):.4g}")

        reached = [int(value) for value in run.metrics[measure_of(run)][[np.argmax(last), -1]]]
        points = {name: [mean("relative_error", name), mean("step_ms", name)] for name in names}
        steps = int(run.metrics["step"][-1])
        found[run.folder.name] = {
            "options": run.options, "versions": run.versions, "steps": steps, "reached": reached, "points": points,
        }  # fmt: skip
    NOISE.write_text(json.dumps(found, indent=1) + "\n")


HORIZONS = 6, 12, 25, 50, 100, 200, 400
ALGORITHMS = {f"TBPTT({h})": {"estimator": "tbptt", "block": h} for h in HORIZONS}
ALGORITHMS |= {f"OK({r})": {"estimator": "ok", "rank": r, "tolerance": 0} for r in (2, 4, 16)}
ALGORITHMS |= {
    "exact RTRL": {"estimator": "rtrl", "block": "auto"}, "KF-RTRL": {"estimator": "kf-rtrl", "rank": 1, "block": 1},
    "UORO": {"estimator": "uoro"}, "SnAp-1": {"estimator": "snap1"},
}  # fmt: skip
SIZE = "n={} lanes={}"  # a size's name in costs.json
SIZES = [(n, lanes) for n in (32, 64, 128, 256) for lanes in (1, 16)]


def time_costs(folders):
    """Write the milliseconds of a training step, over delays of 500 steps."""
    found = {}
    with threadpool_limits(1):
        for (n, lanes), (name, options) in tqdm(list(itertools.product(SIZES, ALGORITHMS.items())), "costs"):
            if name == "exact RTRL" and n * n * n * lanes > 128**3 * 16:
                continue  # more than a gigabyte of influence
            mapping = {"task": "delay", "delay": 500, "hidden": n, "batch": lanes, "threads": 1} | options
            trainer, task = make_trainer(from_mapping(mapping))
            ms = 1000 * seconds_of_a_step(trainer, task, 245)
            found.setdefault(SIZE.format(n, lanes), {})[name] = round(ms, 4)
            keep("costs", found)


def break_even(costs, name):
    """Return the horizon at which truncation costs as much as an algorithm, within the horizons that were measured."""
    times = np.maximum.accumulate([costs[f"TBPTT({h})"] for h in HORIZONS])
    return float(np.exp(np.interp(np.log(costs[name]), np.log(times), np.log(HORIZONS))))


# ---- draw ------------------------------------------------------------------------------------------------------------


def lines(runs, panel, x):
    """Return a line per algorithm for `okcore.runs.plot`: the mean over its seeds, at the best of its learning rates.

    Parameters
    ----------
    runs : list of LoadedRun
        Of one task and size.
    panel : str
        What stands above the lines.
    x : "steps" or "seconds"
    """
    task = TASKS[runs[0].options["task"]]
    groups = {}
    for run in (run for run in runs if plot.X[x][0] in run.metrics):  # whose step has been timed, for seconds
        groups.setdefault(name_of(run.options), {}).setdefault(run.options["lr"], []).append(run)
    for by_rate in groups.values():
        for rate, same in by_rate.items():  # a mean ends where the shortest run does
            planned = min(run.options["steps"] for run in same)
            by_rate[rate] = [run for run in same if run.metrics["step"][-1] >= planned] or same
    found = []
    for name, by_rate in groups.items():
        candidates = [
            plot.Line(panel, plot.words_of(task), name, len(same), *plot.mean_and_deviation(curves))
            for same in by_rate.values()
            if (curves := [curve(run, x) for run in same])
        ]
        found.append(max(candidates, key=lambda line: line.mean[-1] * (1 if task.larger_is_better else -1)))
    return found


def curve(run, x):
    """Return (x, y) of a run."""
    return run.metrics[plot.X[x][0]].astype(float), run.metrics[measure_of(run)]


def drawn(lines, experiment):
    """Return the lines that a figure has."""
    return [line for line in lines if not any(word in line.label for word in NOT_DRAWN[experiment])]


def until(x, line):
    """Return a line up to x."""
    there = line.x <= x
    return replace(line, x=line.x[there], mean=line.mean[there], deviation=line.deviation[there])


def save(figure, name):
    """Write a figure as SVG and PNG."""
    for kind in "svg", "png":
        figure_style.save(figure, RESULTS / f"{name}.{kind}", dpi=160)


def write(figure_lines, name, x, width=7.0):
    """Draw learning curves and write the figure."""
    with figure_style.styled():
        save(plot.figure_of(figure_lines, x, width), name)


def draw(folders):
    """Draw all figures and print the tables."""
    delay = read("delay")
    for n in BUDGET:
        runs = [run for run in delay if run.options["hidden"] == n]
        if found := runs and lines(runs, f"n = {n}", "seconds"):
            table(found, BUDGET[n])
            write([until(BUDGET[n], line) for line in drawn(found, "delay")], f"delay-{n}", "seconds")
    draw_costs(sittings("costs"))
    if NOISE.exists():
        draw_noise(json.loads(NOISE.read_text()))
    for experiment in "copy", "ptb":
        if runs := read(experiment):
            for x in "steps", "seconds":
                if found := drawn(lines(runs, experiment, x), experiment):  # seconds only where steps have been timed
                    found = [until(COPY_BUDGET, line) for line in found] if x == "seconds" else found
                    write(found, f"{experiment}-{x}", x)
    copy_table(read("copy"))


def copy_table(runs):
    """Print, for each algorithm, after how many steps and seconds it first copied strings of some lengths, by seed."""
    lengths = 10, 15, 20
    print(f"| Copy | {' | '.join(f'length {length}' for length in lengths)} | at the end |\n|---|{'---|' * 4}")
    for name in sorted({name_of(run.options) for run in runs}):
        same = [run for run in runs if name_of(run.options) == name]
        cells = {length: [] for length in (*lengths, "end")}
        for run in same:
            reached, steps = run.metrics["copy_length"], run.metrics["step"]
            clock = run.metrics.get("time_s")
            for length in lengths:
                at = np.flatnonzero(reached >= length)
                if len(at):
                    seconds = f" ({clock[at[0]]:.0f} s)" if clock is not None else ""
                    cells[length].append(f"{steps[at[0]] / 1000:.0f}k{seconds}")
                else:
                    cells[length].append("–")
            cells["end"].append(f"{reached.max():.0f} after {steps[-1] / 1000:.0f}k")
        print(f"| {name} | {' | '.join(', '.join(said) for said in cells.values())} |")


def draw_costs(costs):
    """Draw and print the horizon at which truncation costs as much as each algorithm: a row per instruction set."""
    names = [name for name in ALGORITHMS if not name.startswith("TBPTT")]
    with figure_style.styled():
        size = {"figsize": (7.0, 2.5 * len(costs)), "sharex": True, "sharey": True, "squeeze": False}
        figure, rows = plt.subplots(len(costs), 2, **size)
        lines = []
        for (instructions, times), panels in zip(costs.items(), rows, strict=True):
            found = {size: horizons(times[SIZE.format(*size)], names) for size in SIZES}
            print(f"| {instructions}: n | lanes | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
            for (n, lanes), at in found.items():
                print(f"| {n} | {lanes} | {' | '.join(bounded(at[name]) if name in at else '' for name in names)} |")
            for lanes, axes in zip((1, 16), panels, strict=True):
                ends = []
                for number, name in enumerate(names):
                    points = [(n, found[n, of][name]) for n, of in SIZES if of == lanes and name in found[n, of]]
                    style = figure_style.line_style(number)
                    axes.loglog(*zip(*points, strict=True), **style)
                    ends.append((*points[-1], name, style["color"]))
                axes.set_title(f"{instructions}, {lanes} lane{'s' if lanes > 1 else ''}")
            panels[0].set_ylabel("window of TBPTT\nthat costs as much")
            lines.append((axes, ends))
        ticks = sorted({n for n, _ in SIZES})
        for axes in rows.flat:
            axes.set_xticks(ticks, [str(n) for n in ticks])
            axes.set_yticks(HORIZONS, [bounded(h) for h in HORIZONS])
            axes.minorticks_off()
        for axes in rows[-1]:
            axes.set_xlabel("hidden units n")
        figure.draw_without_rendering()
        for axes, ends in lines:
            figure_style.label_lines(axes, ends)
        save(figure, "break-even")


def horizons(times, names):
    """Return {name: horizon at which truncation costs as much} of those that were timed."""
    return {name: break_even(times, name) for name in names if name in times}


def draw_noise(found):
    """Draw and print the error of a gradient against the time of a step: OK by rank and block, and the others."""
    ranks, blocks = (2, 4, 8, 16), {1: "s", 4: "^", 16: "o"}
    colors = dict(zip(ranks, figure_style.COLORS.values(), strict=False))
    with figure_style.styled():
        figure, panels = plt.subplots(1, len(found), figsize=(2 + 3.6 * len(found), 3.4), squeeze=False)
        for axes, (name, comparison) in zip(panels[0], found.items(), strict=True):
            points, options = dict(comparison["points"]), comparison["options"]
            first, last = comparison["reached"]
            axes.set_title(f"{options['task']}, n = {options['hidden']}, at {first} to {last}")
            print(f"| {name} | error | ms |\n|---|---|---|")
            for what, (error, ms) in sorted(points.items(), key=lambda item: item[1]):
                print(f"| {what} | {error:.3f} | {ms:.2f} |")
            for rank in ranks:
                line = [points.pop(f"ok rank={rank} block={block} tolerance=0") for block in blocks]
                axes.loglog([ms for _, ms in line], [error for error, _ in line], color=colors[rank])
                for (error, ms), marker in zip(line, blocks.values(), strict=True):
                    axes.loglog(ms, error, marker, color=colors[rank])
            for what, (error, ms) in points.items():
                if error:
                    side = {"textcoords": "offset points", "ha": "right" if what.startswith("ok ") else "left"}
                    place = (3, 2) if side["ha"] == "left" else (-3, -7)
                    axes.loglog(ms, error, "x", color="black")
                    axes.annotate(name_of(shadow_options(what, options)), (ms, error), place, fontsize=6, **side)
                else:
                    axes.axvline(ms, color="black", linestyle="--", label="exact RTRL: no error")
            axes.set_xlabel("ms per step with its gradient (one thread)")
        panels[0][0].set_ylabel("error of a gradient, relative to the exact one")
        for rank in ranks:
            axes.plot([], [], color=colors[rank], label=f"OK({rank})")
        for block, marker in blocks.items():
            axes.plot([], [], marker, color="gray", label=f"blocks of {block}")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        save(figure, "noise")


def bounded(horizon):
    """Return a horizon in words, within those that were measured."""
    return {HORIZONS[0]: f"≤ {HORIZONS[0]}", HORIZONS[-1]: f"≥ {HORIZONS[-1]}"}.get(round(horizon), f"{horizon:.0f}")


def table(found, budget):
    """Print, for each line, what was reached after a quarter of the budget, after all of it, and at the end."""
    print(f"| {found[0].task} | seeds | {budget // 4} s | {budget} s | at the end |\n|---|---|---|---|---|")
    for line in sorted(found, key=lambda line: -line.mean[-1]):
        after = [f"{np.interp(at, line.x, line.mean):,.0f}" if line.x[-1] > at else "" for at in (budget / 4, budget)]
        print(f"| {line.label} | {line.count} | {' | '.join(after)} | {line.mean[-1]:,.0f} ({line.x[-1]:.0f} s) |")


def main():
    """Do what the command line says."""
    jobs = {"collect": collect, "time": time_steps, "noise": noise, "costs": time_costs, "draw": draw}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(jobs))
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="folders of sweeps")
    arguments = parser.parse_args()
    jobs[arguments.what](arguments.folders)


if __name__ == "__main__":
    main()
