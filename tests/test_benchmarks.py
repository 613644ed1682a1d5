"""Benchmarks: their pages open with an answer and name commands that exist; two roots are compared
to the last digit."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks import compare_results

HERE = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path.stem for path in (HERE / "benchmarks").glob("*.py") if path.stem != "__init__"
)
EVIDENCE = "6c6aa8c"  # the last commit with the programs that wrote one page each
PAGES = sorted((HERE / "benchmarks").glob("*.md")) + [HERE / "docs/README.md"]


@pytest.mark.parametrize("name", MODULES)
def test_every_script_loads_and_names_itself(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.main) and f"python -m benchmarks.{name}" in module.__doc__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_name_what_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert name in MODULES or f"`git show {EVIDENCE}:benchmarks/{name}.py`" in text, name
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    assert not re.search(r"python benchmarks/", text)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "benchmarks"], ids=lambda page: page.stem
)
def test_pages_open_with_their_answer_in_three_lines(page):
    title, answer, *_ = page.read_text(encoding="utf-8").split("\n\n")
    assert title.startswith("# ") and len(answer.splitlines()) <= 3 and answer.startswith("**")
    assert "python -m" in answer or "make " in answer


# ---------------------------------------------------------------- compare_results


@pytest.fixture
def roots(tmp_path):
    """Two equal roots but for what differs from run to run."""
    for name, seconds in (("old", 1.0), ("new", 2.0)):
        outputs = tmp_path / name / "part4_outputs"
        for folder in (
            outputs / "generated",
            outputs / "evaluation",
            tmp_path / name / "checkpoints",
        ):
            folder.mkdir(parents=True)
        results = {
            "best": {"val_nats_per_char": 1.25, "seconds": seconds},
            "runs": [{"name": "a"}],
            "fits": {"comparison": {"seconds": {"gap": seconds}}},
        }
        (outputs / "RESULTS.json").write_text(json.dumps(results))
        (outputs / "generated/sample_01.abc").write_text("X:1\nK:C\nC|\n")
        (outputs / f"evaluation/{name}.json").write_text(
            json.dumps({"key": name, "samples": [{"text": "X:1"}]})
        )
        (tmp_path / name / "checkpoints/a.curve.jsonl").write_text(
            json.dumps({"step": 1, "seconds": seconds}) + "\n"
        )
    return tmp_path / "old", tmp_path / "new"


def test_equal_runs_differ_in_nothing(roots, capsys):
    assert compare_results.main([str(root) for root in roots]) == 0
    assert "differences: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("part4_outputs/RESULTS.json", "1.25", "1.2500000000000002"),
        ("part4_outputs/RESULTS.json", '{"name": "a"}', ""),
        ("part4_outputs/generated/sample_01.abc", "C|", "D|"),
        ("checkpoints/a.curve.jsonl", '"step": 1', '"step": 2'),
        ("part4_outputs/evaluation/new.json", "X:1", "X:2"),
    ],
)
def test_any_other_number_or_text_is_a_difference(roots, capsys, name, old, new):
    path = roots[1] / name
    path.write_text(path.read_text().replace(old, new, 1))
    assert compare_results.main([str(root) for root in roots]) == 1
    assert "differs: " in capsys.readouterr().out


def test_a_file_that_is_gone_is_a_difference(roots):
    shutil.rmtree(roots[1] / "checkpoints")
    assert compare_results.main([str(root) for root in roots]) == 1
