"""Checkpoints: one .npz file without pickle, written atomically; the previous one can be kept."""

import io
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

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


def write(path, groups, keep=False):
    """Write {group: {name: array or plain scalar}} to `path`, atomically.

    The file is written under another name in the same folder, flushed to disk and renamed. With `keep`, an existing
    file is kept as ``<name>.previous.npz``.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            flat = flatten(groups)
            np.savez(file, allow_pickle=False, **{"okcore/format": FORMAT, "okcore/entries": len(flat)}, **flat)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        if keep and path.exists():
            os.replace(path, previous(path))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read(path):
    """Return the groups in `path`; a file that is damaged or not a checkpoint raises ValueError."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"checkpoint must be a file, got the folder {str(path)!r}")
    data = Path(path).read_bytes()
    try:
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


def read_newest(path):
    """Return `read(path)`, or, with a warning, the previous checkpoint if that file is damaged or missing.

    A damaged file is renamed to ``<name>.damaged.npz``, so that it cannot replace the sound one.
    """
    path = Path(path)
    try:
        return read(path)
    except (ValueError, FileNotFoundError) as error:
        if not previous(path).exists():
            raise
        groups = read(previous(path))
        warnings.warn(f"{error}; using the previous checkpoint", stacklevel=2)
        if path.exists():
            os.replace(path, path.with_name(path.stem + ".damaged" + path.suffix))
        return groups
