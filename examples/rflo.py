"""A local learning rule of your own, in plain NumPy: RFLO (Murray 2019, https://doi.org/10.7554/eLife.43299).

RFLO keeps of the influence only what a unit's own rows of theta do to that unit, and follows it in time only through
the unit's own leak: J <- C J + F, where RTRL has H = D W_h + C in place of C.

Run it with ``python examples/rflo.py``.
"""

import numpy as np

import okcore


class LeakCarry(okcore.Carry):
    """J[a, g, i, :] is what row (g, i) of theta does to block a of unit i's state."""

    def __init__(self, cell, batch_size):
        super().__init__(cell, batch_size)
        m = cell.theta.shape[1]
        self.own = self.keep("own", (cell.n_state_blocks, cell.n_gates, cell.n_hidden, m))

    def absorb_step(self, lane, d, c, u):
        """Take in a step: J <- C J + sum_j D_j (x) u_j, all of them diagonal."""
        self.own[lane] = np.einsum("abi,bgim->agim", c, self.own[lane]) + np.einsum("jagi,jm->agim", d, u)

    def contract(self, delta):
        """Return delta J summed over lanes, (P, m)."""
        k, n = self.own.shape[1], self.own.shape[3]
        return np.einsum("lai,lagim->gim", delta.reshape(-1, k, n), self.own).reshape(self.cell.theta.shape)


class RFLO(okcore.Estimator):
    """Local online learning; with credits through random feedback weights it is "random feedback" learning."""

    def __init__(self, cell, batch_size=1):
        super().__init__(cell, LeakCarry(cell, batch_size), block=1)


def main(steps=300):
    """Compare its gradient and SnAp-1's with the exact one."""
    rng, cell = np.random.default_rng(0), okcore.GRU(8, 16, rng=1)
    exact, others = okcore.RTRL(cell), {"RFLO": RFLO(cell), "SnAp-1": okcore.SnAp1(cell)}
    cosines = {name: [] for name in others}
    for _ in range(steps):
        x, dh = rng.normal(size=(1, 8)).astype("f"), rng.normal(size=(1, 16)).astype("f")
        exact.step(x)
        truth = exact.gradient(dh).ravel()
        for name, estimator in others.items():
            estimator.step(x)
            found = estimator.gradient(dh).ravel()
            cosines[name].append(found @ truth / np.linalg.norm(found) / np.linalg.norm(truth))
    for name, values in cosines.items():
        print(f"cosine of {name}'s gradient with the exact one: {np.mean(values):.3f}")


if __name__ == "__main__":
    main()
