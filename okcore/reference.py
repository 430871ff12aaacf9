"""All of okcore's mathematics in plain NumPy: slow, short, one line per equation. Read this first.

    J_t = H_t J_{t-1} + F_t        influence matrix J = ds/dtheta, state Jacobian H = ds/ds', immediate Jacobian F
    dl_t/dtheta = delta_t J_t      credit delta = dl/ds

A *cell* gives its new state and the diagonals d and c of its Jacobians. A *tape* holds the steps since the last
block boundary t0, a *carry* summarises J_{t0}, and every algorithm is a tape and a carry:

    J_t = Phi_{t0->t} J_{t0} + sum_tau Phi_{tau->t} F_tau,    Phi_{tau->t} = H_t ... H_{tau+1}.

Names are those of the compiled modules; the tests compare the two. Shapes are of one lane: u_hat (q, m),
D (q, S, P), H and Phi (S, S), Kronecker terms u (N, m) and A (N, S, P) for sum_i A_i (x) u_i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from okcore import cells
from okcore._random import lane_generators
from okcore._typing import RNGLike

Array: TypeAlias = NDArray[Any]

# ---- cells: pre (B, q, G, n), state (B, k, n) -> state, d (B, q, k, G, n), c (B, k, k, n) --------------------------


def sigmoid(a: Array) -> Array:
    """Return 1 / (1 + exp(-a))."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


class RNN(cells.Cell):
    """h = tanh(a)."""

    n_gates, n_state_blocks, n_terms = 1, 1, 1

    def pointwise(self, pre: Array, state: Array) -> tuple[Array, Array, Array]:
        h = np.tanh(pre[:, 0])
        return h, (1 - h**2)[:, None, None], np.zeros_like(state)[:, None]


class RHN(cells.Cell):
    """z = 2 sigmoid(a_z) - 1, f = sigmoid(a_f), h = f h' + (1 - f) z."""

    n_gates, n_state_blocks, n_terms = 2, 1, 1

    def pointwise(self, pre: Array, state: Array) -> tuple[Array, Array, Array]:
        s, f = np.moveaxis(sigmoid(pre[:, 0]), 1, 0)
        z, old = 2 * s - 1, state[:, 0]
        h = f * old + (1 - f) * z
        d = np.stack([(1 - f) * 2 * s * (1 - s), (old - z) * f * (1 - f)], axis=1)
        return h[:, None], d[:, None, None], f[:, None, None]


class LSTM(cells.Cell):
    """c = f c' + i g, h = o tanh(c); state [h, c], rows i, f, g, o."""

    n_gates, n_state_blocks, n_terms = 4, 2, 1

    def pointwise(self, pre: Array, state: Array) -> tuple[Array, Array, Array]:
        a_i, a_f, a_g, a_o = np.moveaxis(pre[:, 0], 1, 0)
        i, f, g, o, old = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o), state[:, 1]
        c = f * old + i * g
        h = o * np.tanh(c)
        dh_dc = o * (1 - np.tanh(c) ** 2)
        d_c = np.stack([g * i * (1 - i), old * f * (1 - f), i * (1 - g**2), 0 * o], axis=1)
        d_h = dh_dc[:, None] * d_c
        d_h[:, 3] = np.tanh(c) * o * (1 - o)
        grid = np.stack([np.stack([0 * f, dh_dc * f], axis=1), np.stack([0 * f, f], axis=1)], axis=1)
        return np.stack([h, c], axis=1), np.stack([d_h, d_c], axis=1)[:, None], grid


class GRU(cells.Cell):
    """g = tanh(x_n + r h_n), h = (1 - z) g + z h'; rows r, z, n, input and recurrence apart."""

    n_gates, n_state_blocks, n_terms = 3, 1, 2

    def pointwise(self, pre: Array, state: Array) -> tuple[Array, Array, Array]:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.moveaxis(pre, (1, 2), (0, 1))
        r, z, old = sigmoid(x_r + h_r), sigmoid(x_z + h_z), state[:, 0]
        g = np.tanh(x_n + r * h_n)
        h = (1 - z) * g + z * old
        d_n = (1 - z) * (1 - g**2)
        d_r, d_z = d_n * h_n * r * (1 - r), (old - g) * z * (1 - z)
        d = np.stack([np.stack([d_r, d_z, d_n], axis=1), np.stack([d_r, d_z, d_n * r], axis=1)], axis=1)
        return h[:, None], d[:, :, None], z[:, None, None]


