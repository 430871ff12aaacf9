"""Tasks: endless streams of (x, y, reset) for the lanes of an online trainer."""

from okcore.tasks._base import TASKS, Task, task
from okcore.tasks._copy import Copy
from okcore.tasks._delay import Delay
from okcore.tasks._ptb import ptb
from okcore.tasks._series import Series, mackey_glass
from okcore.tasks._text import Text, python_docs

__all__ = ["TASKS", "Copy", "Delay", "Series", "Task", "Text", "mackey_glass", "ptb", "python_docs", "task"]
