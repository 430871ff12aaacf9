"""Ctrl-C while the command line starts or ends: a line instead of a traceback.

NumPy and SciPy take half a second to import, long before `main` can handle anything. So okcore/__init__.py imports this
first, and it guards the process as it is imported, if that was started as okcore's command line.
"""

# What is imported here comes before the guard: the signal module's enums, threading and contextlib take milliseconds.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys


def is_command_line(words):
    """Return whether a process started with these words runs okcore: its script, or python -m [mpi4py -m] okcore."""
    words = iter(words[1:])
    for word in words:
        if word == "-m":
            module = next(words, None)
            if module != "mpi4py":
                return module == "okcore"
        elif word in ("-X", "-W"):
            next(words, None)
        elif not word.startswith("-"):
            return os.path.basename(word) == "okcore"
    return False


def end(number, frame):
    """Handle SIGINT: end the process at once, whatever it is importing."""
    os.write(2, b"\nokcore: interrupted\n")
    os._exit(128 + number)


def guard():
    """Handle SIGINT by `end` from here on, if this is okcore's command line and SIGINT is handled as Python does."""
    if is_command_line(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, end)
        except ValueError:
            pass  # not the main thread, whose handlers they are


class raised:
    """A context that lets SIGINT raise KeyboardInterrupt, as Python does; afterwards it is handled as before."""

    def __enter__(self):
        self.guarded = signal.getsignal(signal.SIGINT) is end
        if self.guarded:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error):
        if self.guarded:
            signal.signal(signal.SIGINT, end)


guard()