def augmented_input(cell: cells.Cell, x: Array, h: Array) -> Array:
    """Return u_hat (q, m): [x, h, 1], or [x, 0, 1, 0] and [0, h, 0, 1]."""
    one = np.ones(1, cell.dtype)
    if cell.n_terms == 1:
        return np.concatenate([x, h, one])[None]
    return np.stack([np.concatenate([x, 0 * h, one, 0 * one]), np.concatenate([0 * x, h, 0 * one, one])])


def dense_jacobians(cell: cells.Cell, d: Array, c: Array, W_h: Array) -> tuple[Array, Array]:
    """Return D (q, S, P) from its diagonals, and H = D* W_h E_h + C."""
    q, k, G, n = d.shape
    D = np.concatenate([[[np.diag(d[j, a, g]) for g in range(G)] for a in range(k)] for j in range(q)])
    D = D.reshape(q, k, G, n, n).transpose(0, 1, 3, 2, 4).reshape(q, k * n, G * n)
    H = np.block([[np.diag(c[a, b]) for b in range(k)] for a in range(k)])
    H[:, :n] += D[-1] @ W_h
    return D, H


# ---- Kronecker sums -------------------------------------------------------------------------------------------------


def to_dense(u: Array, A: Array) -> Array:
    """Return J (S, P, m) = sum_i A_i (x) u_i."""
    return np.einsum("isp,im->spm", A, u)


def orthonormal_with_row_norms(p: Array, k: int) -> Array:
    """Return Z (len(p), k): orthonormal columns, |Z_i|^2 = p_i, for descending p in [0, 1] with sum k (Schur-Horn)."""
    Z = np.eye(len(p), k)
    high, low = 0, k
    while high < k and low < len(p):
        a, b = Z[high].copy(), Z[low].copy()
        excess, lack, inner = a @ a - p[high], p[low] - b @ b, a @ b
        target = p[high] if excess <= lack else a @ a + b @ b - p[low]
        x, y = target - b @ b, a @ a - target
        if x > 0 and y > 0:  # |cos a - sin b|^2 = target
            root = np.sqrt(inner**2 + x * y)
            t = y / (inner + root) if inner >= 0 else y / (inner - root)
            cos, sin = 1 / np.hypot(1, t), t / np.hypot(1, t)
            Z[high], Z[low] = cos * a - sin * b, sin * a + cos * b
        high, low = (high + 1, low) if excess <= lack else (high, low + 1)
    return Z


def mixed_tail(sigma: Array, rank: int) -> tuple[int, float]:
    """Return how many components are kept exactly, and the variance s1^2 / k - s2 of mixing the others."""
    if len(sigma) <= rank:
        return len(sigma), 0.0
    tails = np.cumsum(sigma[::-1])[::-1]
    keep = next((j for j in range(rank) if (rank - j) * sigma[j] <= tails[j] * (1 + 1e-15)), rank)
    return keep, tails[keep] ** 2 / (rank - keep) - (sigma[keep:] ** 2).sum()


def reduce(
    u: Array, A: Array, rank: int, signs: Array | None = None, start: float = 0.0,
    tolerance: float | None = None,
) -> tuple[Array, Array, float]:  # fmt: skip
    """Reduce N Kronecker terms to `rank`: unbiased, variance s1^2 / k - s2. Returns u, A, variance.

    Benzing et al. 2019. `signs` (N,) mixes the tail of the singular values; `start` in [0, 1) samples from it. With a
    tolerance: to the fewest terms, at most `rank`, whose noise sqrt(variance) is at most that times the norm of J.
    """
    norm_u, norm_A = np.linalg.norm(u, axis=1), np.linalg.norm(A, axis=(1, 2))
    live = (norm_u > 0) & (norm_A > 0)
    balance = np.sqrt(norm_A[live] / norm_u[live])
    L = (u[live] * balance[:, None]).T.astype(np.float64)                                   # (m, N)
    R = (A[live] / balance[:, None, None]).reshape(live.sum(), A[0].size).T.astype(np.float64)  # (S P, N)
    Q_L, R_L = np.linalg.qr(L)
    Q_R, R_R = np.linalg.qr(R)
    U, sigma, Vt = np.linalg.svd(R_L @ R_R.T, full_matrices=False)
    exist = sigma > 1e-12 * sigma.max(initial=0)
    U, sigma, V = U[:, exist], sigma[exist], Vt[exist].T
    likeness = (Q_L @ U).T @ (u[live] / norm_u[live, None]).T  # of components to terms: the largest is made positive
    size = np.abs(likeness)
    first = np.argmax(size >= size.max(axis=1, keepdims=True, initial=0) / (1 + 1e-8), axis=1)
    turn = np.sign(likeness[np.arange(len(sigma)), first])
    U, V = U * turn, V * turn

    r = min(rank, len(sigma))
    if tolerance is not None:
        quiet = (s for s in range(1, r) if mixed_tail(sigma, s)[1] <= (tolerance * np.linalg.norm(sigma)) ** 2)
        rank = r = next(quiet, r)
        if r == len(u):
            return u, A, 0.0
    keep, variance = mixed_tail(sigma, r)
    k, tail = r - keep, sigma[keep:]
    s1 = tail.sum()
    Y_L, Y_R = U[:, :keep] * np.sqrt(sigma[:keep]), V[:, :keep] * np.sqrt(sigma[:keep])
    if len(tail):
        p = np.minimum(1, k * tail / s1)
        if signs is not None:
            mix = signs[keep : len(sigma), None] * orthonormal_with_row_norms(p, k)
        else:
            mix = np.zeros((len(tail), k))
            mix[np.searchsorted(np.cumsum(p)[:-1], start + np.arange(k), side="right"), np.arange(k)] = 1
        Y_L = np.hstack([Y_L, np.sqrt(s1 / k) * U[:, keep:] @ mix])
        Y_R = np.hstack([Y_R, np.sqrt(s1 / k) * V[:, keep:] @ mix])
    u_new, A_new = np.zeros((rank, u.shape[1]), u.dtype), np.zeros((rank, *A.shape[1:]), A.dtype)
    u_new[: Y_L.shape[1]] = (Q_L @ Y_L).T
    A_new[: Y_R.shape[1]] = (Q_R @ Y_R).T.reshape(-1, *A.shape[1:])
    return u_new, A_new, variance


