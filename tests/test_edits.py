"""An edit re-makes what it changes and nothing else: edits to a copy of the project in which a tiny
study is done."""

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

from study.stages.code_key import HERE
from study.stages.manifest import TRAINING

import pytest

from starts import start
from study.pipeline import REQUIRED as STAGES  # those of `make run`

LIMIT = ("--source", "music21", "--limit", "60")
RUN_STAGES = """
import importlib, sys
if __name__ == "__main__":  # workers load this file, too
    calls = [words.split() for words in sys.argv[1:]]
    for _ in range(2):
        for name, *words in calls:
            sys.argv = [name + ".py", *words]
            importlib.import_module(name).main(words)
        print("AGAIN")
"""
# lines that make the whole study of a copy a matter of seconds
SMALL = {
    "04_train_transformers.py": (
        """
SIZES = {
    size: {"n_layer": 1, "n_head": 2, "d_model": d, "d_ff": 2 * d}
    for size, d in (("tiny", 8), ("small", 16), ("medium", 24))
}
"""
    ),
    "05_train_lstms.py": (
        """
SIZES = {
    size: {"n_layer": 1, "d_embedding": 8, "d_hidden": d}
    for size, d in (("tiny", 8), ("small", 16), ("medium", 24))
}
"""
    ),
    "study/train/ladder.py": "LADDER = {size: LADDER[size] for size in ('d008', 'd012')}",
    "study/prepare/baselines.py": "NGRAM_ORDER = 2",
    "06_fit_scaling.py": "N_RESAMPLES = 50",
    "07_train_best_and_generate.py": (
        """
BEST_MODEL["quick"], PLAY_CHARS = "small:2", 100
for knob in BUDGETS:
    BUDGETS[knob] = (4, 4) if knob.startswith("n_") else (80, 80)
"""
    ),
    "study/evaluate/sampling.py": "MAX_TRIES = 4",
}
MAIN = '\nif __name__ == "__main__":\n'  # last in a script


def add(path, lines):
    """Adds lines to a file of a copy: at its end, but before what runs a script."""
    text = path.read_text()
    before, main, after = text.rpartition(MAIN)
    path.write_text(f"{before}\n{lines}\n{main}{after}" if main else f"{text}\n{lines}\n")


def copy_project(folder):
    """The scripts and their two folders, without what they made, and with small knobs."""
    folder.mkdir()
    for path in [*HERE.glob("*.py"), HERE / "music", HERE / "study"]:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, folder / path.name)
    for name, lines in SMALL.items():
        add(folder / name, lines)
    return folder


def make(project, stages=tuple(STAGES)):
    """Runs stages as `make run` does, but in one process; returns what they print. Once more they
    do nothing."""
    more = {"01_download": LIMIT, **dict.fromkeys(TRAINING, ("--jobs", "1"))}
    calls = [" ".join([name, "--quick", *more.get(name, ())]) for name in stages]
    script = project.parent / "run_stages.py"
    script.write_text(RUN_STAGES)
    done = start([script, *calls], project, path=[project])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said, said_again, _ = done.stdout.split("AGAIN\n")
    assert said_again.count(": up to date") == len(stages), said_again
    return said


def replace(path, old, new):
    """Replaces words that must be there, once."""
    text = path.read_text()
    assert old in text, f"{path.name} has no {old!r} any more: this test needs another place"
    path.write_text(text.replace(old, new, 1))


