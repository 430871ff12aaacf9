"""A recurrent network with river's interface, `learn_one` and `predict_one`: an example at a time.

The examples are one sequence: the network's state remembers those before, and each teaches it with the untruncated
gradient. It learns best from features and targets of about unit size; river's pipelines scale them. River gives a base
class and nothing else: ``python examples/river_adapter.py`` runs without.
"""

import numpy as np

import okcore

try:
    from river.base import Regressor
except ImportError:
    Regressor = object


class RNNRegressor(Regressor):
    """A GRU that predicts a number from an example's features and from all examples before."""

    def __init__(self, n_hidden=16, rank=4, block=8, learning_rate=0.003, seed=0):
        self.n_hidden, self.rank, self.block, self.learning_rate, self.seed = n_hidden, rank, block, learning_rate, seed
        self.features = None  # those of the first example, with which the network is made

    def _inputs(self, x):
        if self.features is None:
            self.features = sorted(x)
            cell = okcore.GRU(max(1, len(x)), self.n_hidden, rng=self.seed)
            estimator = okcore.OK(cell, self.rank, self.block, rng=self.seed)
            readout = okcore.LinearReadout(self.n_hidden, 1, rng=self.seed)
            self.trainer = okcore.OnlineTrainer(cell, estimator, readout, okcore.Adam(self.learning_rate), clip=1.0)
            self.reader = okcore.TBPTT(cell, horizon=1)
        return np.array([[x.get(name, 0.0) for name in self.features]], "f")

    def learn_one(self, x, y):
        """Take the next step of the sequence, and learn from it."""
        inputs = self._inputs(x)
        self.trainer.partial_fit(inputs, np.array([[y]], "f"))

    def predict_one(self, x):
        """Return the prediction of that step, taken by another estimator: the network stays where it is."""
        inputs = self._inputs(x)
        self.reader.state = self.trainer.estimator.state
        return float(self.trainer.readout.predict(self.reader.step(inputs))[0, 0])


def main(steps=2000):
    """Learn to say the number before; return the mean error of the second half."""
    model, before, errors = RNNRegressor(), 0.0, []
    for number in np.random.default_rng(0).uniform(-1, 1, steps):
        errors.append(abs(model.predict_one({"number": number}) - before))
        model.learn_one({"number": number}, before)
        before = number
    error = float(np.mean(errors[steps // 2 :]))
    print(f"mean error {error:.3f}; a guess without memory: 0.5")
    return error


if __name__ == "__main__":
    main()
