"""Puts the project's folder on the import path, so that tests can load the numbered scripts by name."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Background jobs of a shell ignore Ctrl-C, and the scripts that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
