"""The README names only scripts, files and flags that exist, and its numbers are those of the run
it cites."""

import importlib
import re

from study.stages.code_key import HERE
from study.stages.files import read_json
from study.stages.manifest import STAGES

import pytest

from benchmarks import readme_numbers
from results_contract import MOST_BYTES, check_results
from study.report.keys import value_at

README = (HERE / "README.md").read_text(encoding="utf-8")


def commands():
    """(script, flags) of every command line that runs a numbered script."""
    for line in README.replace("\\\n", " ").replace("&&", "\n").splitlines():
        for script, rest in re.findall(r"(0\d_\w+)\.py((?: +[^`|#\s]+)*)", line):
            yield script, re.findall(r"(?<!\S)(--[a-z-]+)", rest)


def test_links_and_scripts_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (HERE / target).exists(), target
    for script, _ in commands():
        assert (HERE / f"{script}.py").exists(), script
    for module in re.findall(r"`(\w+)\.py`", README):
        assert any(
            (HERE / folder / f"{module}.py").exists() for folder in (".", "music", "study")
        ), module


def test_every_module_at_the_top_is_explained():
    for path in HERE.glob("*.py"):
        assert path.name in README, path.name


@pytest.mark.parametrize("name", list(STAGES))
def test_flags_in_commands_are_understood(name, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main(["--help"])
    assert ended.value.code == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for script, flags in commands():
        if script == name:
            assert set(flags) <= known


def test_make_targets_exist():
    makefile = (HERE / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


STUDY = HERE / "docs/study"


def test_the_numbers_are_those_of_the_study_that_ships():
    assert readme_numbers.filled(README, readme_numbers.facts()) == README


def test_the_study_that_ships_has_all_that_this_code_needs():
    results, tables = read_json(STUDY / "RESULTS.json"), readme_numbers.read_tables(STUDY)
    assert check_results(results) == [] and results["quick"] is False
    assert (STUDY / "RESULTS.json").stat().st_size < MOST_BYTES
    assert len(tables["runs.csv"]) == results["runs"]["n"]
    page = (STUDY / "report.html").read_text()
    assert "<button" in page and 'href="../compose.html"' in page
    for sample in read_json(STUDY / "generated/metadata.json")["samples"]:
        assert (STUDY / "generated" / sample["file"]).read_text() and (
            STUDY / "generated" / sample["file"]
        ).with_suffix(".mid").exists()
    shown = [path for path in STUDY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shown) < 6_000_000
    assert not any(
        str(HERE) in path.read_text() for path in shown if path.suffix in (".json", ".csv", ".html")
    )


def test_the_largest_runs_were_predicted_before_they_were_trained():
    predictions, results = (read_json(STUDY / name) for name in ("prediction.json", "RESULTS.json"))
    for family, written in predictions.items():
        said = results["fits"]["joint"][family]["prediction"]
        assert said["prediction"] == pytest.approx(written["prediction"], rel=1e-5)
        assert said["measured"] > 0


def test_the_dictionary_names_keys_that_are_there():
    results = read_json(STUDY / "RESULTS.json")
    text = (HERE / "docs/results_keys.md").read_text(encoding="utf-8")
    lines = text[: text.index("## The tables")].splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| `")]
    assert len(rows) > 20
    for key in [key for row in rows for key in re.findall(r"`([^`]+)`", row)]:
        path = key.replace("<family>", "lstm").replace("<split>", "test").replace("<name>", "xz")
        parent, _, last = path.rpartition(".")
        assert last in (value_at(results, parent) if parent else results), key
