"""PyTorch: untruncated online gradients for `torch.nn.RNN`, `LSTM` and `GRU`."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from okcore import _validation, cells
from okcore._typing import RNGLike
from okcore.estimators import ESTIMATORS, Estimator

try:
    import torch
except ImportError:
    raise ImportError("okcore.torch needs PyTorch, which is not installed: pip install okcore[torch]") from None

__all__ = ["OnlineRNN", "from_torch", "to_torch"]

Net: TypeAlias = torch.nn.RNN | torch.nn.LSTM | torch.nn.GRU

CELLS = {torch.nn.RNN: cells.RNN, torch.nn.LSTM: cells.LSTM, torch.nn.GRU: cells.GRU}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
PARAMETERS = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"


def check_net(net: Net) -> None:
    """Raise for a module that no cell computes."""
    if type(net) not in CELLS:
        raise TypeError(f"net must be a torch.nn.RNN, LSTM or GRU, got {type(net).__name__}")
    needed: dict[str, Any] = {"num_layers": 1, "bidirectional": False, "proj_size": 0, "bias": True}
    if isinstance(net, torch.nn.RNN):
        needed["nonlinearity"] = "tanh"
    for name, value in needed.items():
        if getattr(net, name) != value:
            raise ValueError(f"net must have {name}={value!r}, got {getattr(net, name)!r}")


def check_embedding(embedding: torch.nn.Embedding, net: Net) -> None:
    """Raise for an embedding that is no plain table of rows."""
    if type(embedding) is not torch.nn.Embedding:
        raise TypeError(f"embedding must be a torch.nn.Embedding, got {type(embedding).__name__}")
    needed = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False}
    for name, value in (needed | {"embedding_dim": net.input_size}).items():
        if getattr(embedding, name) != value:
            raise ValueError(f"embedding must have {name}={value!r}, got {getattr(embedding, name)!r}")


def parameters_of(net: Net, embedding: torch.nn.Embedding | None) -> dict[str, torch.nn.Parameter]:
    """Return the parameters by name, the embedding's weight last."""
    found = {f"net.{name}": getattr(net, name) for name in PARAMETERS}
    return found if embedding is None else found | {"embedding.weight": embedding.weight}


def new_cell(net: Net, embedding: torch.nn.Embedding | None) -> cells.Cell:
    """Return the cell of the same function, its theta not yet set."""
    dtype = _validation.as_dtype("net's dtype", str(net.weight_ih_l0.dtype).removeprefix("torch."))
    n_in = net.input_size if embedding is None else embedding.num_embeddings
    cell = CELLS[type(net)](n_in, net.hidden_size, dtype=dtype, init="zeros")
    check_parameters(parameters_of(net, embedding), cell)
    return cell


def check_parameters(parameters: dict[str, torch.nn.Parameter], cell: cells.Cell) -> None:
    """Raise for a parameter that is not of the cell's dtype, or not on the CPU."""
    dtype = DTYPES[cell.dtype.name]
    for name, parameter in parameters.items():
        if parameter.dtype is not dtype or not parameter.is_cpu:
            raise TypeError(
                f"{name} must be torch.{cell.dtype} on the cpu, got {parameter.dtype} on {parameter.device} "
                "(move parameters before OnlineRNN is made)")  # fmt: skip


def copy_parameters(parameters: dict[str, torch.nn.Parameter], cell: cells.Cell) -> None:
    """Write torch's parameters into the cell's theta; a cell of one term takes the sum of the biases."""
    W_ih, W_hh, b_ih, b_hh, *embedding = (parameter.detach().numpy() for parameter in parameters.values())
    theta, v, n = cell.theta, cell.n_in, cell.n_hidden
    if embedding:
        W_ih = W_ih @ embedding[0].T
    theta[:, :v] = W_ih
    theta[:, v : v + n] = W_hh
    theta[:, v + n] = b_ih if cell.n_terms == 2 else b_ih + b_hh
    if cell.n_terms == 2:
        theta[:, -1] = b_hh


