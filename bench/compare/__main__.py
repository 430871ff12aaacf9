"""Print how many times longer others take for the same job (rows 8 and 9 of the targets): medians of paired runs.

Horizon 25: one update per 25 steps of TBPTT; PyTorch must never be faster. Horizon 1: an update at every step; PyTorch must
take at least 10 times as long with one lane, 3 times with 16. Everything runs on one thread. Leave OPENBLAS_CORETYPE unset.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure

import compare


def main():
    parser = argparse.ArgumentParser(prog="python bench/compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="tiny sizes and one round, to check that it runs")
    measure.TOY |= parser.parse_args().toy
    adapters = compare.rivals()
    with measure.comparison():
        if compare.PyTorch not in adapters:
            print("PyTorch is not installed (pip install torch --index-url https://download.pytorch.org/whl/cpu): skipped")
        print("time over okcore's:          " + "".join(f"{a.name:>10}" for a in adapters) + "    target   okcore us/step")
        for job in (*compare.jobs(25), *compare.jobs(1)):
            ratios = [compare.ratio_to_ours(adapter, job) for adapter in adapters]
            missed = "MISSED" if adapters[0] is compare.PyTorch and ratios[0] < job.target else ""
            _, ours = ratios[-1].parts
            print(str(job) + "".join(f"{r:>10.2f}" for r in ratios) + f"{job.target:>10}   {ours:.1f} {missed}", flush=True)


if __name__ == "__main__":
    main()
