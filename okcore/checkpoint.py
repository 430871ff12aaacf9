"""Checkpoints: one .npz, no pickle, never half written, the one before kept."""

import os
import tempfile
import warnings
import zipfile
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
    """Return the path of the checkpoint before `path`."""
    path = Path(path)
    return path.with_name(path.stem + ".previous" + path.suffix)


def write(path, groups, keep=False):
    """Write {group: {name: array or plain scalar}} to `path`, all of it or nothing.

    The file is written under another name in the same folder, flushed to disk and renamed.  With `keep` a file
    that was there stays as ``<name>.previous.npz``.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **{"okcore/format": FORMAT}, **flatten(groups))
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
    """Return the groups in `path`; a file that is damaged or foreign raises ValueError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            flat = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged or is none: {error}") from None
    groups = unflatten({name: value.item() if value.ndim == 0 else value for name, value in flat.items()})
    found = groups.pop("okcore", {}).get("format")
    if found != FORMAT:
        raise ValueError(f"checkpoint {str(path)!r} must be of okcore's format {FORMAT}, got {found}")
    return groups


def read_newest(path):
    """Return `read(path)`, or with a warning the checkpoint before it if the newest is damaged or missing."""
    try:
        return read(path)
    except (ValueError, FileNotFoundError) as error:
        if not previous(path).exists():
            raise
        warnings.warn(f"{error}; going on from the checkpoint before it", stacklevel=2)
        return read(previous(path))
