from typing import Any

import numpy as np

from okcore._typing import FloatArray

class CellKernel:
    def __init__(
        self, n_in: int, n_hidden: int, dtype: np.dtype[Any], n_gates: int, n_state_blocks: int, n_terms: int,
        kernel: str | None,
    ) -> None: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_hidden(self) -> int: ...
    @property
    def state_size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[np.floating[Any]]: ...
    @property
    def _theta(self) -> FloatArray: ...
