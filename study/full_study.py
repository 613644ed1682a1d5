"""`make study`: the run that the README quotes, in hours; stopped, it goes on from there.

    python -m study.full_study [--families transformer,lstm] [--publish]

The whole embedded corpus; the study's own models, with three seeds up to medium; the ladder's grid
of sizes, amounts of text and seeds; the best model. What is trained stands in PLAN: change it there.
The largest size on all the text is predicted, with an interval, from runs that are smaller in both
before it is trained: the prediction stands in PREDICTION. With --publish, what readers want to see
of a study is copied to docs/study/.
"""

import io
import shlex
import shutil
import time

from study.stages.arguments import fail, list_of, resolve_root, root_flags, stage_parser
from study.stages.stage import HERE, cpu_count, run, write_bytes, write_json

from study.estimate import planned_runs
from study.families import FAMILIES
from study.pipeline import run_stage
from study.train.ladder import LADDER, PREDICTION

PLAN = {  # of every family; about six hours on two cores with bf16
    "seeds": "2,3,4",  # of the study's own sizes in SEEDED; the larger ones have the first
    "grid_seeds": "2,3",
    "amounts": "0.0625,0.125,0.25,0.5,1",  # shares of the text, of the grid
    "widest": "d256",  # largest size of the grid
    "best": "xl:10",  # the best model, SIZE:EPOCHS
}
SEEDED = "tiny,small,medium"  # sizes that are trained with several seeds
KEPT = "study_plan.json"  # in the root: what was planned
PUBLISHED = (
    "RESULTS.json",
    "report.html",
    *(f"{name}.csv" for name in ("runs", "repeats", "skills", "music", "differences")),
    "fits.json",
    "figures/*.png",
    "generated/metadata.json",
    # of part4_outputs/
    "generated/sample_*.abc",
    "generated/sample_*.mid",
    "generated/sample_00[01].png",
)
PUBLISHED_BYTES = 6_000_000


# ---------------------------------------------------------------- the plan, as lists of commands


def training(plan, families, words):
    """Returns [(family, words of its script's command line)] in two parts.

    In the first no run has the largest size or all the text of the grid: it can be fitted, and
    predicts the second. words: what every command is given.
    """
    sizes = [size for size in LADDER if size <= plan["widest"]]
    amounts = plan["amounts"].split(",")
    grid, own = ["--suite", "ladder", "--seeds", plan["grid_seeds"]], ["--suite", "classical"]

    def part_of(sizes, amounts):
        return [*grid, "--only", ",".join(sizes), "--data-fractions", ",".join(amounts)]

    first = [[*own, "--seeds", plan["seeds"].split(",")[0]], part_of(sizes[:-1], amounts[:-1])]
    second = [part_of(sizes, amounts), [*own, "--only", SEEDED, "--seeds", plan["seeds"]]]
    jobs = ["--jobs", str(cpu_count())]
    return [
        [(family, [*words, *flags, *jobs]) for flags in part for family in families]
        for part in (first, second)
    ]


def write_plan(root, families, commands):
    """Writes what is planned, says it, and returns the largest run of each family's grid."""
    from study.train.data import load_data

    data, runs = load_data(root), {}
    for family, words in commands:
        runs.update({run["name"]: run for run in planned_runs(family, words, data)})
    keys = ("name", "size", "params_non_embedding", "train_chars")
    largest = {}
    for family in families:
        planned = runs[f"{family}_{PLAN['widest']}"]
        largest[family] = {key: planned[key] for key in keys}
    write_json(root / KEPT, {"plan": PLAN, "runs": len(runs) + 1, "corners": largest})
    print(f"plan: {len(runs) + 1} runs on {cpu_count()} cores; each script says its minutes")
    return largest


# ---------------------------------------------------------------- the promise, and what is shown of
# the study


