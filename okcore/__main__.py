"""python -m okcore."""

import sys

from okcore.runs.command_line import main

if __name__ == "__main__":
    sys.exit(main())
