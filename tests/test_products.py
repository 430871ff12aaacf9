"""The hand-written products against NumPy in float64: all remainders of rows, columns, depth; all instruction sets."""

import numpy as np
import pytest

import okcore
from okcore import kron
from tests.conftest import DTYPES
from tests.helpers import INSTRUCTION_SETS, run_again_with


def close(found, expected, terms):
    """Rounding of `terms` products of numbers about 1, whose sum is about sqrt(terms), as each addition's."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * np.finfo(found.dtype).eps * (terms + 8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 11, 12, 16, 17, 64, 67, 133])
@pytest.mark.parametrize("inner", [1, 2, 7, 8, 9, 128, 129, 300])
def test_left_multiply(rows, inner, dtype):
    rng = np.random.default_rng(rows + 1000 * inner)
    for columns in (1, 15, 16, 31, 32, 33, 64, 100, 257, 2049):
        H, A = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(2, inner, columns)).astype(dtype)
        close(kron.left_multiply(H, A), H.astype(float) @ A.astype(float), inner)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 5, 16, 33, 145, 273])
def test_contract(m, dtype):
    rng = np.random.default_rng(m)
    for N, S, P in ((1, 1, 1), (3, 9, 5), (4, 8, 8), (17, 20, 66), (130, 3, 70)):
        v, u, A = (rng.normal(size=shape).astype(dtype) for shape in ((S,), (N, m), (N, S, P)))
        expected = np.einsum("s,isp,im->pm", *(x.astype(float) for x in (v, A, u)))
        close(kron.contract(v, u, A), expected, 4 * N * S)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 6, 16, 19])
@pytest.mark.parametrize("n_in", [1, 3, 8, 20])
def test_preactivations_by_step_and_by_run(n_in, lanes, dtype):
    rng = np.random.default_rng(0)
    for n in (1, 4, 13, 16, 40):
        cell = okcore.RNN(n_in, n, dtype=dtype, rng=0)
        xs = rng.normal(size=(3, lanes, n_in)).astype(dtype)
        stepped, ran = (okcore.TBPTT(cell, 4, batch_size=lanes) for _ in range(2))
        h = np.zeros((lanes, n))
        hs, _ = ran.run(xs)
        for t, x in enumerate(xs):
            h = np.tanh(np.hstack([x, h, np.ones((lanes, 1))]) @ cell.theta.T.astype(float))
            close(stepped.step(x), h, n_in + n)
            close(hs[t], h, 3 * (n_in + n))


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS[:-1])
def test_on_narrower_instructions(instructions):
    run_again_with(instructions, __file__)
