"""`make run` and `make full`: all stages one after the other, with the minutes that they take.

    python -m study.pipeline --quick

What the stages print is passed on, but not their hints at the next command. Where every stage is up
to date, one line says so; the first stage that fails ends the run with its exit code.
"""

import json
import os
import subprocess
import sys
import time

from study.stages.arguments import given_words, resolve_root, stage_parser
from study.stages.code_key import HERE
from study.stages.manifest import OPTIONAL, STAGES, is_up_to_date, load_manifest
from study.stages.process import run


def names_of_stages():
    """The stages that every run has."""
    return [name for name in STAGES if name not in OPTIONAL]


def minutes_before(root):
    """Returns {stage: minutes} of the last run in this root, as the manifests tell."""
    manifests = {name: load_manifest(root, name) for name in names_of_stages()}
    return {name: kept["seconds"] / 60 for name, kept in manifests.items() if kept}


def expected_minutes(args):
    """Returns {stage: minutes} that a run should take on this machine: of the short run.

    Where the root has no run yet, a process of its own times a few steps of training. Empty for
    the full run, whose corpus nobody knows before it is here.
    """
    before = minutes_before(resolve_root(args))
    if set(before) == set(names_of_stages()):
        return before
    if not args.quick:
        return {}
    command = [sys.executable, "-m", "study.estimate"]
    timed = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, check=True)
    return json.loads(timed.stdout)


class Progress:
    """What has been done and what is left, in minutes.

    What is left is scaled by how the stages so far kept to what was expected of them: a machine
    that grows slow, or was timed in a good moment, is found out.
    """

    def __init__(self, expected):
        self.expected, self.taken, self.began = expected, {}, time.monotonic()

    def done(self, name, seconds):
        """Counts a stage that ran, and returns a line about it."""
        self.taken[name] = seconds / 60
        minutes = (time.monotonic() - self.began) / 60
        names = names_of_stages()
        left = names[names.index(name) + 1 :]
        line = f"{len(names) - len(left)} of {len(names)} stages done after {minutes:.1f} minutes"
        if left and self.expected:
            line += f"; about {self.minutes_of(left):.0f} minutes left"
        return line

    def minutes_of(self, names):
        """Returns the minutes that stages should take, by what the others took."""
        known = [name for name in self.taken if self.expected.get(name)]
        planned = sum(self.expected[name] for name in known)
        scale = sum(self.taken[name] for name in known) / planned if planned > 1 else 1
        return scale * sum(self.expected.get(name, 0) for name in names)


def run_stage(name, words):
    """Runs a stage and passes its lines on, but not the hint at the next command.

    Returns False if the stage found itself up to date. Ends this script with the stage's exit code
    if that is not 0.
    """
    command, worked = [sys.executable, str(HERE / f"{name}.py"), *words], True
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as stage:
        try:
            for line in stage.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                if text == f"{name}: up to date":
                    worked = False
                    print(text, flush=True)
                elif worked and not text.startswith("next: "):
                    print(text, flush=True)
        except KeyboardInterrupt as stop:
            if str(stop):  # a signal to this process alone; Ctrl-C reaches both
                stage.terminate()
            raise
    if stage.returncode:
        sys.exit(stage.returncode if stage.returncode > 0 else 128 - stage.returncode)
    return worked


def without_source(words):
    """Words of a command line without --source and its value, which stage 01 alone takes.

    >>> without_source(["--quick", "--source", "openscore", "--seed", "1"])
    ['--quick', '--seed', '1']
    """
    kept = [word for word in words if not word.startswith("--source=")]
    if "--source" in kept:
        at = kept.index("--source")
        del kept[at : at + 2]
    return kept


def main(argv=None):
    parser = stage_parser(__doc__)
    parser.add_argument("--source", metavar="SOURCE", help="of 01_download.py, which lists them")
    args = parser.parse_args(argv)
    root, names = resolve_root(args), names_of_stages()
    common = without_source(given_words(args))
    words = dict.fromkeys(names, common)
    if args.source is not None:
        words["01_download"] = [*common, "--source", args.source]

    def is_done(name):
        return not args.force and is_up_to_date(root, name, words[name])

    waiting = [name for name in names if not is_done(name)]
    if not waiting:
        report = os.path.relpath(root / "part4_outputs/report.html")
        print(f"everything is up to date: {len(names)} stages; look at: {report}")
        return
    expected = expected_minutes(args)
    progress = Progress(expected)
    says = "04, 05 and 07 say how long they will train"
    if expected:
        says = f"about {progress.minutes_of(waiting):.0f} minutes on this machine"
    print(f"{len(waiting)} of {len(names)} stages to run: {says}; stopped, they go on from there")
    for name in names:
        if is_done(name):
            print(f"{name}: up to date", flush=True)
            continue
        began = time.monotonic()
        if run_stage(name, words[name]):
            print(progress.done(name, time.monotonic() - began), flush=True)
    print(f"all stages: {(time.monotonic() - progress.began) / 60:.1f} minutes")


if __name__ == "__main__":
    run(main)
