"""Stage 01 as a user starts it, but for short waits when a connection breaks or is silent."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from study.prepare import fetch
from study.stages.process import run

if __name__ == "__main__":
    fetch.WAIT_SECONDS, fetch.TIMEOUT_SECONDS = 0.01, 1
    sys.argv[0] = "01_download.py"
    run(importlib.import_module("01_download").main)
