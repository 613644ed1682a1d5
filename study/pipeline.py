"""`make run` and `make full`: all stages one after the other, with the minutes that they take.

python -m study.pipeline --quick
"""

import json
import os
import shlex
import subprocess
import sys
import time

from study.stages.arguments import resolve_root, root_flags, stage_parser
from study.stages.code_key import HERE
from study.stages.manifest import OPTIONAL, STAGES, is_up_to_date, load_manifest
from study.stages.process import run

REQUIRED = [name for name in STAGES if name not in OPTIONAL]


def expected_minutes(args):
    """Returns {stage: minutes} of the last run in this root, else for the short run as
    `study/estimate.py` finds, {} for the full run, whose corpus is not known."""
    manifests = {name: load_manifest(resolve_root(args), name) for name in REQUIRED}
    if all(manifests.values()):
        return {name: manifest["seconds"] / 60 for name, manifest in manifests.items()}
    if not args.quick:
        return {}
    command = [sys.executable, "-m", "study.estimate"]
    return json.loads(subprocess.check_output(command, cwd=HERE))


def minutes_of(names, expected, taken):
    """Returns the minutes that stages should take, scaled by what the others took."""
    planned = sum(expected[name] for name in taken)
    scale = sum(taken.values()) / planned if planned > 1 else 1
    return scale * sum(expected[name] for name in names)


def run_stage(name, words):
    """Runs a stage and passes its lines on, but not the hint at the next command; a stage that fails
    ends this script with its exit code."""
    command = [sys.executable, str(HERE / f"{name}.py"), *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    text = {"encoding": "utf-8", "errors": "replace"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, **text) as stage:
        try:
            for line in stage.stdout:
                if not line.startswith("next: "):
                    print(line, end="", flush=True)
        except KeyboardInterrupt as stop:
            if str(stop):  # a signal to this process alone; Ctrl-C reaches both
                stage.terminate()
            raise
    if stage.returncode:
        sys.exit(stage.returncode if stage.returncode > 0 else 128 - stage.returncode)


def main(argv=None):
    parser = stage_parser(__doc__)
    parser.add_argument("--source", metavar="SOURCE", help="of 01_download.py, which lists them")
    args = parser.parse_args(argv)
    root, began = resolve_root(args), time.monotonic()
    common = shlex.split(root_flags(args)) + ["--force"] * args.force
    if args.seed:
        common += ["--seed", str(args.seed)]
    words = dict.fromkeys(REQUIRED, common)
    if args.source is not None:
        words["01_download"] = [*common, "--source", args.source]

    def is_done(name):
        return not args.force and is_up_to_date(root, name, words[name])

    waiting, n = [name for name in REQUIRED if not is_done(name)], len(REQUIRED)
    if not waiting:
        report = os.path.relpath(root / "part4_outputs/report.html")
        return print(f"everything is up to date: {n} stages; look at: {report}")
    expected, taken = expected_minutes(args), {}
    says = "04, 05 and 07 say how long they will train"
    if expected:
        says = f"about {minutes_of(waiting, expected, taken):.0f} minutes on this machine"
    print(f"{len(waiting)} of {n} stages to run: {says}; stopped, they go on from there")
    for place, name in enumerate(REQUIRED, 1):
        if is_done(name):
            print(f"{name}: up to date", flush=True)
            continue
        started = time.monotonic()
        run_stage(name, words[name])
        now = time.monotonic()
        taken[name] = (now - started) / 60
        line = f"{place} of {n} stages done after {(now - began) / 60:.1f} minutes"
        if expected and place < n:
            left = minutes_of(REQUIRED[place:], expected, taken)
            line += f"; about {left:.0f} minutes left"
        print(line, flush=True)
    print(f"all stages: {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    run(main)