def stamps(project):
    """{path below quick/: time of its last writing} of what stages make, but not of their records
    of having run."""
    root = project / "quick"
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith((".manifest.json", ".running.json"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project, whose study is done."""
    project = copy_project(tmp_path_factory.mktemp("edits") / "project")
    make(project)
    return project


@pytest.fixture
def project(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "project"))


KINDS = {  # the first kind whose pattern fits is that of a file below quick/
    "data": ("data/*.txt", "data/*.npy", "data/*.pkl", "data/stats.json", "data/baselines.json"),
    "transformers": ("checkpoints/transformer_*.pt",),
    "lstms": ("checkpoints/lstm_*.pt",),
    "best": ("checkpoints/best_model.pt",),
    "fits": ("part4_outputs/fits.json",),
    "draws": ("part4_outputs/evaluation/drawn/*",),
    "measures": ("part4_outputs/evaluation/*",),
    "figures": ("part4_outputs/figures/*",),
    "page": ("part4_outputs/report.html",),
}


def remade(project, before):
    """{kind: names of files} of what was written anew."""
    kinds = {}
    for name, stamp in sorted(stamps(project).items()):
        kind = next(
            (kind for kind, patterns in KINDS.items() if any(fnmatch(name, p) for p in patterns)),
            None,
        )
        if kind and before.get(name) != stamp:
            kinds.setdefault(kind, set()).add(Path(name).stem)
    return kinds


WORDS = {  # file: (text, another text) for every sort of words that decide nothing
    "common.py": ('ValueError("it holds no vocabulary")', 'ValueError("no vocabulary is in it")'),
    "study/train/suite.py": ("passes over the training text", "times that the text is read"),
    "study/train/runs.py": ("goes on from step", "continues at step"),
    "study/train/loop.py": ("CLIP_NORM = 1.0", "CLIP_NORM = 1.0  # of the whole gradient"),
    "music/abc_text.py": ('"""', '"""Words. '),
    "study/evaluate/sampling.py": ("sampler settings out of range", "these settings make no sense"),
}


def test_words_make_nothing_again(project):
    before = stamps(project)
    for name, (old, new) in WORDS.items():
        replace(project / name, old, new)
    said = make(project)
    assert said.count(": up to date") == len(STAGES), said
    assert remade(project, before) == {}


LATER = {"draws", "measures", "fits", "figures", "page"}  # what follows from a model
ROWS = {  # edit: (file, line that is added, what is made again, in part or whole)
    "a colour": (
        "study/families.py",
        'FAMILIES["lstm"] = FAMILIES["lstm"]._replace(color="#0072B3")',
        {"figures", "fits", "page"},
    ),
    "a metric": ("music/metrics.py", "LEAP = 5", {"measures", "figures", "page"}),
    "sampling": (
        "study/evaluate/sampling.py",
        "START = (BEGIN, BEGIN)",
        {"draws", "measures", "figures", "page"},
    ),
    # of the measures the law with the copying term alone, a fit too
    "the fits": (
        "study/fit/robust.py",
        "SQUARES = 9.0",
        {"fits", "measures", "figures", "page"},
    ),
    # its tunes are as before: nothing is trained; 06 counts repeated bars with the reader
    "the reader": ("music/abc_text.py", "MAX_VOICES = 98", {"data"} | LATER),
    "an LSTM's class": ("common.py", "FORGET_BIAS = 2.0", {"lstms"} | LATER),
    "a Transformer's class": (
        "common.py",
        "ROTARY_BASE = 400.0",
        {"transformers", "best"} | LATER,
    ),
    "the loop": (
        "study/train/loop.py",
        "CLIP_NORM = 0.9",
        {"transformers", "lstms", "best"} | LATER,
    ),
    "one size": ("05_train_lstms.py", 'SIZES["small"]["d_hidden"] = 20', {"lstms"} | LATER),
}
SHOWN = {  # file: (text, another text) of what only figures and pages show
    "study/evaluate/figures.py": ("The cost of control", "What control costs"),
    # style and script: test_report.py
    "study/report/page.html": ("<main", "<main "),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_drawn_again_and_nothing_else(project, name):
    before = stamps(project)
    replace(project / name, *SHOWN[name])
    make(project)
    assert set(remade(project, before)) == {"figures", "page"}


@pytest.mark.parametrize("what", ROWS)
def test_an_edit_makes_again_what_it_changes(project, what):
    name, line, expected = ROWS[what]
    before = stamps(project)
    add(project / name, line)
    make(project)
    kinds = remade(project, before)
    assert set(kinds) == expected, kinds
    if what == "a metric":  # from the samples kept, and no other measurement
        assert not any(
            "rates" in path or "copying" in path for path in changed_paths(project, before)
        )
    if what == "the reader":  # it judges right bars; free samples stay
        assert kinds["draws"] <= {"right", "ten"}
    if what == "one size":
        assert kinds["lstms"] == {"lstm_small"} and kinds["draws"] == {"lstm_small"}
    if what == "an LSTM's class":
        assert {"transformer_tiny", "unprompted"}.isdisjoint(kinds["draws"])


def changed_paths(project, before):
    return [name for name, stamp in stamps(project).items() if before.get(name) != stamp]


# ---------------------------------------------------------------- a third family

GRU_CLASS = '''
class GRU(Recurrent):
    """A toy third family: an LSTM's house with gated recurrent units in it."""

    family = "gru"
    MATRICES = {"weight_ih": 3, "weight_hh": 3}

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(config["vocab_size"], config["d_embedding"])
        self.gru = nn.GRU(config["d_embedding"], config["d_hidden"], config["n_layer"], batch_first=True)
        self.head = nn.Linear(config["d_hidden"], config["vocab_size"], bias=False)
        nn.init.zeros_(self.head.weight)

    def _run(self, idx, state=None):
        y, h = self.gru(self.embedding(idx).float(), state and state[0])
        return y, (h,)
'''
GRU_ROW = """
FAMILIES["gru"] = Family("gru", "GRU", "GRU", "05c_train_grus", "#CC79A7", "v", optional=True)
"""
GRU_SCRIPT = '''"""Trains three GRUs."""
from common import GRU
from study.stages.process import run
from study.train.suite import suite_main

SIZES = {"tiny": {"n_layer": 1, "d_embedding": 8, "d_hidden": 9}, "small": {"n_layer": 1, "d_embedding": 8, "d_hidden": 17},
         "medium": {"n_layer": 1, "d_embedding": 8, "d_hidden": 25}}
LEARNING_RATES = {"muon": {"tiny": 0.02, "small": 0.02, "medium": 0.02}, "adamw": {}}


def main(argv=None):
    """Trains the suite."""
    suite_main(__file__, GRU, SIZES, LEARNING_RATES, __doc__, argv)


if __name__ == "__main__":
    run(main)
'''


def test_a_third_family_is_a_class_a_row_and_a_script(project):
    add(project / "common.py", GRU_CLASS)
    add(project / "study/families.py", GRU_ROW)
    (project / "05c_train_grus.py").write_text(GRU_SCRIPT)
    make(project, ["05c_train_grus", "06_fit_scaling", "07_train_best_and_generate"])
    outputs = project / "quick/part4_outputs"
    results = json.loads((outputs / "RESULTS.json").read_text())
    assert {"transformer", "lstm", "gru"} < set(results["fits"])
    assert all(
        "\ngru_tiny," in (outputs / f"{name}.csv").read_text() for name in ("runs", "skills")
    )
    fits = json.loads((outputs / "fits.json").read_text())
    pairs = [fits["comparison"], *fits["more_comparisons"]]
    assert len(pairs) == 3 and "GRU" in json.dumps(pairs) + (outputs / "report.html").read_text()


# ---------------------------------------------------------------- commands that need a finished run


def test_more_can_be_heard_as_the_readme_says(project):
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Hearing more.*?```\n(.*?)```", readme, re.DOTALL)[1]
    before = stamps(project)
    for line in block.splitlines():
        words = line.split()
        assert words[0] == "python"
        if "--continue" in words:  # a copy has other tunes
            words[words.index("--continue") + 1] = min(
                map(str, (project / "quick/data/raw_midi").rglob("*.mid"))
            )
        done = start(words[1:], project)
        assert done.returncode == 0, done.stderr
    made = changed_paths(project, before)
    assert made and all(
        "generated/play" in name or "generated/continued" in name for name in made
    ), made
