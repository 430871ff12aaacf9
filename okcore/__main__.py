"""python -m okcore."""

import sys

from okcore.runs.command_line import main

sys.exit(main())
