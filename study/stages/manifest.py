"""Manifests: which stages there are, what each has made from what, and what is wrong with it now.

A stage writes its manifest last. One that ran again and wrote the same bytes makes nothing stale.
"""

import contextlib
import json
import platform
from importlib import metadata
from pathlib import Path

from study.stages.code_key import HERE, code_digest
from study.stages.files import describe, read_json, value_digest, write_json
from study.stages.process import cpu_count

from study.families import FAMILIES

TRAINING = tuple(family.stage for family in FAMILIES.values())
OPTIONAL = {family.stage for family in FAMILIES.values() if family.optional} | {"08_finetune"}
SPLIT = ("03_tokenize_split",)
# stage -> (folder of its manifest, below the root; stages it reads)
STAGES = {
    "01_download": ("data", ()),
    "02_midi_to_abc": ("data", ("01_download",)),
    "03_tokenize_split": ("data", ("02_midi_to_abc",)),
    **{name: ("checkpoints", SPLIT) for name in TRAINING},
    "06_fit_scaling": ("part4_outputs", (*SPLIT, *TRAINING)),
    "07_train_best_and_generate": ("part4_outputs", (*SPLIT, *TRAINING, "06_fit_scaling")),
    "08_finetune": ("finetuned", SPLIT),
}
BEST = "best_model"  # name of the best model's files
PACKAGES = "torch music21 symusic numpy scipy matplotlib verovio pyppmd".split()  # in manifests


def stage_folder(name):
    """Returns (folder of a stage's manifest, its script's name).

    >>> stage_folder("02_midi_to_abc"), stage_folder("08_finetune/mine")
    (('data', '02_midi_to_abc'), ('finetuned/mine', '08_finetune'))
    """
    script, _, part = name.partition("/")
    return f"{STAGES[script][0]}/{part}".rstrip("/"), script


def manifest_path(root, name):
    """Returns e.g. ROOT/data/02_midi_to_abc.manifest.json."""
    folder, script = stage_folder(name)
    return root / folder / f"{script}.manifest.json"


def marker_path(root, name):
    """Returns where the marker is of a stage that writes, or was killed while it did."""
    folder, script = stage_folder(name)
    return root / folder / f"{script}.running.json"


def index_path(root, name, output):
    """Returns where the list of an output folder's files is."""
    folder, script = stage_folder(name)
    return root / folder / f".{script}.{output.replace('/', '-')}.files.tsv"


def stages_read(root, name):
    """Returns the stages that a stage reads, optional ones only if they were run."""
    return [
        before
        for before in STAGES[name][1]
        if before not in OPTIONAL
        or manifest_path(root, before).exists()
        or marker_path(root, before).exists()
    ]


def load_manifest(root, name):
    """Returns a stage's manifest as a dict; None if there is none with its seal."""
    manifest = read_json(manifest_path(root, name))
    with contextlib.suppress(ValueError):  # infinite numbers
        if isinstance(manifest, dict) and manifest.get("seal") == seal(manifest):
            return manifest
    return None


def write_manifest(root, name, manifest):
    """Writes a stage's manifest with its seal, of what will be read: all keys are text."""
    manifest = json.loads(json.dumps(manifest, allow_nan=False))
    write_json(manifest_path(root, name), {**manifest, "seal": seal(manifest)})


def seal(manifest):
    """Returns the digest of a manifest: one edited by hand is refused."""
    return value_digest({key: value for key, value in manifest.items() if key != "seal"})


def stage_code(name):
    """Returns the digest of the code that a stage's main() reaches; with words, names and colours
    where pages and figures are made."""
    shows = STAGES[name][0] == "part4_outputs"
    code = code_digest([(HERE / f"{name}.py", "main")], words=shows)
    return value_digest([code, list(FAMILIES.values())]) if shows else code


def command_line(name, words):
    """Returns a stage's command, with absolute paths cut to their last part."""
    shown = [f".../{Path(word).name}" if word.startswith("/") else word for word in words]
    return " ".join(["python", f"{name}.py", *shown])


def environment(device=None):
    """Returns versions and machine for the record, without paths and host name."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": cpu_count(),
        "device": device,
        **versions,
    }


def all_problems(root, names, flags=""):
    """Returns the problems of stages and of their inputs, the first to mend first."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = input_problems(root, name, flags)
            if found[name] and not marker_path(root, name).exists():
                manifest = load_manifest(root, name)
                waiting += stages_read(root, name) if manifest is None else manifest["inputs"]
    return [problem for name in STAGES for problem in found.get(name, [])]


def input_problems(root, name, flags=""):
    """Returns [(problem, mending command)]: missing, unfinished, damaged or stale outputs."""
    folder, script = stage_folder(name)
    manifest, command = load_manifest(root, name), f"python {script}.py{flags}"
    if marker_path(root, name).exists():
        problem = f"{name} was interrupted before its output in {folder}/ was complete"
        return [(f"unfinished: {problem}", command)]
    if manifest is None and manifest_path(root, name).exists():
        problem = f"{folder}/{script}.manifest.json cannot be read or was edited"
        return [(f"damaged: {problem}", command + " --force")]
    if manifest is None:
        return [(f"missing: there is no output of {name} in {folder}/", command)]
    problems = []
    for before, digest in manifest["inputs"].items():
        upstream = load_manifest(root, before)
        if upstream and upstream["output_digest"] != digest:
            older = f"an older output of {before}"
            problems.append(f"stale: the output of {name} was made from {older}")
    if manifest["code_digest"] != stage_code(script):
        problems.append(f"stale: {name}.py (or a module it uses) has changed since it ran")
    for output, expected in manifest["outputs"].items():
        damage = _damage(root / output, expected, index_path(root, name, output))
        if damage:
            problems.append(f"damaged: {output} {damage}")
    return [(problem, command) for problem in problems]


def _damage(path, expected, index):
    """Returns what differs between an output and its manifest entry; None if intact."""
    if not path.exists():
        return "is gone"
    found = describe(path, index)
    if found == expected:
        return None
    for unit in ("files", "bytes"):
        n, n_expected = found.get(unit, 1), expected.get(unit, 1)
        if n != n_expected:
            return f"holds {n:,} {unit} instead of {n_expected:,}"
    return "has changed since it was written"


def is_up_to_date(root, name, words):
    """Returns True if by its manifest this command line made what stands here now."""
    manifest = load_manifest(root, name)
    return (
        manifest is not None
        and manifest["command"] == command_line(name, words)
        and set(manifest["inputs"]) == set(stages_read(root, name))
        and not manifest.get("missing")
        and not input_problems(root, name)
    )
