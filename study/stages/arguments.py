"""The command line that all scripts share: flags, and kinds of values.

A value that makes no sense ends the script with one sentence and exit code 1.

    parser.add_argument("--timeout", type=number(above=0), metavar="SECONDS")
"""

import argparse
import contextlib
import math
import shlex
import sys
from pathlib import Path

from study.stages.code_key import HERE

MAX_SEED = 2**62 - 1  # torch and NumPy take it plus the first seed of any set of samples


def fail(stage, problem, mend=None):
    """Ends the script with one message on stderr and exit code 1."""
    sys.exit(f"{stage}: {problem}" + (f"\n  -> {mend}" if mend else ""))


@contextlib.contextmanager
def mended_by(stage, mend, what="", kind=ValueError):
    """Turns errors of a kind into one message with the mend, and the end of the script."""
    try:
        yield
    except kind as problem:
        fail(stage, f"{what}{problem}", mend)


class _Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, and the `words` that it read in the result."""

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        parsed.words = list(sys.argv[1:] if args is None else args)
        return parsed

    def error(self, message):
        fail(self.prog, message.removeprefix("argument "), f"see: python {self.prog} --help")


def stage_parser(doc, training=False):
    """Returns a parser with the flags of every stage; doc: the script's docstring."""
    parser = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    root = "folder of data/, checkpoints/, part4_outputs/ (default: the scripts'; --quick: quick/)"
    add("--root", type=folder, metavar="DIR", help=root)
    small = "small budgets on the embedded corpus: the whole pipeline in minutes"
    add("--quick", action="store_true", help=small)
    add("--force", action="store_true", help="run even if the outputs are up to date")
    seed = "seed of every random choice (default: 0)"
    add("--seed", type=whole(0, MAX_SEED), default=0, metavar="N", help=seed)
    if training:
        where = "where to compute (default: auto = cuda, else mps, else cpu)"
        add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help=where)
    return parser


def whole(least=0, most=math.inf):
    """Makes a kind of argument: a whole number from `least` to `most`."""
    return lambda text: _within(text, int, "no whole number", least, most)


def number(least=-math.inf, most=math.inf, above=-math.inf):
    """Makes a kind of argument: a finite number within bounds."""
    return lambda text: _within(text, float, "no number", least, most, above)


def _within(text, convert, otherwise, least, most, above=-math.inf):
    try:
        value = convert(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is {otherwise}") from None
    problems = {
        "not finite": isinstance(value, float) and not math.isfinite(value),
        f"not above {above:g}": value <= above,
        f"below {least:g}": value < least,
        f"above {most:g}": value > most,
    }
    for problem, is_true in problems.items():
        if is_true:
            raise argparse.ArgumentTypeError(f"{text} is {problem}")
    return value


def list_of(kind):
    """Makes a kind of argument: values of one kind, separated by commas."""
    return lambda text: [kind(part.strip()) for part in text.split(",")]


def name_list(text):
    """Reads names separated by commas, none of them empty; returns the text."""
    if not all(part.strip() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return text


def folder(text):
    """Reads the path of a folder, which need not be there yet."""
    path = Path(text)
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no folder")
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise argparse.ArgumentTypeError(f"{part} is a file, not a folder")
    return path


def existing(text):
    """Reads the path of a file or folder that is there."""
    path = Path(text)
    if not text or not path.exists():
        name = text or "an empty name"
        raise argparse.ArgumentTypeError(f"{name}: there is no such file or folder")
    return path


def resolve_root(args):
    """Returns the folder that holds data/, checkpoints/ and part4_outputs/."""
    if args.root:
        return Path(args.root).resolve()
    return HERE / "quick" if args.quick else HERE


def root_flags(args):
    """Returns the flags for another command on the same root, quoted for a shell."""
    flags = " --quick" if args.quick else ""
    return flags + (f" --root {shlex.quote(str(args.root))}" if args.root else "")
