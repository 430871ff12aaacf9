"""What a run prints, and the signals that stop it."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

INCOMPLETE = 75        # exit status EX_TEMPFAIL: try again
SILENCED: set[object] = set()  # streams that nobody can read any more


@contextlib.contextmanager
def stop_signals(stopped, then=None):
    """Record SIGINT, SIGTERM and SIGHUP in the list `stopped`, so that the run can finish its step and save.

    `then()` is called for each. A signal that is ignored (nohup) stays ignored.
    """

    def stop(number, frame):
        stopped.append(signal.Signals(number).name)
        if then is not None:
            then()

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # signals are the main thread's
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(*text, file=None):
    """Print a line, to standard output unless told; return whether somebody can read it."""
    file = sys.stdout if file is None else file
    if file in SILENCED:
        return False
    try:
        print(*text, file=file, flush=True)
        return True
    except OSError:
        silence(file)
        return False


def silence(stream):
    """Send a stream that cannot be written to, a closed pipe or a lost terminal, to nowhere.

    What it still holds would otherwise fail as Python flushes it at its end, and give another exit status.
    """
    SILENCED.add(stream)
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def called():
    """Return the shell command that starts this program, so that printed hints can be copied."""
    script = Path(sys.argv[0])
    if script.name != "okcore":
        return f"{sys.executable} -m okcore"
    found = shutil.which("okcore")
    return "okcore" if found and Path(found).resolve() == script.resolve() else str(script)


class Forgiving:
    """Standard error for a progress bar: a terminal that has gone is no reason to end a run halfway through a step."""

    encoding = property(lambda self: sys.stderr.encoding)

    def write(self, text):
        """Write what can be written."""
        try:
            sys.stderr.write(text)
        except OSError:
            silence(sys.stderr)

    def flush(self):
        """Flush what can be flushed."""
        try:
            sys.stderr.flush()
        except OSError:
            silence(sys.stderr)

    def isatty(self):
        """Return whether it is a terminal."""
        return sys.stderr.isatty()

    def fileno(self):
        """Return the descriptor, for the width of the terminal."""
        return sys.stderr.fileno()
