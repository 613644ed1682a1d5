"""Puts the project's folder on the import path, so that tests can load the numbered scripts by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
