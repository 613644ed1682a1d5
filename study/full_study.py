"""`make study`: the run that the README quotes, in hours that are said first; stopped, it goes on
from there.

    python -m study.full_study [--hours 6] [--families transformer,lstm]

The whole embedded corpus; the study's own models, with three seeds up to medium; the ladder's plane
of sizes, amounts of text and seeds; the best model. What the hours do not hold is left out, in the
order of LEFT_OUT, and said. The largest
size on all the text is predicted, with an interval, from runs that are smaller in both before it is
trained: the promise stands in PREDICTION. What readers want to see of a study is copied to
docs/study/: of one from which something was left out only with --publish.
"""

import importlib
import io
import shlex
import shutil
import time

from study.stages.arguments import fail, list_of, number, resolve_root, root_flags, stage_parser
from study.stages.stage import HERE, cpu_count, read_json, run, write_bytes, write_json

from study.families import FAMILIES, model_class
from study.pipeline import run_stage
from study.train.ladder import LADDER, PREDICTION

HOURS = 6
FULL = {
    "seeds": "2,3,4",
    "plane_seeds": "2,3",
    "amounts": "0.0625,0.125,0.25,0.5,1",
    "widest": "d256",
    "best": "xl:10",
}
LEFT_OUT = (  # one after the other, until the hours suffice
    ("five of XL's ten epochs", {"best": "xl:5"}),
    ("the width 256", {"widest": "d192"}),
    ("XL as best model (it is medium, eight epochs)", {"best": "medium:8"}),
    ("the plane's second seed", {"plane_seeds": "2"}),
    ("the second and third seed of the study's own models", {"seeds": "2"}),
    ("one of five amounts of text", {"amounts": "0.0625,0.25,0.5,1"}),
    ("the width 192", {"widest": "d128"}),
)
SEEDED = "tiny,small,medium"  # sizes that are trained with several seeds
OTHER_MINUTES = 25  # of all but training; not measured with these budgets
MARGIN = 0.9  # of the hours: so much of them a plan may be expected to take
# in the root: what was chosen, so that a study that goes on is the same one
KEPT = "study_plan.json"
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
    """[(family, words of its script's command line)] in two parts. In the first no run has the
    largest size or all the
    text of the plane: it can be fitted, and predicts the second. words: what every command is
    given."""
    sizes = [size for size in LADDER if size <= plan["widest"]]
    amounts = plan["amounts"].split(",")
    plane, own = ["--suite", "ladder", "--seeds", plan["plane_seeds"]], ["--suite", "classical"]
    first = [
        own,
        [*plane, "--only", ",".join(sizes[:-1]), "--data-fractions", ",".join(amounts[:-1])],
    ]
    second = [
        [*plane, "--only", ",".join(sizes), "--data-fractions", ",".join(amounts)],
        [*own, "--only", SEEDED, "--seeds", plan["seeds"]],
    ]
    return [
        [
            (family, [*words, *flags, "--jobs", str(cpu_count())])
            for flags in part
            for family in families
        ]
        for part in (first, second)
    ]


def planned_runs(commands, data):
    """{name: run} of all that these commands train."""
    from study.train import suite

    runs = {}
    for family, words in commands:
        script, model = importlib.import_module(FAMILIES[family].stage), model_class(family)
        args = suite.suite_parser("").parse_args(words)
        names = suite.check_suite(args, model, script.SIZES)
        asked = suite.Suite(
            model,
            suite.suite_sizes(args.suite, model, script.SIZES, data.vocab_size),
            script.LEARNING_RATES,
            script.SIZES,
            getattr(script, "LADDER_RATE", None),
        )
        runs.update({run["name"]: run for run in suite.plan_suite(args, asked, data, names)})
    return runs


def belongs(run, plan):
    """True for a run of FULL that a plan from which something was left out has too."""
    if run["suite"] == "classical":
        return str(run["seed"]) in plan["seeds"].split(",")
    return (
        run["size"] <= plan["widest"]
        and str(run["seed"]) in plan["plane_seeds"].split(",")
        and run["data_fraction"] in map(float, plan["amounts"].split(","))
    )


