"""The block length behind `block="auto"`: a pure function of sizes, the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from okcore.cells import Cell

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def step_cost(algorithm: str, K: int, cell: Cell, rank: int, update_every: int) -> float:
    """Return the flops of a step and its share of gradients, one lane, averaged over a block of K."""
    S, (P, m) = cell.state_size, cell.theta.shape
    n, q = cell.n_hidden, cell.n_terms
    transition = 2 * S * S * n * (K - 1) / K + 2 * S * P * (1 + q)
    sweep = (2 * P * n + 2 * q * P * m) * (K + 1) / 2 / update_every
    if algorithm == "rtrl":
        absorb = (2 * S * S * P * m + 2 * K * q * S * P * m + 4 * S * P * m) / K
        contract = 2 * S * P * m / min(update_every, K)
    else:
        N = rank + K * q
        # products, Gram matrix (float64: half the rate), mixing, and the core (LAPACK on small matrices is slow)
        absorb = (2 * rank * S * S * P + 2 * N * N * S * P + 2 * rank * N * S * P + 250 * N**3 + 3e5) / K
        contract = 2 * rank * S * P / min(update_every, K)
    return transition + sweep + absorb + contract


def choose_block(algorithm: str, block: str, cell: Cell, rank: int = 0, update_every: int = 1) -> int:
    """Return the candidate of least cost whose terms take no more memory than J (RTRL), than four carries (OK)."""
    if block != "auto":
        raise ValueError(f'block must be an integer of at least 1 or "auto", got {block!r}')
    most_terms = cell.theta.shape[1] if algorithm == "rtrl" else 4 * rank
    candidates = [K for K in CANDIDATES if K <= max(1, most_terms // cell.n_terms)]
    return min(candidates, key=lambda K: step_cost(algorithm, K, cell, rank, update_every))
