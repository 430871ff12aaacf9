"""Ctrl-C while the command line starts and ends: a line and status 130, no traceback."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from okcore import _interrupt
from tests.test_runs import SMALL

SCRIPT = Path(sys.executable).with_name("okcore")
STARTS = {"module": ["-m", "okcore"], "script": [str(SCRIPT)]}


@pytest.mark.parametrize("words, yes", [
    ("python -m okcore train copy", True),
    ("python -X dev -W error -u -m okcore train -m other", True),
    ("python -m mpi4py -m okcore train copy", True),
    ("python /somewhere/bin/okcore train copy", True),
    ("python", False), ("python -m", False), ("python -m pytest okcore", False), ("python -m mpi4py -m other", False),
    ("python script.py -m okcore", False), ("python -c pass okcore", False), ("python -X okcore", False),
])  # fmt: skip
def test_only_the_command_line_is_guarded(words, yes):
    assert _interrupt.is_command_line(words.split()) == yes


def test_no_handler_of_others_is_touched(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    try:
        monkeypatch.setattr(sys, "orig_argv", ["python", "script.py"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _interrupt.guard()  # not okcore's process
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "okcore"])
        for handler in (signal.SIG_IGN, lambda number, frame: None):
            signal.signal(signal.SIGINT, handler)
            _interrupt.guard()
            with _interrupt.raised():
                assert signal.getsignal(signal.SIGINT) is handler
            assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
        thread = threading.Thread(target=_interrupt.guard)  # handlers are the main thread's
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        _interrupt.guard()
        assert signal.getsignal(signal.SIGINT) is _interrupt.end
        with pytest.raises(KeyboardInterrupt), _interrupt.raised():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is _interrupt.end
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not SCRIPT.exists(), reason="okcore's script is not installed beside this Python")
@pytest.mark.parametrize("how", STARTS)
def test_ctrl_c_at_any_time_is_no_traceback(how, tmp_path):
    def interrupted(number):
        after = 0.6 * (number / 12)  # to beyond the start of training, wherever that is on this machine
        arguments = ["train", "copy", *SMALL, "--steps", 200_000, "--out", tmp_path / str(number)]
        words = [sys.executable, "-X", "importtime", *STARTS[how], *map(str, arguments)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:  # one line for each module that was imported
                if line.endswith("okcore._interrupt\n"):
                    break
            time.sleep(0.01 + after)
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        assert process.returncode in (0, 130)
        assert ("okcore: interrupted" in errors) if process.returncode else ("Stopped by SIGINT" in said), errors
        return process.returncode

    with ThreadPoolExecutor(2) as pool:
        assert 130 in list(pool.map(interrupted, np.arange(12)))
