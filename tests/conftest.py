"""Puts the project's folder on the import path, so that tests can load the numbered scripts by
name."""

import re
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Background jobs of a shell ignore Ctrl-C, and the scripts that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

PLAIN = re.compile(r"[ -~]{1,40}")  # text that is a name by itself


def pytest_make_parametrize_id(val, argname):
    """Names a parameter by what no clock, hash seed or machine can change.

    Words and numbers name themselves. All else is named by its argument, to which pytest adds a
    number where there are several: two processes that share the work must collect the same names.
    """
    if isinstance(val, (int, float, type)) or val is None:
        return None  # as pytest does
    if isinstance(val, str) and PLAIN.fullmatch(val):
        return None
    return argname


@pytest.fixture(scope="module")
def one_thread():
    """Models as small as the tests' gain nothing from two threads, and wait for each other on a
    busy machine."""
    import torch  # here: most files of tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