def choose(root, data, hours, families, words):
    """{"plan", "left_out", "minutes", "runs"}: the largest plan that this machine should carry out
    in so many hours, runs that are finished not counted; the smallest one if none fits."""
    import torch

    from study.train.checkpoints import finished
    from study.train.suite import expected_minutes

    every, threads = (
        planned_runs(sum(training(FULL, families, words), []), data),
        torch.get_num_threads(),
    )
    # in tokens trained, as in study/train/choice.py
    evaluated = (10 * len(data.val) + 2 * len(data.test)) / 3
    torch.set_num_threads(1)
    alone = {
        name: minutes * (1 + evaluated / run["train_tokens"])
        for (name, run), minutes in zip(
            every.items(), expected_minutes(list(every.values()), data, "cpu")
        )
        if not finished(root, run)
    }
    torch.set_num_threads(threads)
    plan, left_out = dict(FULL), []
    for what, change in ((None, {}), *LEFT_OUT):
        plan.update(change)
        left_out += [what] if what else []
        size, epochs = plan["best"].split(":")
        best = int(epochs) * expected_minutes([every[f"transformer_{size}"]], data, "cpu")[0]
        names = [name for name, run in every.items() if belongs(run, plan)]
        minutes = sum(alone.get(name, 0) for name in names) / cpu_count() + best + OTHER_MINUTES
        if minutes <= MARGIN * hours * 60:
            break
    corners = {
        family: {
            key: every[f"{family}_{plan['widest']}"][key]
            for key in ("name", "size", "params_non_embedding", "train_chars")
        }
        for family in families
    }
    return {
        "plan": plan,
        "left_out": left_out,
        "minutes": round(minutes),
        "runs": len(names) + 1,
        "corners": corners,
    }


def plan_of(root, args, words):
    """What `choose` gave when this study was begun, or gives now; said."""
    from study.train.data import load_data

    asked = {"hours": args.hours, "families": args.families}
    kept = read_json(root / KEPT) or {}
    if kept.get("asked") != asked:
        kept = {"asked": asked, **choose(root, load_data(root), args.hours, args.families, words)}
        write_json(root / KEPT, kept)
    print(
        f"plan: {kept['runs']} runs, {kept['minutes']} minutes on {cpu_count()} cores; left out: "
        f"{', '.join(kept['left_out']) or 'nothing'}",
        flush=True,
    )
    return kept


# ---------------------------------------------------------------- the promise, and what is shown of
# the study


def predict(root, plan, corners):
    """Writes PREDICTION: for each family what the largest size of the plane should reach on all the
    text, with an interval, from the ladder's runs so far. It is written once: what is trained
    afterwards cannot change it.

    corners: {family: what is said of the plane's largest run: "name", "size",
    "params_non_embedding", "train_chars"}.
    """
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
                runs=len(plan["plane_seeds"].split(",")),
            )
        except ValueError as problem:
            print(f"{corner['name']}: no prediction from {problem}")
            continue
        low, high = promise["interval"]
        print(
            f"{corner['name']}: {promise['prediction']:.4f} nats per character predicted ({low:.4f}"
            f" to {high:.4f})",
            flush=True,
        )
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
    """Copies what a reader wants to see of a finished study to a folder, in place of what was
    there."""
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
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in shown.items():
        write_bytes(folder / path.relative_to(outputs), content)
    for path in (root / KEPT, root / PREDICTION):
        if path.exists():
            shutil.copyfile(path, folder / path.name)
    print(f"copied to {folder.relative_to(HERE)}: {len(paths)} files, {n_bytes / 1e6:.1f} MB")


# ---------------------------------------------------------------- the story


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.prog = "-m study.full_study"  # as `python` is to be given it
    parser.set_defaults(root=HERE / "study_run")
    parser.add_argument(
        "--hours",
        type=number(above=0),
        default=HOURS,
        metavar="H",
        help=f"of this machine at most, so far as can be foreseen (default: {HOURS})",
    )
    parser.add_argument(
        "--families",
        type=list_of(str),
        metavar="NAME[,NAME]",
        default=[name for name, family in FAMILIES.items() if not family.optional],
        help="default: %(default)s",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="copy it to docs/study/ even if something was left out",
    )
    args = parser.parse_args(argv)
    needed = [name for name, family in FAMILIES.items() if not family.optional]
    if unknown := [name for name in args.families if name not in FAMILIES]:
        fail(
            "study",
            f"--families {','.join(unknown)}: there is no such family; there are"
            f" {', '.join(FAMILIES)}",
        )
    args.families = [name for name in FAMILIES if name in {*needed, *args.families}]
    return args


def main(argv=None):
    args = parse_arguments(argv)
    root, words, began = resolve_root(args), shlex.split(root_flags(args)), time.monotonic()
    print(
        f"the study: at most {args.hours:g} hours, as far as can be foreseen; stopped, it goes on"
        " from there",
        flush=True,
    )
    run_stage("01_download", [*words, "--source", "music21"])
    for stage in ("02_midi_to_abc", "03_tokenize_split"):
        run_stage(stage, words)
    kept = plan_of(root, args, words)
    plan, left_out = kept["plan"], kept["left_out"]
    first, second = training(plan, args.families, words)
    for family, flags in first:
        run_stage(FAMILIES[family].stage, flags)
    predict(root, plan, kept["corners"])
    for family, flags in second:
        run_stage(FAMILIES[family].stage, flags)
    run_stage("06_fit_scaling", words)
    run_stage("07_train_best_and_generate", [*words, "--best", plan["best"]])
    if args.publish or not left_out and not args.quick:
        publish(root, HERE / "docs/study")
    print(f"the study: {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    run(main)