# ---- carries: what is kept of J_{t0}; absorb: J <- Phi J + sum_i A_i (x) u_i, contract: delta J ---------------------


class NoCarry:
    """TBPTT: nothing."""

    def __init__(self, cell: cells.Cell) -> None:
        self.shape = cell.theta.shape

    def absorb(self, Phi: Array, u: Array, A: Array, generator: np.random.Generator) -> None:
        pass

    def contract(self, delta: Array) -> Array:
        return np.zeros(self.shape, delta.dtype)


class ExactCarry:
    """RTRL: J itself."""

    def __init__(self, cell: cells.Cell) -> None:
        self.J = np.zeros((cell.state_size, *cell.theta.shape), cell.dtype)

    def absorb(self, Phi: Array, u: Array, A: Array, generator: np.random.Generator) -> None:
        self.J = np.tensordot(Phi, self.J, 1) + to_dense(u, A)

    def contract(self, delta: Array) -> Array:
        return np.tensordot(delta, self.J, 1)


class OptimalKroneckerSumCarry:
    """OK: r Kronecker products, reduced from r + K q."""

    def __init__(self, cell: cells.Cell, rank: int, mixing: str, most_new: int, tolerance: float | None) -> None:
        self.rank, self.mixing, self.most_new, self.tolerance = rank, mixing, most_new, tolerance
        self.u = np.zeros((0, cell.theta.shape[1]), cell.dtype)
        self.A = np.zeros((0, cell.state_size, cell.theta.shape[0]), cell.dtype)
        self.variance = 0.0

    def absorb(self, Phi: Array, u: Array, A: Array, generator: np.random.Generator) -> None:
        draws = generator.random(self.rank + self.most_new if self.mixing == "signs" else 1)
        if not Phi.any():  # a reset has cut the old terms off
            self.u, self.A = self.u[:0], self.A[:0]
        self.u, self.A = np.concatenate([self.u, u]), np.concatenate([Phi @ self.A, A])
        self.variance = 0.0
        if len(self.u) > self.rank or self.tolerance is not None:
            signs = np.where(draws < 0.5, -1.0, 1.0) if self.mixing == "signs" else None
            self.u, self.A, self.variance = reduce(self.u, self.A, self.rank, signs, draws[0], self.tolerance)

    def contract(self, delta: Array) -> Array:
        return (delta @ self.A).T @ self.u


class RandomSignCarry:
    """KF-RTRL: one Kronecker product, the sum of its terms with random signs; the mean of independent copies."""

    def __init__(self, cell: cells.Cell, copies: int, most_new: int) -> None:
        self.most_new = most_new
        self.u = np.zeros((copies, cell.theta.shape[1]), cell.dtype)
        self.A = np.zeros((copies, cell.state_size, cell.theta.shape[0]), cell.dtype)

    def absorb(self, Phi: Array, u: Array, A: Array, generator: np.random.Generator) -> None:
        draws = generator.random((len(self.u), 1 + self.most_new))
        moved = Phi @ self.A
        for i, row in enumerate(draws):
            sign = np.where(row < 0.5, -1, 1)
            self.u[i], self.A[i] = sum_with_signs(
                np.concatenate([self.u[i : i + 1], u]), np.concatenate([moved[i : i + 1], A]), sign
            )

    def contract(self, delta: Array) -> Array:
        return (delta @ self.A).T @ self.u / len(self.u)


