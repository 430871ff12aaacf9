"""Docstrings that share a part."""

from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C", bound=type)


def fill(**parts: str) -> Callable[[C], C]:
    """Return a class decorator that puts `parts` in place of their names in braces, each on a line of its own.

    Under ``python -OO`` there are no docstrings, and nothing is done.
    """

    def decorate(cls: C) -> C:
        if cls.__doc__ is not None:
            for name, text in parts.items():
                cls.__doc__ = cls.__doc__.replace(f"    {{{name}}}\n", text.strip("\n") + "\n")
        return cls

    return decorate