def predict(root, plan, corners):
    """Writes PREDICTION: for each family what the largest size of the plane should reach on all the
    text, with an interval, from the ladder's runs so far. It is written once: what is trained
    afterwards cannot change it.

    corners: {family: what is said of the plane's largest run: "name", "size",
    "params_non_embedding", "train_chars"}.
    """
    from study.fit import sentences
    from study.fit.copying import ATTENTION, second_occurrences, two_numbers
    from study.fit.joint_fit import predict_corner
    from study.fit.records import read_records, rows_of_records

    if (root / PREDICTION).exists():
        return
    rows, promises = [
        row for row in rows_of_records(read_records(root)) if row["suite"] == "ladder"
    ], {}
    for family, corner in corners.items():
        try:
            promise = predict_corner(
                [row for row in rows if row["family"] == family],
                corner["params_non_embedding"],
                corner["train_chars"],
                runs=len(plan["grid_seeds"].split(",")),
            )
        except ValueError as problem:
            print(f"{corner['name']}: no prediction from {problem}")
            continue
        promise |= {"family": family, "if_copies": None, "p_copies": None}
        promise["if_not"] = {"value": promise["prediction"], "interval": promise["interval"]}
        if family in ATTENTION:
            text = (root / "data/val.txt").read_text(encoding="utf-8")
            promise = two_numbers(promise, second_occurrences(text)["share"])
        print(sentences.prediction(promise), flush=True)
        promises[family] = {
            "size": corner["size"],
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **promise,
        }
    write_json(root / PREDICTION, promises)


def in_few_colors(path):
    """The bytes of a PNG with a palette of 256 colours: to look at the same, at a third of the
    size."""
    from PIL import Image  # of matplotlib

    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def publish(root, folder):
    """Copies what a reader wants to see of a finished study to a folder, in place of the same files
    of an earlier one. What else lies there stays: weights, rows of experiments, recompute.py."""
    outputs = root / "part4_outputs"
    paths = [path for pattern in PUBLISHED for path in sorted(outputs.glob(pattern))]
    shown = {
        path: in_few_colors(path) if path.suffix == ".png" else path.read_bytes() for path in paths
    }
    n_bytes = sum(map(len, shown.values()))
    if n_bytes > PUBLISHED_BYTES:
        fail(
            "study",
            f"what is to be shown of the study has {n_bytes:,} bytes, more than"
            f" {PUBLISHED_BYTES:,}",
            "look for what has grown in " + str(outputs),
        )
    for earlier in [path for pattern in PUBLISHED for path in folder.glob(pattern)]:
        earlier.unlink()
    for path, content in shown.items():
        write_bytes(folder / path.relative_to(outputs), content)
    for path in (root / KEPT, root / PREDICTION):
        if path.exists():
            shutil.copyfile(path, folder / path.name)
    print(f"copied to {folder.relative_to(HERE)}: {len(paths)} files, {n_bytes / 1e6:.1f} MB")


# ---------------------------------------------------------------- the story


def parse_arguments(argv):
    """Returns the arguments; the families are those that every study has and those asked for."""
    parser = stage_parser(__doc__)
    parser.prog = "-m study.full_study"  # as `python` is to be given it
    parser.set_defaults(root=HERE / "study_run")
    needed = [name for name, family in FAMILIES.items() if not family.optional]
    parser.add_argument(
        "--families",
        type=list_of(str),
        metavar="NAME[,NAME]",
        default=needed,
        help=f"e.g. {','.join(FAMILIES)} (default: {','.join(needed)})",
    )
    parser.add_argument(
        "--publish", action="store_true", help="copy what readers want to see to docs/study/"
    )
    args = parser.parse_args(argv)
    if unknown := [name for name in args.families if name not in FAMILIES]:
        problem = f"--families {','.join(unknown)}: there is no such family"
        fail("study", f"{problem}; there are {', '.join(FAMILIES)}")
    args.families = [name for name in FAMILIES if name in {*needed, *args.families}]
    return args


def main(argv=None):
    args = parse_arguments(argv)
    root, words, began = resolve_root(args), shlex.split(root_flags(args)), time.monotonic()
    run_stage("01_download", [*words, "--source", "music21"])
    for stage in ("02_midi_to_abc", "03_tokenize_split"):
        run_stage(stage, words)
    first, second = training(PLAN, args.families, words)
    largest = write_plan(root, args.families, first + second)
    for family, flags in first:
        run_stage(FAMILIES[family].stage, flags)
    predict(root, PLAN, largest)
    for family, flags in second:
        run_stage(FAMILIES[family].stage, flags)
    run_stage("06_fit_scaling", words)
    run_stage("07_train_best_and_generate", [*words, "--best", PLAN["best"]])
    if args.publish:
        publish(root, HERE / "docs/study")
    print(f"the study: {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    run(main)