def sum_with_signs(u: Array, A: Array, sign: Array) -> tuple[Array, Array]:
    """Return one term for N: u' = sum_i c_i p_i u_i, A' = sum_i c_i A_i / p_i, p_i = sqrt(|A_i| / |u_i|)."""
    norm_u, norm_A = np.linalg.norm(u, axis=1), np.linalg.norm(A, axis=(1, 2))
    live = np.flatnonzero((norm_u > 0) & (norm_A > 0))
    if len(live) <= 1:
        return (u[live[0]], A[live[0]]) if len(live) else (0 * u[0], 0 * A[0])
    p = np.sqrt(norm_A[live] / norm_u[live])
    c = sign[live]
    return (c * p) @ u[live], np.tensordot(c / p, A[live], 1)


class RankOneCarry:
    """UORO: a (x) w."""

    def __init__(self, cell: cells.Cell) -> None:
        self.a = np.zeros(cell.state_size, cell.dtype)
        self.w = np.zeros(cell.theta.shape, cell.dtype)
        self.eps = 1e-7 if cell.dtype == np.float32 else 1e-14

    def absorb(self, Phi: Array, u: Array, A: Array, generator: np.random.Generator) -> None:
        nu = np.where(generator.random(len(self.a)) < 0.5, -1.0, 1.0).astype(self.a.dtype)
        if not Phi.any():
            self.w = 0 * self.w
        moved, nu_F = Phi @ self.a, np.einsum("s,isp,im->pm", nu, A, u)
        rho0, rho1 = self.ratio(self.w, moved), self.ratio(nu_F, nu)
        self.a, self.w = rho0 * moved + rho1 * nu, self.w / rho0 + nu_F / rho1

    def ratio(self, x: Array, y: Array) -> float:
        return np.sqrt((np.linalg.norm(x) + self.eps) / (np.linalg.norm(y) + self.eps))

    def contract(self, delta: Array) -> Array:
        return (delta @ self.a) * self.w


class OwnUnitCarry:
    """SnAp-1: of J only what a unit's own rows of theta do to that unit; takes in each step at once."""

    def __init__(self, cell: cells.Cell) -> None:
        n, rows = cell.n_hidden, np.arange(cell.theta.shape[0])
        self.mask = (np.arange(cell.state_size)[:, None] % n == rows % n)[:, :, None]
        self.J = np.zeros((cell.state_size, *cell.theta.shape), cell.dtype)

    def absorb_step(self, H: Array, D: Array, u_hat: Array) -> None:
        self.J = self.mask * (np.tensordot(H, self.J, 1) + to_dense(u_hat, D))

    def contract(self, delta: Array) -> Array:
        return np.tensordot(delta, self.J, 1)


# ---- the engine -----------------------------------------------------------------------------------------------------


