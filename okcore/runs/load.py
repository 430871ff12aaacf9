"""Read the folders of runs."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okcore import _validation
from okcore.runs.checkpoint import flatten


@dataclass(frozen=True)
class LoadedRun:
    """What the folder of a run holds; `load_runs` makes it.

    Attributes
    ----------
    folder : Path
    options : dict
        As resolved when the run started.
    metrics : dict of (lines,) arrays
        ``step`` is int64, all else float64, NaN where nothing was measured. What a comparison has per estimator is
        ``metrics["cosine/kf-rtrl"]`` here.
    parameters : int
        Recurrent ones.
    versions : dict
        Of okcore, Python, NumPy and others, and the machine, when the run started.
    """

    folder: Path
    options: dict[str, Any] = field(repr=False)
    metrics: dict[str, NDArray[Any]] = field(repr=False)
    parameters: int
    versions: dict[str, Any] = field(repr=False)


def load_runs(runs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[LoadedRun]:
    """Load the options and metrics of runs.

    Parameters
    ----------
    runs : str, Path, or iterable of them
        Folders of runs, and patterns such as ``"runs/*"``, of which all folders are taken.

    Returns
    -------
    list of LoadedRun
        In the order given, those of a pattern sorted. A run that is going on has the lines written so far.

    Raises
    ------
    FileNotFoundError
        If a folder holds no run or a pattern has no match.
    ValueError
        Naming file and line if a file is damaged.

    Examples
    --------
    >>> import okcore
    >>> for run in okcore.load_runs("runs/*"):                                    # doctest: +SKIP
    ...     print(run.folder, run.options["estimator"], run.metrics["loss_bits"][-1])
    """
    if isinstance(runs, (str, os.PathLike)):
        runs = [runs]
    try:
        found = [folder for name in runs for folder in _folders(name)]
    except TypeError:
        raise TypeError(f"runs must be folders or patterns, got {_validation.describe(runs)}") from None
    if not found:
        raise ValueError("runs must name at least one folder, got none")
    return [_load(folder) for folder in dict.fromkeys(found)]


def _folders(name: str | os.PathLike[str]) -> list[Path]:
    name = os.fspath(name)
    if os.path.exists(name) or not glob.has_magic(name):
        return [Path(name)]
    found = [Path(path) for path in sorted(glob.glob(name, recursive=True)) if os.path.isdir(path)]
    if not found:
        raise FileNotFoundError(f"no folder matches {name!r}")
    return found


def _load(folder: Path) -> LoadedRun:
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} must be the folder of a run, got one without a run.json")
    try:
        description = json.loads(path.read_text())
        options, parameters, versions = (description[name] for name in ("options", "parameters", "versions"))
        options["task"], options["estimator"], options["seed"]
    except (LookupError, TypeError, ValueError) as error:  # JSON's and UTF-8's errors are ValueErrors
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from None
    return LoadedRun(folder, options, _read_metrics(folder / "metrics.jsonl"), parameters, versions)


def _read_metrics(path: Path) -> dict[str, NDArray[Any]]:
    """Return {name: array} of a metrics.jsonl; half a last line, of a run that goes on or was killed, is left out."""
    lines = []
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            lines.append(_read_line(line))
        except (TypeError, ValueError) as error:
            if line.endswith(b"\n"):
                raise ValueError(f"{path}, line {number}, is damaged: {error}") from None
    names = dict.fromkeys(["step", *(name for line in lines for name in line)])
    kinds = {"step": np.int64}
    return {
        name: np.array([line.get(name, np.nan) for line in lines], kinds.get(name, np.float64)) for name in names
    }


def _read_line(text: bytes) -> dict[str, Any]:
    line = _validation.as_dict("it", json.loads(text))
    nested = {name: value for name, value in line.items() if isinstance(value, dict)}
    flat = {name: value for name, value in line.items() if name not in nested} | flatten(nested)
    _validation.as_int("step", flat.get("step"), 0, 2**63 - 1)
    for name, value in flat.items():
        if value is None:
            flat[name] = np.nan
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number or null, got {value!r}")
    return flat
