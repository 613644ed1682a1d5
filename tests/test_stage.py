"""The stage contract, on a pipeline of three small scripts run as a user runs them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

from study.stages.code_key import HERE, code_digest
from study.stages.files import TEMPORARY, atomic, read_json, write_json, write_text
from study.stages.process import cpu_count
from study.stages.stage import SUITE_FLAGS, repeated

import pytest

SCRIPT = '''"""A small stage."""
import sys, time
from study.stages.arguments import fail, stage_parser
from study.stages.files import write_text
from study.stages.process import run
from study.stages.stage import Stage
TEXT = "one"  # knob

def main(argv=None):
    parser = stage_parser(__doc__)
    parser.add_argument("--shout", action="store_true")
    parser.add_argument("--sleep", type=float, default=0)
    args = parser.parse_args(argv)
    stage = Stage(__file__, args, config={"shout": args.shout})
    if stage.up_to_date():
        return
    with stage.writing():
        before = "".join((stage.root / f"data/{name}.txt").read_text() for name in stage.inputs)
        print("resuming" if stage.resuming else "from the start", flush=True)
        write_text(stage.root / f"data/{stage.name}.txt", before + (TEXT.upper() if args.shout else TEXT))
        write_text(stage.root / f"data/tree-{stage.name}/a/b.txt", TEXT, durable=False)
        time.sleep(args.sleep)
        stage.finish([f"data/{stage.name}.txt", f"data/tree-{stage.name}"], counts={"texts": 2}, skipped={"empty": 1})

if __name__ == "__main__":
    run(main)
'''
NAMES = ["01_download", "02_midi_to_abc", "03_tokenize_split"]


@pytest.fixture
def project(tmp_path):
    shutil.copytree(HERE / "study/stages", tmp_path / "study/stages")
    shutil.copy(HERE / "study/families.py", tmp_path / "study")
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(SCRIPT)
    return tmp_path


def call(project, name, *flags, code=0):
    done = subprocess.run(
        [sys.executable, f"{name}.py", *flags], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def call_all(project):
    return [call(project, name) for name in NAMES]


def test_runs_once_then_does_nothing(project):
    first = call_all(project)
    assert "next: python 02_midi_to_abc.py" in first[0]
    before = {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*.txt")}
    assert all("up to date" in output for output in call_all(project))
    assert before == {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*.txt")}
    assert "from the start" in call(project, "02_midi_to_abc", "--force")


def test_manifest_records_what_was_made_and_no_absolute_path(project):
    call(project, "01_download", "--root", str(project / "elsewhere"))
    path = project / "elsewhere/data/01_download.manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["counts"] == {"texts": 2} and manifest["skipped"] == {"empty": 1}
    assert manifest["outputs"]["data/01_download.txt"]["bytes"] == 3
    assert manifest["environment"]["python"] and manifest["seconds"] >= 0
    assert str(project) not in path.read_text()


def test_missing_input_names_the_command(project):
    error = call(project, "02_midi_to_abc", "--quick", code=1)
    assert "missing" in error and "python 01_download.py --quick" in error
    assert not (project / "quick").exists()


def test_missing_inputs_name_all_the_stages_to_run_in_order(project):
    error = call(project, "03_tokenize_split", "--root", "my root", "--seed", "3", code=1)
    assert (
        "-> run: python 01_download.py --root 'my root' --seed 3 && python 02_midi_to_abc.py --root"
        " 'my "
        in error
    )
    call(project, "01_download", "--root", "my root", "--seed", "3")
    error = call(project, "03_tokenize_split", "--root", "my root", "--seed", "3", code=1)
    assert "-> run: python 02_midi_to_abc.py --root 'my root' --seed 3\n" in error


def test_the_next_command_can_be_pasted(project):
    """Flags that the next stage has too come with it, quoted."""
    said = call(project, "01_download", "--root", "it's mine", "--seed", "7", "--quick", "--shout")
    line = next(line for line in said.splitlines() if line.startswith("next: "))
    assert shlex.split(line)[2:] == [
        "02_midi_to_abc.py",
        "--quick",
        "--root",
        "it's mine",
        "--seed",
        "7",
    ]
    assert (
        subprocess.run(
            line.removeprefix("next: ").replace("python", sys.executable, 1),
            shell=True,
            cwd=project,
            capture_output=True,
        ).returncode
        == 0
    )
    words = [
        "--only=tiny, small",
        "--max-train-chars",
        "1000",
        "--force",
        "--max-minutes",
        "2",
        "--device",
        "cpu",
    ]
    assert (
        repeated(words, SUITE_FLAGS)
        == " --only 'tiny, small' --max-train-chars 1000 --max-minutes 2 --device cpu"
    )


def test_names_that_are_not_utf8(project):
    """They are written and printed with escapes, and read back as they are."""
    assert "next: python 02_midi_to_abc.py" in call(project, "01_download", "--root", b"caf\xe9")
    assert "up to date" in call(project, "01_download", "--root", b"caf\xe9")
    assert (
        "caf\\udce9" in (
            project / os.fsdecode(b"caf\xe9") / "data/01_download.manifest.json"
        ).read_text()
    )


def test_damaged_and_stale_inputs_are_refused_and_the_mend_mends(project):
    call_all(project)
    (project / "data/01_download.txt").write_text("two")
    error = call(project, "02_midi_to_abc", code=1)
    assert (
        "damaged" in error and "data/01_download.txt" in error and "python 01_download.py" in error
    )
    call(project, "01_download")
    assert "up to date" in call(project, "02_midi_to_abc")  # the same bytes again: nothing is stale
    call(project, "01_download", "--shout")
    error = call(project, "03_tokenize_split", code=1)
    assert "stale" in error and "python 02_midi_to_abc.py" in error
    call(project, "02_midi_to_abc")
    call(project, "03_tokenize_split")
    assert (project / "data/03_tokenize_split.txt").read_text() == "ONEoneone"


def test_a_changed_or_added_file_in_a_folder_is_damage(project):
    call_all(project)
    tree = project / "data/tree-01_download"
    (tree / "a/b.txt").write_text("owe")
    assert "damaged" in call(project, "02_midi_to_abc", code=1)
    call(project, "01_download")
    (tree / "extra.txt").write_text("mine")
    assert "holds 2 files instead of 1" in call(project, "02_midi_to_abc", code=1)


def test_an_edited_manifest_is_refused(project):
    call_all(project)
    path = project / "data/01_download.manifest.json"
    path.write_text(path.read_text().replace('"bytes": 3', '"bytes": 4', 1))
    assert "was edited" in call(project, "02_midi_to_abc", code=1)


def test_code_edits_take_effect_but_comments_do_not(project):
    call_all(project)
    script = project / "02_midi_to_abc.py"
    script.write_text(
        script.read_text().replace("# knob", "# another comment").replace("A small", "Some")
    )
    assert "up to date" in call(project, "02_midi_to_abc")
    script.write_text(script.read_text().replace('"one"', '"two"'))
    assert "stale" in call(project, "03_tokenize_split", code=1)
    call(project, "02_midi_to_abc")
    call(project, "03_tokenize_split")
    assert (project / "data/03_tokenize_split.txt").read_text() == "onetwoone"


@pytest.mark.parametrize(
    "with_signal, code",
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["kill", "terminate", "ctrl-c"],
)
def test_an_interrupted_stage_is_unfinished_and_continues(project, with_signal, code):
    call_all(project)
    process = subprocess.Popen(
        [sys.executable, "01_download.py", "--shout", "--sleep", "300"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "from the start" in process.stdout.readline()
    refused = call(project, "01_download", "--shout", code=1)
    assert f"in use in this root by process {process.pid}" in refused
    assert "in use" in call(project, "01_download", code=1)
    process.send_signal(with_signal)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in error
    said = {
        signal.SIGKILL: "",
        signal.SIGTERM: "terminated: what",
        signal.SIGINT: "interrupted: what",
    }
    assert said[with_signal] in error
    unfinished = call(project, "02_midi_to_abc", code=1)
    assert "unfinished" in unfinished and "python 01_download.py" in unfinished
    assert "resuming" in call(project, "01_download", "--shout")
    assert not list(project.rglob(TEMPORARY + "*"))


def test_ctrl_c_while_a_script_is_loading(project):
    script = project / "01_download.py"
    script.write_text(
        "import time\nfrom study.stages import process\nprint('loading',"
        " flush=True)\ntime.sleep(300)\nprocess.run(None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script.name],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == -signal.SIGINT


POOL = """
import os, signal, sys, time
from study.stages.process import run, worker_pool

