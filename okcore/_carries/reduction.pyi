from typing import Any

import numpy as np
from numpy.typing import NDArray

def reduce(
    u: NDArray[Any], A: NDArray[Any], tolerance: float, signs: NDArray[np.float64] | None, start: float,
    u_new: NDArray[Any], A_new: NDArray[Any],
) -> None: ...
