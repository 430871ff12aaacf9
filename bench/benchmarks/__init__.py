import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # asv imports this package without its parent, where measure.py is
