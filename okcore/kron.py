"""Sums of Kronecker products J = sum_i A_i (x) u_i, A (N, S, P), u (N, m): the kernels as functions.

On x86, `contract` and `left_multiply` take denormal numbers (below 1.2e-38 in float32), which are slow there, for zero.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from okcore import _kernels, _validation
from okcore._carries import reduction
from okcore._random import as_generator
from okcore._typing import RNGLike

__all__ = ["contract", "left_multiply", "reduce", "to_dense"]

F = TypeVar("F", bound=np.floating[Any])


def __dir__() -> list[str]:
    return __all__


def _factors(A: NDArray[F]) -> NDArray[F]:
    """Return A as a contiguous array (N, S, P) of floats."""
    A = _validation.as_array("A", A)
    dtype = _validation.as_dtype("A's dtype", A.dtype)
    if A.ndim != 3 or 0 in A.shape:
        raise ValueError(f"A must have shape (N, S, P), none of them 0, got {A.shape}")
    if A.shape[1] * A.shape[2] >= 2**31:  # a factor's columns are counted in C ints
        raise ValueError(f"A must have S P below 2^31, got {A.shape[1]} x {A.shape[2]}")
    return _validation.as_floats("A", A, A.shape, dtype, finite=True)


def _terms(u: NDArray[F], A: NDArray[F]) -> tuple[NDArray[F], NDArray[F]]:
    """Return u and A as contiguous arrays of the same dtype and number of terms."""
    A = _factors(A)
    u = _validation.as_array("u", u)
    if u.ndim != 2 or 0 in u.shape:
        raise ValueError(f"u must have shape (N, m), none of them 0, got {u.shape}")
    return _validation.as_floats("u", u, (A.shape[0], u.shape[1]), A.dtype, finite=True), A


def _finite(name: str, result: NDArray[F]) -> NDArray[F]:
    """Return `result`, or raise if it is not finite."""
    if not np.isfinite(result).all():
        raise FloatingPointError(f"{name}: the result is not finite in {result.dtype}")
    return result


def to_dense(u: NDArray[F], A: NDArray[F]) -> NDArray[F]:
    """Return the dense J = sum_i A_i (x) u_i, shape (S, P, m).

    Parameters
    ----------
    u : (N, m) array
    A : (N, S, P) array

    Returns
    -------
    (S, P, m) array
        ``J.reshape(S, P * m)`` is ``sum(np.kron(A[i], u[i][None]))``.

    Examples
    --------
    >>> import numpy as np
    >>> from okcore import kron
    >>> u, A = np.ones((2, 3)), np.ones((2, 4, 5))
    >>> kron.to_dense(u, A).shape
    (4, 5, 3)
    """
    u, A = _terms(u, A)
    with np.errstate(over="ignore", invalid="ignore"):
        return _finite("to_dense", np.tensordot(A, u, axes=(0, 0)))


def contract(v: NDArray[F], u: NDArray[F], A: NDArray[F]) -> NDArray[F]:
    """Return v J = sum_i (v A_i)^T u_i, shape (P, m), without forming J.

    Parameters
    ----------
    v : (S,) array
        A credit.
    u : (N, m) array
    A : (N, S, P) array

    Returns
    -------
    (P, m) array

    Notes
    -----
    2 N S P + 2 N P m flops; limited by the time to read A once.
    """
    u, A = _terms(u, A)
    v = _validation.as_floats("v", v, A.shape[1:2], A.dtype, finite=True)
    out = np.empty((A.shape[2], u.shape[1]), A.dtype)
    _kernels.contract(v, u, A, out)
    return _finite("contract", out)


def left_multiply(H: NDArray[F], A: NDArray[F]) -> NDArray[F]:
    """Return the factors H A_i of H J.

    Parameters
    ----------
    H : (T, S) array
    A : (N, S, P) array

    Returns
    -------
    (N, T, P) array

    Notes
    -----
    2 N T S P flops.
    """
    A = _factors(A)
    H = _validation.as_array("H", H)
    if H.ndim != 2 or 0 in H.shape:
        raise ValueError(f"H must have shape (T, {A.shape[1]}), got {H.shape}")
    H = _validation.as_floats("H", H, (H.shape[0], A.shape[1]), A.dtype, finite=True)
    out = np.empty((A.shape[0], H.shape[0], A.shape[2]), A.dtype)
    _kernels.left_multiply(H, A, out)
    return _finite("left_multiply", out)


def reduce(
    u: NDArray[F], A: NDArray[F], rank: int, rng: RNGLike | None = None,
    mixing: Literal["signs", "sampling"] = "signs", signs: ArrayLike | None = None, start: float | None = None,
    tolerance: float | None = None,
) -> tuple[NDArray[F], NDArray[F]]:  # fmt: skip
    """Reduce N Kronecker terms to at most `rank`, unbiased and with the least possible variance.

    Parameters
    ----------
    u : (N, m) array
    A : (N, S, P) array
        Of the same dtype as `u`, float32 or float64; decisions are always made in float64.
    rank : int
        The most terms r that come out.
    rng : int, SeedSequence, Generator or None
        Draws `signs` or `start` if not given.
    mixing : {"signs", "sampling"}
        ``"signs"`` mixes the tail of the singular values with random signs: the squared error is s1^2 / k - s2 for
        every draw. ``"sampling"`` keeps a random subset (systematic sampling): the mean squared error is the same.
    signs : (N,) array of +1 and -1, optional
        One sign per singular component in descending order; those of kept components are unused.
    start : float in [0, 1), optional
        The random number of systematic sampling.
    tolerance : float, optional
        Keep only as many terms as it takes for the noise sqrt(s1^2 / k - s2) to be at most `tolerance` times the norm
        of J, also where N <= rank; `rank` if that is not enough. 0 drops what is exactly zero. The number of terms
        depends on the singular values alone, so the result stays unbiased.

    Returns
    -------
    u : (min(rank, N), m) array
    A : (min(rank, N), S, P) array
        Unneeded terms are zero, and the last. If no fewer than N terms are asked for, the result is a copy of them.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    FloatingPointError
        If a product of the terms overflows.

    Notes
    -----
    N^2 (S P + m) multiply-adds in float64 for the Gram matrices, 2 rank N (S P + m) flops for the mixing, and
    O(N^3) for the core. A direction that is a combination of the others to within 3e-7 is left out.

    References
    ----------
    Benzing et al. (2019), arXiv 1902.03993, section 4; Barnes, Cameron & Howard (2025), arXiv 2505.09647.

    Examples
    --------
    >>> import numpy as np
    >>> from okcore import kron
    >>> rng = np.random.default_rng(0)
    >>> u, A = rng.normal(size=(5, 3)), rng.normal(size=(5, 4, 4))
    >>> [array.shape for array in kron.reduce(u, A, rank=2, rng=0)]
    [(2, 3), (2, 4, 4)]
    """
    u, A = _terms(u, A)
    rank = _validation.as_int("rank", rank, 1)
    _validation.as_choice("mixing", mixing, ("signs", "sampling"))
    N = len(A)
    if mixing == "signs":
        if start is not None:
            raise ValueError('start belongs to mixing="sampling"')
        if signs is None:
            signs = np.where(as_generator(rng).random(N) < 0.5, -1.0, 1.0)
        signs = _validation.as_array("signs", signs)
        if signs.shape != (N,) or signs.dtype.kind not in "if" or not (np.abs(signs) == 1).all():
            raise ValueError(f"signs must be {N} values of +1 or -1, got {_validation.describe(signs)}")
        signs = np.ascontiguousarray(signs, dtype=np.float64)
        start = 0.0
    else:
        if signs is not None:
            raise ValueError('signs belong to mixing="signs"')
        start = as_generator(rng).random() if start is None else start
        start = _validation.as_real("start", start, least=0, below=1)
    if tolerance is None:
        if rank >= N:
            return u.copy(), A.copy()
        tolerance = -1.0
    else:
        tolerance = _validation.as_real("tolerance", tolerance, least=0)
    rank = min(rank, N)
    u_new, A_new = np.empty((rank, u.shape[1]), u.dtype), np.empty((rank, *A.shape[1:]), A.dtype)
    reduction.reduce(u, A, tolerance, signs, start, u_new, A_new)
    return u_new, A_new
