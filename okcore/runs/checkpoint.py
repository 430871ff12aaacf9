"""Checkpoints: one .npz file without pickle, written atomically; the previous one can be kept."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from okcore.runs import files

FORMAT = 1


def flatten(groups):
    """Return {group: {name: value}} as {"group/name": value}."""
    return {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}


def unflatten(flat):
    """Undo `flatten`."""
    groups = {}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    return groups


def previous(path):
    """Return the path of the checkpoint that `path` replaced."""
    path = Path(path)
    return path.with_name(path.stem + ".previous" + path.suffix)


def write(path: str | os.PathLike[str], groups: dict[str, dict[str, Any]], keep: bool = False) -> None:
    """Write {group: {name: array or plain scalar}} to `path`, atomically.

    With `keep`, an existing file is kept as ``<name>.previous.npz``.
    """
    flat = flatten(groups)
    entries = {"okcore/format": FORMAT, "okcore/entries": len(flat)}
    files.replace(
        path, lambda file: np.savez(file, allow_pickle=False, **entries, **flat), previous(path) if keep else None
    )


def read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Return the groups in `path`; a file that is damaged or not a checkpoint raises ValueError."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"checkpoint must be a file, got the folder {str(path)!r}")
    data = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:  # stored as they are: none unpacks to more than the file
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
                raise ValueError("it is compressed")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            flat = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors for damaged files
        raise ValueError(f"{str(path)!r} is damaged or is not a checkpoint: {error}") from None
    groups = unflatten({name: value.item() if value.ndim == 0 else value for name, value in flat.items()})
    own = groups.pop("okcore", {})
    if own.get("format") != FORMAT:
        raise ValueError(f"checkpoint {str(path)!r} must be of okcore's format {FORMAT}, got {own.get('format')}")
    if own.get("entries") != len(flat) - 2:
        raise ValueError(f"checkpoint {str(path)!r} is damaged: it must hold {own.get('entries')} entries")
    return groups


def read_newest(path, held=True):
    """Return `read(path)`, or, with a warning, the previous checkpoint if that file is damaged or missing.

    A damaged file is renamed to ``<name>.damaged.npz``, so that it cannot replace the sound one. If this process does
    not hold the folder (`held`), nothing is renamed, and a file that is missing is no news: another process may be
    about to put it there.
    """
    path = Path(path)
    try:
        return read(path)
    except (ValueError, FileNotFoundError) as error:
        if not previous(path).exists():
            raise
        groups = read(previous(path))
        if held or not isinstance(error, FileNotFoundError):
            warnings.warn(f"{error}; using the previous checkpoint", stacklevel=2)
        if held and path.exists():
            os.replace(path, path.with_name(path.stem + ".damaged" + path.suffix))
        return groups