class Estimator:
    """A tape and a carry for every lane; `make_carry()` returns a new carry."""

    def __init__(
        self, cell: cells.Cell, make_carry: Callable[[], Any], block: int, batch_size: int = 1,
        rng: RNGLike | None = None,
    ) -> None:  # fmt: skip
        self.cell, self.block, self.make_carry = cell, block, make_carry
        self.generators = lane_generators(rng, batch_size)
        self.state = np.zeros((batch_size, cell.state_size), cell.dtype)
        self.carries = [make_carry() for _ in range(batch_size)]
        self.dh_dx = np.zeros((batch_size, cell.n_hidden, cell.n_in), cell.dtype)  # of the newest step
        self.tape: list[list[tuple[Any, ...]]] = []  # of steps; a step is a list of (u_hat, D, H, cut) over lanes

    def step(self, x: Array, reset: Array | None = None) -> Array:
        """Take one step of every lane: x (B, n_in) floats or (B,) symbols; returns h (B, n)."""
        cell, n = self.cell, self.cell.n_hidden
        x = np.eye(cell.n_in, dtype=cell.dtype)[x] if x.ndim == 1 else x
        reset = np.zeros(len(x), bool) if reset is None else reset
        if reset.all():
            self.reset()
        elif len(self.tape) == self.block:
            self.close_block()
        self.state[reset] = 0
        u_hat = np.stack([augmented_input(cell, *pair) for pair in zip(x, self.state[:, :n], strict=True)])
        pre = (u_hat @ cell.theta.T).reshape(len(x), cell.n_terms, cell.n_gates, n)
        state, d, c = cell.pointwise(pre, self.state.reshape(len(x), -1, n))
        self.state = state.reshape(len(x), -1)
        W_x = cell.theta[:, : cell.n_in]
        self.dh_dx = np.einsum("bgi,giv->biv", d[:, 0, 0], W_x.reshape(-1, n, cell.n_in))
        W_h = cell.theta[:, cell.n_in : cell.n_in + n]
        newest = [(u_hat[b], *dense_jacobians(cell, d[b], c[b], W_h), reset[b]) for b in range(len(x))]
        if hasattr(self.carries[0], "absorb_step"):
            self.carries = [self.make_carry() if cut else old for old, cut in zip(self.carries, reset, strict=True)]
            for carry, (u, D, H, _) in zip(self.carries, newest, strict=True):
                carry.absorb_step(H, D, u)
        else:
            self.tape.append(newest)
        return self.state[:, :n].copy()

    def gradient(self, dh: Array, per_lane: bool = False) -> Array:
        """Return the gradient of this step's loss, (P, m): sweep the tape back, then contract the carry."""
        lanes = np.zeros((len(dh), *self.cell.theta.shape), self.cell.dtype)
        for lane, (carry, total) in enumerate(zip(self.carries, lanes, strict=True)):
            delta = np.zeros(self.cell.state_size, self.cell.dtype)
            delta[: self.cell.n_hidden] = dh[lane]
            for u_hat, D, H, cut in (step[lane] for step in reversed(self.tape)):
                total += (delta @ D).T @ u_hat
                delta = 0 * delta if cut else delta @ H
            total += carry.contract(delta)
        return lanes if per_lane else lanes.sum(axis=0)

    def input_gradient(self, dh: Array) -> Array:
        """Return the gradient of this step's loss by this step's input, (B, n_in): dh D W_x."""
        return np.einsum("bi,biv->bv", dh, self.dh_dx)

    def close_block(self) -> None:
        """Hand the block to the carries: terms (Phi D_tau) (x) u_tau, newest first, and the transition Phi."""
        for lane, carry in enumerate(self.carries):
            Phi: Array = np.eye(self.cell.state_size, dtype=self.cell.dtype)
            u: list[Array] = []
            A: list[Array] = []
            for u_hat, D, H, cut in (step[lane] for step in reversed(self.tape)):
                u.extend(u_hat if Phi.any() else [])
                A.extend(Phi @ D if Phi.any() else [])
                Phi = 0 * Phi if cut else Phi @ H
            carry.absorb(Phi, np.stack(u), np.stack(A), self.generators[lane])
        self.tape = []

    def reset(self) -> None:
        """Start all lanes anew."""
        self.state[...] = self.dh_dx[...] = 0
        self.tape = []
        self.carries = [self.make_carry() for _ in self.carries]


def TBPTT(cell: cells.Cell, horizon: int, batch_size: int = 1) -> Estimator:
    """Return truncated backpropagation through time."""
    return Estimator(cell, lambda: NoCarry(cell), horizon, batch_size)


def RTRL(cell: cells.Cell, block: int = 1, batch_size: int = 1) -> Estimator:
    """Return real-time recurrent learning, exact."""
    return Estimator(cell, lambda: ExactCarry(cell), block, batch_size)


def UORO(cell: cells.Cell, batch_size: int = 1, rng: RNGLike | None = None) -> Estimator:
    """Return unbiased online recurrent optimisation."""
    return Estimator(cell, lambda: RankOneCarry(cell), 1, batch_size, rng)


def SnAp1(cell: cells.Cell, batch_size: int = 1) -> Estimator:
    """Return the sparse one-step approximation."""
    return Estimator(cell, lambda: OwnUnitCarry(cell), 1, batch_size)


def KFRTRL(
    cell: cells.Cell, copies: int = 1, block: int = 1, batch_size: int = 1, rng: RNGLike | None = None
) -> Estimator:
    """Return Kronecker-factored RTRL."""
    return Estimator(cell, lambda: RandomSignCarry(cell, copies, block * cell.n_terms), block, batch_size, rng)


def OK(
    cell: cells.Cell, rank: int, block: int = 1, mixing: str = "signs", batch_size: int = 1,
    rng: RNGLike | None = None, tolerance: float | None = None,
) -> Estimator:  # fmt: skip
    """Return the optimal Kronecker-sum approximation."""
    new = block * cell.n_terms
    return Estimator(cell, lambda: OptimalKroneckerSumCarry(cell, rank, mixing, new, tolerance), block, batch_size, rng)
