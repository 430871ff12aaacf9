"""Random streams: one child of the seed per lane, so that a lane's draws depend only on its own past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okcore._typing import RNGLike
from okcore._validation import as_choice, as_floats, as_int, as_real, describe


def as_seed_sequence(rng: RNGLike | None) -> np.random.SeedSequence:
    """Return the SeedSequence behind an int, a SeedSequence, a Generator or None."""
    if isinstance(rng, np.random.SeedSequence):
        return rng
    if isinstance(rng, np.random.Generator):
        seed = getattr(rng.bit_generator, "seed_seq", None)
        return seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(int(rng.integers(2**63)))
    if rng is None:
        return np.random.SeedSequence()
    try:
        return np.random.SeedSequence(as_int("rng", rng, 0))
    except TypeError:
        raise TypeError(f"rng must be an int, a SeedSequence, a Generator or None, got {describe(rng)}") from None


def as_generator(rng: RNGLike | None) -> np.random.Generator:
    """Return a Generator from an int, a SeedSequence, a Generator (itself) or None."""
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.Generator(np.random.PCG64(as_seed_sequence(rng)))


def initial_values(
    shape: tuple[int, ...], n_hidden: int, init: str, scale: float, rng: RNGLike | None
) -> NDArray[np.float64]:
    """Return initial parameters: U(-1/sqrt(n), 1/sqrt(n)) ("uniform"), N(0, scale^2) ("normal"), or "zeros"."""
    as_choice("init", init, ("uniform", "normal", "zeros"))
    scale = as_real("scale", scale, least=0, below=1e37)  # ten times as large is still finite in float32
    generator, bound = as_generator(rng), 1 / np.sqrt(n_hidden)
    if init == "uniform":
        return generator.uniform(-bound, bound, shape)
    return generator.normal(0, scale, shape) if init == "normal" else np.zeros(shape)


def lane_generators(rng: RNGLike | None, batch_size: int, first_lane: int = 0) -> list[np.random.Generator]:
    """Return one PCG64 Generator per lane, from child `first_lane` of `rng`'s seed on."""
    if isinstance(rng, np.random.Generator):  # as in NumPy, a Generator counts its children, those before these too
        children = as_seed_sequence(rng).spawn(first_lane + batch_size)[first_lane:]
    else:
        seed = as_seed_sequence(rng)
        children = [
            np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, lane), pool_size=seed.pool_size)
            for lane in range(first_lane, first_lane + batch_size)
        ]
    return [np.random.Generator(np.random.PCG64(child)) for child in children]


def get_states(generators: Sequence[np.random.Generator]) -> NDArray[np.uint64]:
    """Return the streams' positions, (len(generators), 6) words."""
    words = np.empty((len(generators), 6), np.uint64)
    for row, generator in zip(words, generators, strict=True):
        state = generator.bit_generator.state
        position, increment = state["state"]["state"], state["state"]["inc"]
        low = 2**64 - 1
        row[:] = (
            position >> 64, position & low, increment >> 64, increment & low, state["has_uint32"], state["uinteger"]
        )
    return words


def as_states(name: str, value: Any, count: int) -> NDArray[np.uint64]:
    """Return the positions of `count` streams, as `get_states` does; refuse words that no stream has.

    PCG64's increment is odd. With an even one the stream may repeat one number forever, and a draw that rejects it
    never ends.
    """
    words = as_floats(name, value, (count, 6), np.dtype(np.uint64))
    if (words[:, 3] % 2 == 0).any() or (words[:, 4] > 1).any() or (words[:, 5] >= 2**32).any():
        raise ValueError(f"{name} must hold positions of PCG64 streams, got {words.tolist()}")
    return words


def set_states(generators: Sequence[np.random.Generator], words: NDArray[np.uint64]) -> None:
    """Restore streams' positions that `as_states` has checked."""
    for generator, row in zip(generators, words, strict=True):
        word = [int(w) for w in row]
        generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": word[0] << 64 | word[1], "inc": word[2] << 64 | word[3]},
            "has_uint32": word[4],
            "uinteger": word[5],
        }
