"""Progress bars: on a terminal, and in a notebook, whose standard error is none."""

import sys
import warnings
from typing import Any


def is_watched() -> bool:
    """Return whether there is somebody to see a progress bar."""
    return sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules  # the process is a notebook's


def progress_bar(show: bool | None = None, **options: Any) -> Any:
    """Return a bar of tqdm, in a notebook as a widget if it has ipywidgets.

    Parameters
    ----------
    show : bool, optional
        By default it is shown if `is_watched`.
    **options
        Of ``tqdm.tqdm``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns in a notebook without ipywidgets
        from tqdm.auto import tqdm
    return tqdm(disable=not (is_watched() if show is None else show), **options)
