"""Files and folders of a run: written atomically, a folder held by one process at a time."""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]


class FolderInUse(OSError):
    """Another process works in the folder."""


def hold(folder):
    """Take a folder for this process; return what holds it, to be closed.

    The lock is the operating system's (flock), so it ends with the process, however that dies. Where the file system
    has no locks, a warning says so.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is None:
            raise OSError("this system has none")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise FolderInUse(f"the folder {str(folder)!r} is in use by another process") from None
    except OSError as error:
        warnings.warn(
            f"no lock on {str(folder)!r} ({error.strerror or error}): see to it that no second process works in it",
            stacklevel=2,
        )
    return handle


def remove_if_left(path):
    """Remove a file that a process held and left behind as it died; where there are no locks, nobody can tell."""
    with contextlib.suppress(OSError), open(path) as file:  # held by a process that lives: BlockingIOError
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(path).unlink()


def remove_partial(folder):
    """Remove what a process that was killed had not finished to write."""
    for path in Path(folder).glob("*.partial"):
        path.unlink(missing_ok=True)


def replace(path, write, keep_as=None):
    """Write a file atomically: `write(file)` writes it in binary.

    It is written under a new name in the same folder, flushed to disk and renamed. An existing file is kept as
    `keep_as` if that is given.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".partial")  # follows no link
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_text(path, text):
    """Write a text file atomically."""
    replace(path, lambda file: file.write(text.encode()))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
