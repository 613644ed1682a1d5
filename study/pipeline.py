"""`make run` and `make full`: all stages one after the other, with the minutes to expect and the
minutes it took.

    python -m study.pipeline --quick

What the stages print is passed on, but not their hints at the next command. Where every stage is up
to date, one line says so; the first stage that fails ends the run with its exit code.
"""

import os
import subprocess
import sys
import time

from study.stages.arguments import resolve_root, stage_parser
from study.stages.stage import HERE, OPTIONAL, STAGES, given_words, load_manifest, run

QUICK_MINUTES = 18  # of `make run` on two cores; said until a run has left its own times


def expected_minutes(root, quick):
    """What a run of all stages will take, in words: as the last one here did, as measured
    elsewhere, or not known."""
    manifests = [load_manifest(root, name) for name in names_of_stages()]
    if all(manifests):
        minutes = sum(manifest["seconds"] for manifest in manifests) / 60
        return f"all of them took {minutes:.0f} minutes here the last time"
    return (
        f"about {QUICK_MINUTES} minutes on two cores"
        if quick
        else "04, 05 and 07 say how long they will train"
    )


def names_of_stages():
    """The stages that every run has."""
    return [name for name in STAGES if name not in OPTIONAL]


def run_stage(name, words, held):
    """Runs a stage and passes its lines on. Returns True if it was up to date: its line then goes
    to `held`, the lines that wait until a stage has work to do. Ends this script with the stage's
    exit code if that is not 0."""
    command, up_to_date = [sys.executable, str(HERE / f"{name}.py"), *words], False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as stage:
        try:
            for line in stage.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                if text == f"{name}: up to date":
                    up_to_date = True
                    held.append(text)
                elif not (text.startswith("next: ") or up_to_date):
                    while held:
                        print(held.pop(0))
                    print(text, flush=True)
        except KeyboardInterrupt as stop:
            if str(stop):  # a signal to this process alone; Ctrl-C reaches both
                stage.terminate()
            raise
    if stage.returncode:
        sys.exit(stage.returncode if stage.returncode > 0 else 128 - stage.returncode)
    return up_to_date


def main(argv=None):
    args = stage_parser(__doc__).parse_args(argv)
    root, began = resolve_root(args), time.monotonic()
    held = [f"seven stages: {expected_minutes(root, args.quick)}; stopped, they go on from there"]
    idle = [run_stage(name, given_words(args), held) for name in names_of_stages()]
    if all(idle):
        report = os.path.relpath(root / "part4_outputs/report.html")
        print(f"everything is up to date: {len(idle)} stages; look at: {report}")
    else:
        print(f"all stages: {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    run(main)