def from_torch(net: torch.nn.RNN | torch.nn.LSTM | torch.nn.GRU) -> cells.Cell:
    """Return a cell that computes what a torch module does: a copy.

    Parameters
    ----------
    net : torch.nn.RNN, torch.nn.LSTM or torch.nn.GRU
        Of one layer and one direction, with biases and without projection; an RNN with tanh.

    Returns
    -------
    okcore.RNN, okcore.LSTM or okcore.GRU
        Of the dtype of the net. Where the cell has one bias for torch's two it is their sum.

    Raises
    ------
    TypeError, ValueError
        For a module that no cell computes, naming the option.
    """
    check_net(net)
    cell = new_cell(net, None)
    copy_parameters(parameters_of(net, None), cell)
    return cell


def to_torch(cell: cells.Cell) -> torch.nn.RNN | torch.nn.LSTM | torch.nn.GRU:
    """Return a torch module that computes what a cell does: a copy.

    Parameters
    ----------
    cell : okcore.RNN, okcore.LSTM or okcore.GRU

    Returns
    -------
    torch.nn.RNN, torch.nn.LSTM or torch.nn.GRU
        Of the cell's dtype. Where the cell has one bias for torch's two, `bias_hh_l0` is zero.

    Raises
    ------
    TypeError
        For another cell.
    """
    modules = {made: module for module, made in CELLS.items()}
    if type(cell) not in modules:
        raise TypeError(f"cell must be an okcore.RNN, LSTM or GRU, got {type(cell).__name__}")
    net = modules[type(cell)](cell.n_in, cell.n_hidden, dtype=DTYPES[cell.dtype.name])
    v, n, theta = cell.n_in, cell.n_hidden, torch.from_numpy(cell.theta)
    b_hh = theta[:, -1] if cell.n_terms == 2 else torch.zeros(len(theta), dtype=theta.dtype)
    values = theta[:, :v], theta[:, v : v + n], theta[:, v + n], b_hh
    net.load_state_dict(dict(zip(PARAMETERS, values, strict=True)))
    return net


