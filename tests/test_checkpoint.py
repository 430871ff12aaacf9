"""Checkpoints: what is none is refused, and what is written is whole, on the disk, and the same to the last bit."""

import io
import os
import stat

import numpy as np
import pytest

import okcore
from okcore.runs import checkpoint
from tests.conftest import ESTIMATORS
from tests.helpers import assert_same_state, flat_state


def make_trainer():
    cell = okcore.LSTM(3, 4, rng=0)
    trainer = okcore.OnlineTrainer(cell, ESTIMATORS["ok"](cell), okcore.SoftmaxReadout(4, 3, rng=0), okcore.Adam())
    for _ in range(5):
        trainer.partial_fit([0, 2], [0, 1])
    return trainer


FORMAT = {"okcore/format": np.array(checkpoint.FORMAT)}


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a checkpoint was unpickled",)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DAMAGE = {
    "empty": lambda good: b"",
    "one byte": lambda good: good[:1],
    "half": lambda good: good[: len(good) // 2],
    "all but a byte": lambda good: good[:-1],
    "first half zero": lambda good: bytes(len(good) // 2) + good[len(good) // 2 :],
    "text": lambda good: b"this is no checkpoint\n" * 99,
    "pickle": lambda good: npy(np.array([Trap()]))[-200:],
    "npy": lambda good: npy(np.ones(3)),
    "npy with a pickle": lambda good: npy(np.array([Trap()])),
    "npz with a pickle": lambda good: npz(**FORMAT, theta=np.array([Trap()])),
    "npz of somebody else": lambda good: npz(a=np.ones(3)),
    "npz of a later format": lambda good: npz(**{"okcore/format": np.array(999)}),
    "npz without its groups": lambda good: npz(**FORMAT),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints(damage, tmp_path):
    path, trainer = tmp_path / "checkpoint.npz", make_trainer()
    trainer.save(path)
    trainer.partial_fit([1, 1], [0, 0])
    before = flat_state(trainer)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint|state"):
        trainer.load(path)
    assert_same_state(flat_state(trainer), before)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    # Every bit of one entry of the zip's directory, and some of everywhere: refused, or read as written.
    path = tmp_path / "checkpoint.npz"
    checkpoint.write(path, {"trainer": {"theta": np.arange(6.0), "steps": 3}, "task": {"kind": "Copy"}})
    good, groups = path.read_bytes(), checkpoint.read(path)
    entry = good.rindex(b"PK\1\2", 0, good.rindex(b"PK\1\2"))
    places = [(place, bit) for place in range(entry, entry + 46) for bit in range(8)]
    places += [(place, place % 8) for place in range(0, len(good), 29)]
    for place, bit in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            flat = checkpoint.flatten(checkpoint.read(path))
        except ValueError:
            continue
        assert_same_state(flat, checkpoint.flatten(groups))


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.write(path, {"a": {"b": 1}})
    good = path.read_bytes()
    with pytest.raises(ValueError, match=r"pickle|Object"):
        checkpoint.write(path, {"a": {"b": object()}})
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# ---- how it gets to the disk -------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True], ids=["new", "keeping the one before"])
def test_the_file_is_on_the_disk_before_it_takes_its_name(keep, tmp_path, monkeypatch):
    # In this order even a loss of power leaves a whole checkpoint: the data, the name, the folder that holds the name.
    path, done = tmp_path / "checkpoint.npz", []
    if keep:
        checkpoint.write(path, {"a": {"b": 0}})
    fsync, replace = os.fsync, os.replace

    def recording_fsync(handle):
        fsync(handle)
        status = os.fstat(handle)
        file = "fsync file", status.st_ino, status.st_size
        done.append(("fsync folder",) if stat.S_ISDIR(status.st_mode) else file)

    def recording_replace(source, target):
        replace(source, target)
        done.append(("replace", os.path.basename(target)))

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    checkpoint.write(path, {"a": {"b": np.arange(1000)}}, keep=True)
    written = path.stat()
    before = [("replace", "checkpoint.previous.npz")] if keep else []
    assert done == [
        ("fsync file", written.st_ino, written.st_size), *before, ("replace", "checkpoint.npz"), ("fsync folder",)
    ]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=oct)
def test_the_mode_is_that_of_any_new_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        checkpoint.write(tmp_path / "checkpoint.npz", {"a": {"b": 1}})
        (tmp_path / "another file").write_text("")
        assert os.umask(umask) == umask  # reading it has not changed it
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()]
    assert modes == [0o666 & ~umask] * 2
