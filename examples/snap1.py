"""An algorithm of your own: SnAp-1 (Menick et al. 2021, arXiv 2006.07232), as a carry in plain NumPy.

SnAp-1 keeps of the influence only what a unit's own rows of theta do to that unit: J[(a, i), (g, i), :], that is
k G n m numbers in place of S P m.  It is cheap, free of noise, and biased.  Run it with ``python examples/snap1.py``.
"""

import numpy as np

import okcore


class OwnUnitCarry(okcore.Carry):
    """J with zeros wherever the state's unit is not the row's unit."""

    def __init__(self, cell, batch_size):
        super().__init__(cell, batch_size)
        k, G, n, m = cell.n_state_blocks, cell.n_gates, cell.n_hidden, cell.theta.shape[1]
        self.sizes = k, G, n, m
        self.own = np.zeros((batch_size, k, G, n, m), cell.dtype)

    @property
    def arrays(self):
        """What a checkpoint holds."""
        return {"own": self.own}

    def absorb(self, lane, Phi, u, A):
        """J <- Phi J + sum_j A_j (x) u_j, where Phi and the A_j count by their diagonals only."""
        k, G, n, _ = self.sizes
        unit = np.arange(n)
        Phi = Phi.reshape(k, n, k, n)[:, unit, :, unit]  # (n, k, k)
        A = A.reshape(-1, k, n, G, n)[:, :, unit, :, unit]  # (n, N, k, G)
        self.own[lane] = np.einsum("iab,bgim->agim", Phi, self.own[lane]) + np.einsum("ijag,jm->agim", A, u)

    def contract(self, delta):
        """Return delta J summed over lanes, (P, m)."""
        k, G, n, m = self.sizes
        return np.einsum("lai,lagim->gim", delta.reshape(-1, k, n), self.own).reshape(G * n, m)

    def dense(self, lane):
        """Return J of a lane, (S, P, m)."""
        k, G, n, m = self.sizes
        unit = np.arange(n)
        J = np.zeros((k, n, G, n, m), self.own.dtype)
        J[:, unit, :, unit] = np.moveaxis(self.own[lane], 2, 0)
        return J.reshape(k * n, G * n, m)


class SnAp1(okcore.Estimator):
    """Sparse one-step approximation of RTRL."""

    def __init__(self, cell, batch_size=1):
        super().__init__(cell, OwnUnitCarry(cell, batch_size), block=1)


def main(steps=300):
    """Compare its gradient with the exact one."""
    rng = np.random.default_rng(0)
    cell = okcore.GRU(8, 16, rng=1)
    snap, exact = SnAp1(cell), okcore.RTRL(cell)
    cosines = []
    for _ in range(steps):
        x, dh = rng.normal(size=(1, 8)).astype("f"), rng.normal(size=(1, 16)).astype("f")
        snap.step(x)
        exact.step(x)
        one, other = snap.gradient(dh).ravel(), exact.gradient(dh).ravel()
        cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    print(f"cosine between SnAp-1's and the exact gradient: {np.mean(cosines):.3f}")


if __name__ == "__main__":
    main()