def work(number):
    open("at-work", "w").close()
    if number == {killer}:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep({sleep})
    return number

def main():
    with worker_pool(10_000, 40) as pool:
        print(sum(pool.map(work, range(40))), len(pool._processes), flush=True)

run(main)
"""


def test_a_pool_has_one_worker_a_core_and_ends_when_one_is_killed(project):
    script = project / "pool.py"
    script.write_text(POOL.format(killer=None, sleep=0))
    assert call(project, "pool") == f"780 {cpu_count()}\n"
    script.write_text(POOL.format(killer=7, sleep=0))
    assert "pool: a worker process was killed, most often for want of memory\n  -> " in call(
        project, "pool", code=1
    )


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "end"])
def test_no_worker_of_a_pool_outlives_its_parent(project, with_signal):
    (project / "pool.py").write_text(POOL.format(killer=None, sleep=300))
    process = subprocess.Popen(
        [sys.executable, "pool.py"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    while not (project / "at-work").exists():
        time.sleep(0.01)
    process.send_signal(with_signal)
    error = process.communicate(timeout=60)[1]  # the pipe ends with its last writer
    assert error.strip() == (
        ""
        if with_signal == signal.SIGKILL
        else "pool: terminated: what is finished is kept; the same command goes on from there"
    )


SENDING = """
from study.stages.process import run, worker_pool

