"""The README names only scripts, files and flags that exist, and its numbers are those of the run it cites."""

import importlib
import re
from pathlib import Path

import pytest

from benchmarks import readme_numbers
from study import stage
from study.results import value_at

HERE = stage.HERE
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
        assert any((HERE / folder / f"{module}.py").exists() for folder in (".", "music", "study")), module


def test_every_module_at_the_top_is_explained():
    for path in HERE.glob("*.py"):
        assert f"`{path.name}`" in README, path.name


@pytest.mark.parametrize("name", list(stage.STAGES))
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


def test_the_numbers_are_those_of_the_run_that_ships():
    facts = stage.read_json(HERE / "docs/short_run.json")
    assert readme_numbers.filled(README, facts) == README


def test_the_dictionary_names_keys_that_are_there():
    results = stage.read_json(HERE / "docs/short_run.json")["results"]
    section = README[README.index("## Reading RESULTS.json"):README.index("## How it is measured")]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for key in (key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])):
        path = key.replace("<family>", "lstm").replace("<split>", "test").replace("<name>", "xz")
        assert value_at(results, path) is not None, key


def test_runs_are_a_flat_table():
    runs = stage.read_json(HERE / "docs/short_run.json")["results"]["runs"]
    assert runs and not any(isinstance(value, (dict, list)) for row in runs for value in row.values())
