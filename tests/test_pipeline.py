"""`make run`: what it says before and after, an old Python, and nothing done twice."""

import ast
import os
import re
import shutil
import subprocess
import sys

from study.stages.code_key import HERE

import pytest

from study import pipeline

FAKE = '''"""A stage."""
import sys
from study.stages.arguments import stage_parser
from study.stages.files import write_text
from study.stages.process import run
from study.stages.stage import Stage

def main():
    stage = Stage(__file__, stage_parser(__doc__).parse_args(), {})
    if stage.up_to_date():
        return
    with stage.writing():
        path = stage.marker.parent.relative_to(stage.root) / f"{stage.name}.txt"
        write_text(stage.root / path, "text")
        stage.finish([str(path)])

if __name__ == "__main__":
    run(main)
'''
ESTIMATE = """
import json
from study.pipeline import REQUIRED
minutes = dict.fromkeys(REQUIRED, 10)
print(json.dumps({**minutes, "04_train_transformers": 30}))
"""
OLD = """#!/bin/sh
exec {python} -c 'import sys; sys.version_info = (3, 9, 7); exec(sys.argv[2])' "$@"
"""


@pytest.fixture
def project(tmp_path):
    """The Makefile and the pipeline, with seven stages that do nothing."""
    shutil.copytree(HERE / "study/stages", tmp_path / "study/stages")
    for name in ("__init__", "families", "pipeline"):
        shutil.copy(HERE / f"study/{name}.py", tmp_path / "study")
    (tmp_path / "study/estimate.py").write_text(ESTIMATE)
    (tmp_path / "Makefile").write_text((HERE / "Makefile").read_text())
    (tmp_path / "requirements.txt").write_text("")
    for name in pipeline.REQUIRED:
        (tmp_path / f"{name}.py").write_text(FAKE)
    return tmp_path


def run_all(project, *flags, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "study.pipeline", "--quick", *flags],
        cwd=project,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_minutes_before_and_after_and_one_line_the_second_time(project):
    first = run_all(project).splitlines()
    assert first[0].startswith("7 of 7 stages to run: about 90 minutes on this machine")
    assert first[-1].startswith("all stages: ") and "next:" not in "\n".join(first)
    done = [
        line for line in first if re.match(r"3 of 7 stages done after [\d.]+ minutes; about", line)
    ]
    assert len(done) == 1
    assert (
        run_all(project)
        == "everything is up to date: 7 stages; look at: quick/part4_outputs/report.html\n"
    )
    (project / "quick/part4_outputs/06_fit_scaling.txt").unlink()
    mended = run_all(project).splitlines()
    assert mended[0].startswith("1 of 7 stages to run: about 0 minutes")
    assert mended[1:7] == [f"{name}: up to date" for name in pipeline.REQUIRED[:5]] + [
        "--- 06_fit_scaling"
    ]


def test_what_is_left_is_scaled_by_what_was_taken():
    """A machine that takes three times as long as was expected of it is found out."""
    expected = dict.fromkeys(pipeline.REQUIRED, 10.0)
    assert pipeline.minutes_of(pipeline.REQUIRED, expected, {}) == 70
    assert pipeline.minutes_of(["02_midi_to_abc"], expected, {"01_download": 30}) == 30


@pytest.mark.parametrize("what", ["code", "output", "marker", "another command", "an input"])
def test_what_is_not_up_to_date_is_found_without_asking_the_scripts(project, what):
    run_all(project)
    root, name = project / "quick", "02_midi_to_abc"
    if what == "code":
        script = project / f"{name}.py"
        script.write_text(script.read_text().replace('"text"', '"another text"'))
    elif what == "output":
        (root / "data/02_midi_to_abc.txt").write_text("TEXT")
    elif what == "marker":
        (root / "data/02_midi_to_abc.running.json").write_text("{}")
    elif what == "another command":
        run_all(project, "--seed", "1")
    else:
        (root / "data/01_download.txt").write_text("TEXT")
    said = run_all(project)
    assert "everything is up to date" not in said and "stages to run" in said
    assert "everything is up to date" in run_all(project)


def test_the_first_failure_ends_the_run(project):
    (project / "02_midi_to_abc.py").write_text("import sys\nsys.exit('02: no')\n")
    said = run_all(project, code=1)
    assert "02: no" in said and "--- 01_download" in said and "03_tokenize_split" not in said


def test_an_old_python_ends_in_one_sentence(project):
    """From every script and from make, before anything is installed."""
    for script in sorted(HERE.glob("0[1-7]_*.py")):
        tree = ast.parse(script.read_text(), feature_version=(3, 8))
        theirs = next(
            node
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            and (getattr(node, "module", None) or node.names[0].name).split(".")[0]
            not in sys.stdlib_module_names
        )
        assert theirs.module.startswith("study."), f"{script.name} loads {theirs.module} first"
    ast.parse((HERE / "study/__init__.py").read_text(), feature_version=(3, 4))
    old = project / "old-python"
    old.write_text(OLD.format(python=sys.executable))
    old.chmod(0o755)
    for words in ([old, "-c", "import study.stages.stage"], ["make", "run", f"PYTHON={old}"]):
        done = subprocess.run(words, cwd=project, text=True, capture_output=True)
        assert done.returncode and "Python 3.11 or newer is needed, and this is 3.9" in done.stderr
        assert "Traceback" not in done.stderr and not (project / ".venv").exists()