def work(number):
    open("at-work", "w").close()
    return bytes(300_000_000)

def main():
    with worker_pool(2, 40) as pool:
        for _ in pool.map(work, range(40)):
            pass

run(main)
"""
IN_A_DESTRUCTOR = """
import os, signal, time
from study.stages.process import run

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        time.sleep(1)

def main():
    Last()
    open("at-work", "w").close()
    while True:
        time.sleep(0.01)

run(main)
"""


@pytest.mark.parametrize(
    "script, code",
    [
        (SENDING, 143),
        (IN_A_DESTRUCTOR.format(number="SIGTERM"), 143),
        (IN_A_DESTRUCTOR.format(number="SIGINT"), 130),
    ],
    ids=["half a result is sent", "terminated in a destructor", "interrupted in a destructor"],
)
def test_a_signal_ends_a_script_wherever_it_comes(project, script, code):
    (project / "slow.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    while not (project / "at-work").exists():
        time.sleep(0.01)
    if script == SENDING:
        process.terminate()
    error = process.communicate(timeout=60)[1]
    word = {143: "terminated", 130: "interrupted"}[code]
    kept = "what is finished is kept; the same command goes on from there"
    assert error.strip() == f"slow: {word}: {kept}"
    assert process.returncode == code


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / ("x" * 251 + ".txt")
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write("half of the new")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "torn.json").write_text('{"a": 1')
    assert read_json(tmp_path / "torn.json") is None


def test_full_disk_is_one_line(project):
    script = project / "01_download.py"
    script.write_text(
        script.read_text().replace(
            "time.sleep(args.sleep)",
            "import errno; raise OSError(errno.ENOSPC, 'No space left', 'data/x')",
        )
    )
    error = call(project, "01_download", code=1)
    assert "the disk is full: data/x" in error
    assert "unfinished" in call(project, "02_midi_to_abc", code=1)


def test_templates_beside_the_code_count_where_words_do(tmp_path):
    """An edit of a page's template, style or script makes the page again."""
    (tmp_path / "page.py").write_text("def main():\n    return 1\n")
    digests = set()
    for name in ("page.html", "page.css", "page.js"):
        for text in ("one", "another"):
            (tmp_path / name).write_text(text)
            digests.add(code_digest([(tmp_path / "page.py", "main")], words=True))
    assert len(digests) == 6
    assert code_digest([(tmp_path / "page.py", "main")]) not in digests
