"""Tasks: endless streams of (x, y, reset) for the lanes of an online trainer."""

from okcore.tasks._base import Task
from okcore.tasks._copy import Copy
from okcore.tasks._text import Text, python_docs

__all__ = ["Copy", "Task", "Text", "python_docs"]
