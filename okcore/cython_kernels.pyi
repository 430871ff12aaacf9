from typing import Any

__pyx_capi__: dict[str, Any]  # capsules, by the names of cython_kernels.pxd
