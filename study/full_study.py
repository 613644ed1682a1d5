"""`make study`: the run that the README quotes, in hours; stopped, it goes on from there.

    python -m study.full_study [--families transformer,lstm] [--publish]

Trains on the whole embedded corpus what PLAN says. The largest size on all the text is predicted,
with an interval, from runs that are smaller in both, before it is trained.
"""

import argparse
import io
import shlex
import shutil
import time

from study.stages.arguments import resolve_root, root_flags, stage_parser
from study.stages.code_key import HERE
from study.stages.files import write_bytes, write_json
from study.stages.process import cpu_count, run

from study.estimate import planned_runs
from study.families import FAMILIES
from study.fit.copying import second_occurrences
from study.fit.predictions import predict_run
from study.fit.records import is_ladder, read_records, rows_of_records
from study.fit.sentences import prediction
from study.pipeline import run_stage
from study.train.data import load_data
from study.train.ladder import LADDER, PREDICTION

LARGEST = "d256"  # of the grid
SIZES = [size for size in LADDER if size <= LARGEST]
AMOUNTS = ["0.0625", "0.125", "0.25", "0.5", "1"]  # shares of the text
GRID_SEEDS = "2,3"


def grid(sizes, amounts):
    grid_of = f"--only {','.join(sizes)} --data-fractions {','.join(amounts)}"
    return f"--suite ladder --seeds {GRID_SEEDS} {grid_of}"


PLAN = {  # flags of each family's training script; about six hours on two cores with bf16
    # no run has the largest size or all the text of the grid: from these it is predicted
    "before": ["--suite classical --seeds 2", grid(SIZES[:-1], AMOUNTS[:-1])],
    "after": [
        grid(SIZES, AMOUNTS),
        "--suite classical --seeds 2,3,4 --only tiny,small,medium",
    ],
    "best": "xl:10",  # the best model, SIZE:EPOCHS
}
KEPT = "study_plan.json"  # in the root: what was planned
PUBLISHED = (  # of part4_outputs/
    "RESULTS.json",
    "report.html",
    *(f"{name}.csv" for name in ("runs", "repeats", "skills", "music", "differences")),
    "fits.json",
    "figures/*.png",
    "generated/metadata.json",
    "generated/sample_*.abc",
    "generated/sample_*.mid",
    "generated/sample_00[01].png",
)


def training(part, families, words):
    """Returns [(family, words of its script's command line)] of a part of PLAN."""
    jobs = ["--jobs", str(cpu_count())]
    return [
        (family, [*words, *flags.split(), *jobs]) for flags in PLAN[part] for family in families
    ]


def write_plan(root, families, commands):
    """Writes what is planned; returns the largest run of each family's grid."""
    data, runs = load_data(root), {}
    for family, words in commands:
        runs |= {run["name"]: run for run in planned_runs(family, words, data)}
    keys = ("name", "size", "params_non_embedding", "train_chars")
    rows = {family: runs[f"{family}_{LARGEST}"] for family in families}
    largest = {family: {key: row[key] for key in keys} for family, row in rows.items()}
    write_json(root / KEPT, {"plan": PLAN, "runs": len(runs) + 1, "largest_runs": largest})
    print(f"plan: {len(runs) + 1} runs on {cpu_count()} cores; each script says its minutes")
    return largest


def predict(root, largest):
    """Writes PREDICTION, once: what the largest runs should reach by the ladder's so far."""
    if (root / PREDICTION).exists():
        return
    rows = list(filter(is_ladder, rows_of_records(read_records(root))))
    share = second_occurrences((root / "data/val.txt").read_text(encoding="utf-8"))
    predictions, n_seeds = {}, len(GRID_SEEDS.split(","))
    for family, planned in largest.items():
        own = [row for row in rows if row["family"] == family]
        n, d = planned["params_non_embedding"], planned["train_chars"]
        found = predict_run(own, n, d, share, n_seeds)
        written = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        predictions[family] = {"size": planned["size"], "written": written, **found}
        print(prediction(predictions[family]), flush=True)
    write_json(root / PREDICTION, predictions)


def in_few_colors(path):
    """Returns a PNG in 256 colours, a third of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def publish(root, folder):
    """Copies PUBLISHED to a folder, in place of an earlier study's."""
    outputs = root / "part4_outputs"
    paths = [path for pattern in PUBLISHED for path in sorted(outputs.glob(pattern))]
    for earlier in [path for pattern in PUBLISHED for path in folder.glob(pattern)]:
        earlier.unlink()
    for path in paths:
        content = in_few_colors(path) if path.suffix == ".png" else path.read_bytes()
        if path.name == "report.html":
            content = content.replace(b'href="compose.html"', b'href="../compose.html"')
        write_bytes(folder / path.relative_to(outputs), content)
    compose = outputs / "compose.html"
    if compose.exists():  # in docs/, where README's first screen leads
        write_bytes(folder.parent / compose.name, compose.read_bytes())
    for path in (root / KEPT, root / PREDICTION):
        if path.exists():
            shutil.copyfile(path, folder / path.name)
    print(f"copied to {folder.relative_to(HERE)}: {len(paths)} files")


def families_of(text):
    """Reads names of families; returns those and the ones that are not optional."""
    names = text.split(",")
    if unknown := set(names) - set(FAMILIES):
        problem = f"there is no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}"
        raise argparse.ArgumentTypeError(problem)
    return [name for name, row in FAMILIES.items() if name in names or not row.optional]


def main(argv=None):
    parser = stage_parser(__doc__)
    parser.prog = "-m study.full_study"  # as `python` is to be given it
    parser.set_defaults(root=HERE / "study_run")
    default, add = "transformer,lstm", parser.add_argument
    every = f"e.g. {','.join(FAMILIES)} (default: {default})"
    add("--families", type=families_of, metavar="NAME[,NAME]", default=default, help=every)
    add("--publish", action="store_true", help="copy what is shown to docs/study/")
    args = parser.parse_args(argv)
    root, words, began = resolve_root(args), shlex.split(root_flags(args)), time.monotonic()
    run_stage("01_download", [*words, "--source", "music21"])
    for stage in ("02_midi_to_abc", "03_tokenize_split"):
        run_stage(stage, words)
    before, after = (training(part, args.families, words) for part in ("before", "after"))
    largest = write_plan(root, args.families, before + after)
    for family, flags in before:
        run_stage(FAMILIES[family].stage, flags)
    predict(root, largest)
    for family, flags in after:
        run_stage(FAMILIES[family].stage, flags)
    for _ in range(2):  # 07 measures the copying that the law of 06 takes: then both once more
        run_stage("06_fit_scaling", words)
        run_stage("07_train_best_and_generate", [*words, "--best", PLAN["best"]])
    if args.publish:
        publish(root, HERE / "docs/study")
    print(f"the study: {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    run(main)
