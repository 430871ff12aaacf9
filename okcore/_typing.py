"""Types that the annotations of the public interface share."""

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

# float32 or float64, as the cell's dtype says, which is known only as the program runs
FloatArray: TypeAlias = NDArray[np.floating[Any]]

# What random streams are made from
RNGLike: TypeAlias = int | np.integer[Any] | np.random.SeedSequence | np.random.Generator


class Stream(Protocol):
    """What a trainer fits: an iterator of (x, y, reset) that is told each loss."""

    def __next__(self) -> tuple[ArrayLike, ArrayLike, ArrayLike | None]: ...

    def observe(self, loss_bits: float, /) -> object: ...