class OnlineRNN(torch.nn.Module):
    """A torch RNN, LSTM or GRU that is stepped, with the untruncated gradient of each step's loss.

    ``h = online(x)`` takes one time step of every lane. `h` takes part in autograd: ``backward`` of a loss of this step
    fills ``.grad`` of the parameters of `net` and `embedding` as backpropagation through the whole sequence would,
    exactly or as the estimator approximates it. Parameters keep their identity: an optimizer may be made before or
    after. What it writes into them is honoured at the next step.

    Parameters
    ----------
    net : torch.nn.RNN, torch.nn.LSTM or torch.nn.GRU
        Of one layer and one direction, with biases and without projection, on the CPU; an RNN with tanh.
    estimator : str
        A name of the command line: "ok", "rtrl", "tbptt" and the others of `okcore.estimators.ESTIMATORS`.
    batch_size : int
        Lanes B.
    embedding : torch.nn.Embedding, optional
        What turns symbols into inputs of `net`. With it the input is symbols, and its gradient is untruncated too.
    rng : int, SeedSequence, Generator or None
        For the algorithms that draw.
    **options
        The estimator's own: ``rank``, ``block``, ``horizon``, ``n_threads`` and others.

    Attributes
    ----------
    net, embedding
    cell : okcore.Cell
        Whose theta is a copy of the parameters, made anew at every step.
    estimator : okcore.Estimator

    Raises
    ------
    TypeError, ValueError
        For a module that cannot be stepped, naming the option: more than one layer, bidirectional, proj_size, relu,
        bias=False; and for bad options.

    Notes
    -----
    With an embedding the cell sees one-hot symbols and theta_x = W_ih E^T. If G is the gradient with respect to
    theta_x, dE = G^T W_ih and dW_ih = G E, with W_ih and E as they were in this step.

    An RNN and an LSTM add their two biases. The cell has one, the sum; both of torch's get its gradient, as in torch.

    `state_dict` holds the lanes' states and influences too, under ``_extra_state``; ``net.state_dict()`` is a plain
    module's.

    Examples
    --------
    >>> import torch
    >>> from okcore.torch import OnlineRNN
    >>> net, head = torch.nn.GRU(3, 8), torch.nn.Linear(8, 2)
    >>> online = OnlineRNN(net, estimator="rtrl", batch_size=4)
    >>> h = online(torch.ones(4, 3))
    >>> torch.nn.functional.cross_entropy(head(h), torch.tensor([0, 1, 0, 1])).backward()
    >>> net.weight_hh_l0.grad.shape
    torch.Size([24, 8])
    """

    def __init__(
        self, net: torch.nn.RNN | torch.nn.LSTM | torch.nn.GRU, estimator: str, batch_size: int = 1,
        embedding: torch.nn.Embedding | None = None, rng: RNGLike | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        check_net(net)
        if embedding is not None:
            check_embedding(embedding, net)
        make: type[Any] = ESTIMATORS[_validation.as_choice("estimator", estimator, ESTIMATORS)]
        self.net, self.embedding = net, embedding
        self.cell = new_cell(net, embedding)
        if "rng" in inspect.signature(make).parameters:
            options["rng"] = rng
        self.estimator: Estimator = make(self.cell, batch_size=batch_size, **options)
        self._moment = 0  # counts steps and resets: which h is the newest

    def forward(self, x: torch.Tensor, reset: torch.Tensor | ArrayLike | None = None) -> torch.Tensor:
        """Take one time step of every lane and return the hidden states.

        Parameters
        ----------
        x : (B,) tensor of integers with an embedding, else (B, n_in) tensor of floats
            ``x.grad`` will be the same-step part: what x did to this step's loss, not to later ones.
        reset : (B,) tensor or array of bool, optional
            Lanes that start a new sequence before this step.

        Returns
        -------
        (B, n_hidden) tensor
            ``backward`` through it must come before the next step or reset; later it raises RuntimeError.

        Raises
        ------
        TypeError, ValueError
            For bad input, and for parameters that were moved to another dtype or device.
        FloatingPointError
            If a state or an influence overflows; names the lane and the step.
        """
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if self.embedding is not None and (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"x must be integers of shape ({self.estimator.batch_size},), got {x.dtype}")
        parameters = parameters_of(self.net, self.embedding)
        check_parameters(parameters, self.cell)
        copy_parameters(parameters, self.cell)
        h = self.estimator.step(x.detach().numpy(), None if reset is None else np.asarray(reset))
        self._moment += 1
        return NewestStep.apply(torch.from_numpy(h), self, x, *parameters.values())

    def reset(self, mask: torch.Tensor | ArrayLike | None = None) -> None:
        """Zero the state and the influence of the lanes in `mask`, a (B,) tensor or array of bool (all if None)."""
        self.estimator.reset(None if mask is None else np.asarray(mask))
        self._moment += 1

    def get_extra_state(self) -> dict[str, Any]:
        """Return the estimator's state as tensors and plain scalars, for `state_dict`."""
        state = self.estimator.state_dict()
        return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in state.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        state = {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in state.items()}
        self.estimator.load_state_dict(state)
        self._moment += 1


class NewestStep(torch.autograd.Function):
    """The hidden states of the newest step as a function of its input and of the parameters."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, online: OnlineRNN, x: torch.Tensor, *parameters: torch.nn.Parameter
    ) -> torch.Tensor:
        """Return h, already computed."""
        ctx.online, ctx.moment = online, online._moment
        if online.embedding is not None:
            ctx.save_for_backward(parameters[0], parameters[4])
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dh: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the estimator's gradients."""
        online, needed = ctx.online, ctx.needs_input_grad
        if ctx.moment != online._moment:
            raise RuntimeError(
                "backward must come before the next step or reset: this h is an earlier one")
        grads: list[torch.Tensor | None] = [None] * len(needed)
        credit, cell = dh.numpy(), online.cell
        if needed[2]:
            grads[2] = torch.from_numpy(online.estimator.input_gradient(credit))
        if any(needed[3:]):
            G, v, n = online.estimator.gradient(credit), cell.n_in, cell.n_hidden
            # The last column is b_hh's or, where the cell has only the sum of the biases, that of both
            parts = [G[:, :v], G[:, v : v + n], G[:, v + n], G[:, -1]]
            if online.embedding is not None:
                W_ih, E = (tensor.detach().numpy() for tensor in ctx.saved_tensors)
                parts += [parts[0].T @ W_ih]
                parts[0] = parts[0] @ E
            # Contiguous copies become .grad as they are; anything else torch would copy, more slowly
            grads[3:] = [torch.from_numpy(part.copy()) for part in parts]
        return tuple(grads)
