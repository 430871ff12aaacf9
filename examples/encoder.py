"""An encoder below the cell learns through `input_gradient`, the gradient with respect to the step's input.

A step shows a bit along one direction among `FEATURES` noisy ones, and the network must say whether the bit differs
from the one before. The encoder x = tanh(W o) has two outputs: left as it was drawn, it loses the bit in the noise. It
learns from dloss/dx of each step; the cell, which must remember the bit, from its untruncated gradient.

Run it with ``python examples/encoder.py``.
"""

import numpy as np

import okcore

FEATURES, CODE, HIDDEN, LANES = 50, 2, 16, 16


def train(steps, learn_encoder):
    """Return the mean loss in bits over the last tenth of the steps."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=FEATURES)
    direction *= 3 / np.linalg.norm(direction)
    W = rng.normal(0, FEATURES**-0.5, (CODE, FEATURES)).astype("f")
    cell = okcore.LSTM(CODE, HIDDEN, rng=1)
    est = okcore.OK(cell, rank=4, block=8, batch_size=LANES, rng=2)
    readout, adam = okcore.SoftmaxReadout(HIDDEN, 2, rng=3), okcore.Adam(0.01)
    before, losses = np.zeros(LANES, int), []
    for _ in range(steps):
        bit = rng.integers(2, size=LANES)
        o = (rng.normal(size=(LANES, FEATURES)) + np.outer(2 * bit - 1, direction)).astype("f")
        x = np.tanh(o @ W.T)
        bits, dh, readout_gradient = readout.loss(est.step(x), bit ^ before)
        if learn_encoder:
            dx = est.input_gradient(dh)
            adam.update("encoder", W, (dx * (1 - x**2)).T @ o)
        adam.update("theta", cell.theta, est.gradient(dh))
        adam.update("readout", readout.weights, readout_gradient)
        losses.append(np.mean(bits))
        before = bit
    return float(np.mean(losses[-max(1, steps // 10) :]))


def main(steps=2000):
    """Train with an encoder that learns and with one that does not; return both losses."""
    learned, fixed = train(steps, True), train(steps, False)
    print(f"loss: {learned:.3f} bits with an encoder that learns, {fixed:.3f} with one that does not; guessing loses 1")
    return learned, fixed


if __name__ == "__main__":
    main()
