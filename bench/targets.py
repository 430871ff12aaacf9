"""Measure the speed targets of all rows, or of some, as ratios: those benchmarks of the suite that have a target.

A floor is the time of the step's large matrix products alone, through SciPy's BLAS on one thread, on the same shapes, with
warm data. Leave OPENBLAS_CORETYPE unset: it would choose BLAS's kernels, and so change the floor. Rows 8 and 9 need
PyTorch, row 10 two processors. This takes several minutes; the machine should do nothing else.
"""

import argparse
import itertools

from benchmarks import ratios, scaling
from measure import comparison

TARGETS = {}  # benchmarks by row
for benchmark in (*vars(ratios).values(), *vars(scaling).values()):
    if hasattr(benchmark, "row"):
        TARGETS.setdefault(benchmark.row, []).append(benchmark)
ROWS = sorted(TARGETS, key=lambda row: (len(row), row))


def measured(benchmark):
    """Yield (what, figure, target) of a benchmark for all its arguments."""
    for arguments in itertools.product(*getattr(benchmark, "params", [])):
        try:
            getattr(benchmark, "setup", lambda *arguments: None)(*arguments)
        except NotImplementedError as error:
            print(f"        {benchmark.__doc__}: {error}")
            return
        named = zip(getattr(benchmark, "param_names", []), arguments, strict=True)
        said = [f"{name} = {value}" if isinstance(value, int) else " ".join(str(value).split()) for name, value in named]
        yield ", ".join([benchmark.__doc__, *said]), benchmark(*arguments), benchmark.words(*arguments)


def missed(figure, target):
    """Say whether a figure misses its target."""
    match target.split():
        case ["at", "most", bound, *_]:
            return figure > float(bound)
        case ["at", "least", bound, *_]:
            return figure < float(bound)
        case ["within", distance, "of", value]:
            return abs(figure - float(value)) > float(distance)


def main():
    rows = "\n".join(f"{row:>6}  {benchmark.__doc__}" for row in ROWS for benchmark in TARGETS[row])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{rows}\n    11  A step allocates nothing: tests/test_memory.py.",
    )  # fmt: skip
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help="rows to measure (default: all)")
    names = parser.parse_args().rows
    with comparison():
        for row in names or ROWS:
            for benchmark in TARGETS[row]:
                figures = []
                for what, figure, target in measured(benchmark):
                    verdict = f"{target} {'MISSED' if missed(figure, target) else ''}" if target else "no target"
                    print(f"{row:>6}  {what:<64} {figure:7.2f}  {verdict:<28}  {getattr(figure, 'text', '')}", flush=True)
                    figures.append(figure)
                if row == "blocks":
                    print(f"{row:>6}  the worst: {max(figures):.2f}")


if __name__ == "__main__":
    main()
