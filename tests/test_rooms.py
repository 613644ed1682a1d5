"""The two folders keep to their imports: arrows run down only, and notes and text write no file."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
FILES = {
    path.relative_to(HERE).with_suffix("").as_posix().replace("/", ".").removesuffix(
        ".__init__"
    ): path
    for folder in ("music", "study")
    for path in (HERE / folder).rglob("*.py")
}
FILES["common"] = HERE / "common.py"
# wing -> what of the project it may import, beside common, music and the ground that all share
GROUND = {"stages", "families", "wording", "figures"}
WALLS = {
    "stages": {"families"},
    "prepare": GROUND,
    "train": GROUND,
    "fit": GROUND,
    "evaluate": GROUND | {"train", "fit"},
    "finetune": GROUND | {"train", "prepare", "evaluate"},
    "report": GROUND | {"evaluate", "fit", "train"},
    "families": set(),
    "wording": set(),
    "figures": {"families", "stages"},
    "pipeline": {"stages"},
    "estimate": GROUND | {"train"},
    "full_study": GROUND | {"train", "fit", "pipeline", "estimate"},
}
# the event tokenizer's codec
COMMON_USES = {"music.events"}
# it reads and writes files only, so it gets a temporary folder
USE_ABC2MIDI = {"music.validity"}
WRITING = {
    "write_text",
    "write_bytes",
    "savefig",
    "dump",
    "mkdir",
    "unlink",
    "rename",
    "replace_file",
}


def imports(path):
    """[(module, name or None)] of all imports of a file, those inside functions too: they make
    circles as well."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def used(path):
    """Names in FILES that a file imports."""
    return {
        f"{module}.{name}" if f"{module}.{name}" in FILES else module
        for module, name in imports(path)
    } & set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_run_down(name):
    for module, what in imports(FILES[name]):
        top = module.split(".")[0]
        assert not top[0].isdigit(), "a numbered script is at the top"
        assert what != "*" and (
            what or top not in ("music", "study")
        ), f"write `from {module} import ...`"
        assert (
            name != "common" or top not in ("music", "study") or module in COMMON_USES
        ), "common stands below everything"
        assert not name.startswith("music") or top not in (
            "torch",
            "common",
            "study",
        ), "music is notes and text"


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("study.")))
def test_no_import_crosses_a_wall(name):
    wing = name.split(".")[1]
    reached = {other.split(".")[1] for other in used(FILES[name]) if other.startswith("study.")}
    assert (
        reached - {wing} <= WALLS[wing]
    ), f"{name} may not import {reached - {wing} - WALLS[wing]}"


def test_no_circles():
    waiting = {name: used(path) - {name} for name, path in FILES.items()}
    while free := [name for name, below in waiting.items() if not below & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"these import each other: {sorted(waiting)}"


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("music")))
def test_music_writes_no_file(name):
    for node in ast.walk(ast.parse(FILES[name].read_bytes())):
        if isinstance(node, ast.Call) and name not in USE_ABC2MIDI:
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            assert called not in WRITING, f"line {node.lineno}: {called}"
            assert called != "open" or not {
                part.value
                for part in [*node.args, *(word.value for word in node.keywords)]
                if isinstance(part, ast.Constant)
            } & {"w", "wb", "a", "ab", "x", "xb"}
