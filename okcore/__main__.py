"""python -m okcore."""

import sys

from okcore.cli import main

sys.exit(main())
