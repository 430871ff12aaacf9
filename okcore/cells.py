"""The built-in recurrent cells, and the base class for a cell of your own."""

from __future__ import annotations

import copyreg
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from okcore import _validation
from okcore._docstrings import fill
from okcore._engine.cell_kernel import CellKernel
from okcore._kernels import cell_sizes
from okcore._random import initial_values
from okcore._typing import FloatArray, RNGLike

__all__ = ["GRU", "LSTM", "RHN", "RNN", "Cell"]

PARAMETERS = """
    Parameters
    ----------
    n_in : int
        Inputs v.
    n_hidden : int
        Hidden units n.
    dtype : {float32, float64}
        Of parameters, states and gradients.
    rng : int, SeedSequence, Generator or None
        Draws the initial theta.
    init : {"uniform", "normal", "zeros"}
        ``"uniform"`` is torch's U(-1/sqrt(n), 1/sqrt(n)); ``"normal"`` is N(0, scale^2).
    scale : float
        Standard deviation for ``init="normal"``; 0.01 is that of the OK paper.

    Attributes
    ----------
    theta : (P, m) ndarray
        Recurrent parameters ``[W_x | W_h | b]``, or ``[W_x | W_h | b_ih | b_hh]`` for a cell with two terms.
        One fixed buffer: write into it, or assign to it to copy into it.
    n_in, n_hidden, n_gates, state_size : int
    dtype : numpy.dtype
"""


@fill(parameters=PARAMETERS)
class Cell(CellKernel):
    """A recurrent cell that is pointwise in its pre-activations; holds theta and nothing of a run.

    {parameters}

    Notes
    -----
    A subclass in plain NumPy sets the three class attributes below and defines ``pointwise``; see
    ``docs/extending.md``.

    * ``n_gates`` (G): blocks of n pre-activations.
    * ``n_state_blocks`` (k): blocks of n in the state, the hidden state h first.
    * ``n_terms`` (q): 1 if the cell sees W_x x + W_h h + b as one sum, 2 if it needs W_x x + b_ih and
      W_h h + b_hh apart.
    """

    n_gates: int = 1
    n_state_blocks: int = 1
    n_terms: int = 1
    # The name of the compiled step in _simd/cells.h; None: the method `pointwise`
    _kernel: str | None = None
    # (name, blocks) of d and c that the compiled step does not write: the tape is made with zeros
    _always_zero: tuple[tuple[str, Any], ...] = ()

    def __init__(
        self, n_in: int, n_hidden: int, dtype: DTypeLike = np.float32, rng: RNGLike | None = None,
        init: Literal["uniform", "normal", "zeros"] = "uniform", scale: float = 0.01,
    ) -> None:  # fmt: skip
        n_in = _validation.as_int("n_in", n_in, 1)
        n_hidden = _validation.as_int("n_hidden", n_hidden, 1)
        self._allocate(n_in, n_hidden, _validation.as_dtype("dtype", dtype))
        self._theta[...] = initial_values(self._theta.shape, n_hidden, init, scale, rng)

    def _allocate(self, n_in: int, n_hidden: int, dtype: np.dtype[Any]) -> None:
        """Make theta, zero, and bind the step."""
        sizes = {
            "n_gates": _validation.as_int("n_gates", self.n_gates, 1),
            "n_state_blocks": _validation.as_int("n_state_blocks", self.n_state_blocks, 1),
            "n_terms": _validation.as_int("n_terms", self.n_terms, 1, 2),
        }
        rows, widest = sizes["n_gates"] * n_hidden, max(
            n_in + n_hidden + sizes["n_terms"], sizes["n_state_blocks"] * n_hidden
        )
        if rows * widest >= 2**31:  # BLAS counts the columns of a lane's factors in C ints
            raise ValueError(f"n_hidden and n_in must keep P m and S P below 2^31, got P = {rows}, {widest} columns")
        compiled: type[Cell] = next(cls for cls in type(self).__mro__ if "_kernel" in vars(cls) or cls is Cell)
        kernel = self._kernel if type(self).pointwise is compiled.pointwise else None  # a subclass's own step counts
        if kernel is not None:
            for name, size in sizes.items():
                if size != getattr(compiled, name):
                    raise ValueError(f"{name} must be {getattr(compiled, name)}, as in {compiled.__name__}, got {size}")
        super().__init__(n_in, n_hidden, dtype, **sizes, kernel=kernel)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"sizes": (self.n_in, self.n_hidden, self.dtype), "theta": self.theta, "attributes": self.__dict__}
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]  # typeshed has it not

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["attributes"])
        self._allocate(*state["sizes"])
        self._theta[...] = state["theta"]

    @property
    def theta(self) -> FloatArray:
        """Recurrent parameters, (P, m): one fixed buffer."""
        return self._theta

    @theta.setter
    def theta(self, value: ArrayLike) -> None:
        if value is not self._theta:  # `cell.theta -= g` has already written into the buffer
            self._theta[...] = _validation.as_floats("theta", value, self._theta.shape, self.dtype, finite=True)

    def pointwise(
        self, pre: NDArray[Any], state: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        r"""Step all lanes: the new state and the diagonals of its Jacobians.

        Parameters
        ----------
        pre : (lanes, q, G, n) array
            Pre-activations of each term.
        state : (lanes, k, n) array
            Previous state.

        Returns
        -------
        state : (lanes, k, n) array
        d : (lanes, q, k, G, n) array
            ``d[b, j, a, g, i]`` is the derivative of ``state[b, a, i]`` by ``pre[b, j, g, i]``.
        c : (lanes, k, k, n) array
            ``c[b, a, e, i]`` is the derivative of the new ``state[b, a, i]`` by the old ``state[b, e, i]``,
            pre-activations held fixed.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pointwise(pre, state)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_in={self.n_in}, n_hidden={self.n_hidden}, dtype={self.dtype})"


# Every built-in cell, by the name the command line calls it. This is the one register: the command line's choices, the
# tests and the benchmarks follow it.
CELLS: dict[str, type[Cell]] = {}

C = TypeVar("C", bound=type[Cell])


def compiled(cls: C) -> C:
    """Register a built-in cell under its name in small letters, which is that of its step in _simd/cells.h."""
    name = cls.__name__.lower()
    cls.n_gates, cls.n_state_blocks, cls.n_terms = cell_sizes(name)
    cls._kernel = name
    CELLS[name] = cls
    return fill(parameters=PARAMETERS)(cls)


@compiled
class RNN(Cell):
    """The simple recurrent network, h = tanh(W_x x + W_h h' + b).

    {parameters}
    """


@compiled
class RHN(Cell):
    """Recurrent highway network of depth 1 with coupled gates, h = f h' + (1 - f) z (the OK paper's cell).

    Rows of theta are [z; f]: z = 2 sigmoid(a_z) - 1, f = sigmoid(a_f).

    {parameters}
    """


@compiled
class LSTM(Cell):
    """Long short-term memory with torch's equations and gate order i, f, g, o; state [h, c].

    c = f c' + i g, h = o tanh(c). Torch's two biases are folded into one.

    {parameters}
    """

    _always_zero = ("d", np.s_[..., 1, 3, :]), ("c", np.s_[..., 0, :])  # dc/da_o; dh/dh' and dc/dh'


@compiled
class GRU(Cell):
    """Gated recurrent unit with torch's equations ("reset after") and gate order r, z, n.

    h = (1 - z) n + z h' with n = tanh(W_nx x + b_in + r (W_nh h' + b_hn)); both of torch's biases are kept.

    {parameters}
    """
