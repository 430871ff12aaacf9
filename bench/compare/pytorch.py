"""PyTorch: torch.nn.RNN, LSTM or GRU over the whole job, autograd, and an explicit update, which is faster than torch.optim."""

import numpy as np

from compare.job import RATE


class PyTorch:
    name = "PyTorch"

    def __init__(self, job):
        import torch

        self.torch, self.job = torch, job
        self.net = getattr(torch.nn, job.cell)(job.n_in, job.n)
        self.weights = list(self.net.parameters())
        theta = torch.from_numpy(job.make_cell().theta)
        with torch.no_grad():
            W_x, W_h, b_x, b_h = self.weights
            W_x.copy_(theta[:, : job.n_in])
            W_h.copy_(theta[:, job.n_in : job.n_in + job.n])
            b_x.copy_(theta[:, job.n_in + job.n])
            b_h.copy_(theta[:, -1] if job.cell == "GRU" else torch.zeros(len(b_h)))
        self.xs, self.dhs = torch.from_numpy(job.xs), torch.from_numpy(job.dhs)
        zeros = torch.zeros(1, job.lanes, job.n)
        self.state = (zeros, zeros) if job.cell == "LSTM" else zeros

    def __call__(self):
        hs, state = self.net(self.xs, self.state)
        hs.backward(self.dhs)
        self.state = tuple(s.detach() for s in state) if self.job.cell == "LSTM" else state.detach()
        with self.torch.no_grad():
            for weight in self.weights:
                weight.sub_(weight.grad, alpha=float(RATE))
                weight.grad = None

    def parameters(self):
        # Except in a GRU, torch's two biases have the same gradient: their sum moves twice as far as okcore's bias, so return one.
        W_x, W_h, b_x, b_h = (w.detach().numpy() for w in self.weights)
        biases = [b_x, b_h] if self.job.cell == "GRU" else [b_x]
        return np.column_stack([W_x, W_h, *biases])
