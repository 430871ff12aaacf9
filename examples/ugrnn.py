"""A custom cell: the update-gate RNN of Collins, Sohl-Dickstein & Sussillo (2017), in plain NumPy.

    g = sigmoid(a_g),  c = tanh(a_c),  h = g h' + (1 - g) c

``python examples/ugrnn.py`` trains it on the Copy task with the OK estimator.
"""

import numpy as np

import okcore


class UGRNN(okcore.Cell):
    """Update-gate RNN; rows of theta are [g; c]."""

    n_gates = 2

    def pointwise(self, pre, state):
        """Return the new state and the diagonals of its derivatives."""
        old = state[:, 0]
        g, c = 1 / (1 + np.exp(-pre[:, 0, 0])), np.tanh(pre[:, 0, 1])
        h = g * old + (1 - g) * c
        by_pre = np.stack([(old - c) * g * (1 - g), (1 - g) * (1 - c**2)], axis=1)  # dh/da_g, dh/da_c
        return h[:, None], by_pre[:, None, None], g[:, None, None]  # and dh/dh' = g


def main(steps=4000):
    """Train on Copy."""
    task = okcore.tasks.Copy(batch_size=16, rng=0)
    cell = UGRNN(task.n_in, 32, rng=1)
    estimator = okcore.OK(cell, rank=4, block=16, batch_size=16, rng=2)
    readout = okcore.SoftmaxReadout(32, task.n_out, rng=3)
    okcore.OnlineTrainer(cell, estimator, readout, okcore.Adam(3e-3), clip=1.0).fit(task, steps)
    print(f"after {steps} steps it copies strings of up to {task.length} bits")


if __name__ == "__main__":
    main()
