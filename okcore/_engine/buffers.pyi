from typing import Any

from numpy.typing import DTypeLike, NDArray

def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]: ...

class Buffers: ...
