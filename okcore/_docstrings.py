"""Docstrings that share a part."""


def fill(**parts):
    """Return a class decorator that puts `parts` in place of their names in braces, each on a line of its own.

    Under ``python -OO`` there are no docstrings, and nothing is done.
    """

    def decorate(cls):
        if cls.__doc__ is not None:
            for name, text in parts.items():
                cls.__doc__ = cls.__doc__.replace(f"    {{{name}}}\n", text.strip("\n") + "\n")
        return cls

    return decorate
