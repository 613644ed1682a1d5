"""Runs, numbers and pages: the stage contract, training, fits, sampling, results and the report."""

# Every script imports from here first, so an old Python ends in this sentence rather than in a
# traceback from some library. This file must stay readable for the oldest.
import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Python 3.11 or newer is needed, and this is %d.%d\n  -> run: make PYTHON=python3.11 run,"
        " or give that Python in place of this one"
        % sys.version_info[:2]
    )
