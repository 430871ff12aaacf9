"""The hand-written kernels give the same numbers, to rounding, on every instruction set that this processor has."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from okcore import _kernels, kron
from tests.helpers import INSTRUCTION_SETS, assert_close

PROGRAM = """
import sys
import numpy as np
import okcore
from okcore import _kernels, cells, kron
results = {"instructions": np.array(_kernels.instructions())}
for dtype in ("float32", "float64"):
    rng = np.random.default_rng(0)
    for N, rank, S, P, m in ((2, 1, 1, 1, 1), (5, 4, 3, 7, 5), (9, 8, 16, 33, 40), (23, 13, 20, 31, 37)):
        u, A = rng.normal(size=(N, m)).astype(dtype), rng.normal(size=(N, S, P)).astype(dtype)
        results[f"reduce {N} {dtype}"] = kron.to_dense(*kron.reduce(u, A, rank, signs=np.ones(N)))
    for name, make in cells.CELLS.items():
        cell = make(3, 19, dtype=dtype, rng=1)
        cell.theta *= 3
        xs, dhs = rng.normal(size=(9, 2, 3)).astype(dtype), rng.normal(size=(9, 2, 19)).astype(dtype)
        hs, gradient = okcore.OK(cell, 5, 2, batch_size=2, rng=0).run(xs, dhs)
        results[f"hs {name} {dtype}"], results[f"gradient {name} {dtype}"] = hs, gradient
np.savez(sys.argv[1], **results)
"""


def results_with(instructions, folder):
    environment = os.environ | {"OKCORE_INSTRUCTIONS": instructions}
    path = folder / f"{instructions}.npz"
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, env=environment)
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS[:-1])
def test_every_instruction_set_gives_the_same_numbers(instructions, tmp_path):
    here, other = results_with("", tmp_path), results_with(instructions, tmp_path)
    assert str(other.pop("instructions")) == instructions and str(here.pop("instructions")) == _kernels.instructions()
    for name, expected in here.items():
        assert_close(other[name], expected, name.split()[-1], factor=1e3 if "gradient" in name else 10)


def test_an_unknown_instruction_set_is_refused():
    environment = os.environ | {"OKCORE_INSTRUCTIONS": "sse"}
    done = subprocess.run([sys.executable, "-c", "import okcore"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "OKCORE_INSTRUCTIONS must be one of baseline, " in done.stderr
    assert "got 'sse'" in done.stderr


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or _kernels.instructions() == "baseline",
    reason="denormal numbers are slow on x86 only, and BLAS multiplies in the baseline",
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_take_denormal_numbers_for_zero_and_leave_the_callers_alone(dtype):
    H, A = np.eye(40, dtype=dtype), np.ones((3, 40, 50), dtype)
    tiny = np.finfo(dtype).tiny
    A[1] = tiny
    A[2] = tiny / 2**10
    small = kron.left_multiply(H / 2**5, A)
    assert (small[0] == A.dtype.type(2**-5)).all() and not small[1:].any()
    assert (A[1] / A.dtype.type(2**5) > 0).all() and (A[2] * A.dtype.type(2**20) > tiny).all()
