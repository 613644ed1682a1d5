"""What code decides a number: a digest of the definitions that a function reaches, without words.

A result is made again when that digest changes. It is taken over top-level definitions, across
files: one whose name occurs in a definition already reached is reached too. Not part of it:
comments, docstrings, help texts, messages (`_Wordless`); files that decide no result (`PLUMBING`);
what is looked up by name at run time (`study/families.py`), whose users name the class.
"""

import ast
import functools
import hashlib
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent.parent

TEMPLATES = (".html", ".css", ".js")
PLUMBING = ("study/stages/", "study/train/checkpoints.py", "study/families.py")  # folders and files
# calls whose texts are words
SAYING = set(
    "print fail mended_by progress exit add_argument add_argument_group warn error Stopped".split()
)
# three words in a row: no key and no piece of ABC
SENTENCE = re.compile(r"[A-Za-z]{2,},? [A-Za-z]+,? [A-Za-z]")


def code_digest(roots, words=False):
    """Returns the SHA-256 (hexadecimal) of the definitions that `roots` reach: functions, classes,
    or pairs (path of a Python file, name in it). words: sentences and templates count too."""
    waiting, reached = [_place(root) for root in roots], set()
    while waiting:
        place = waiting.pop()
        if place not in reached:
            reached.add(place)
            waiting += _uses(*place)
    lines = sorted(f"{name} {_digest(path, name, words)}" for path, name in reached)
    if words:
        lines += _templates({path.parent for path, _ in reached})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _place(root):
    """Returns (file, name in it) of a root."""
    if isinstance(root, tuple):
        return Path(root[0]).resolve(), root[1]
    root = getattr(root, "__wrapped__", root)  # functools.cache and the like
    return Path(sys.modules[root.__module__].__file__).resolve(), root.__qualname__.split(".")[0]


def _templates(folders):
    """Returns lines for the templates, styles and scripts beside the code."""
    paths = [path for folder in folders for path in folder.iterdir() if path.suffix in TEMPLATES]
    return sorted(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths)


@functools.cache
def _module(path):
    """Returns {name: syntax trees of its definitions; "": of statements that run at once} and
    {imported name: (file, name in it; None: the file)}."""
    definitions, imported = {"": []}, {}
    for node in ast.parse(path.read_bytes()).body:
        names = {""}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported.update(_imports(node))
            continue
        if _is_text(node) or isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = {node.name}
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            stored = [part for part in parts if isinstance(getattr(part, "ctx", None), ast.Store)]
            names = {part.id for part in stored if isinstance(part, ast.Name)} or names
        for name in names:
            definitions.setdefault(name, []).append(node)
    return definitions, imported


@functools.cache
def _uses(path, name):
    """Returns [(file, name)] in this project that a definition uses."""
    definitions, imported = _module(path)
    parts = [part for tree in definitions.get(name, []) for part in ast.walk(tree)]
    imported, places = dict(imported), [(path, "")]
    for part in parts:
        if isinstance(part, (ast.Import, ast.ImportFrom)):  # inside a function
            imported.update(_imports(part))
    for part in parts:
        if isinstance(part, ast.Name):
            if part.id in definitions:
                places.append((path, part.id))
            elif imported.get(part.id, (None, None))[1]:
                places.append(imported[part.id])
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            file, inner = imported.get(part.value.id, (None, None))
            if file and inner is None:
                places.append((file, part.attr))
    return [place for place in places if not _is_plumbing(place[0])]


@functools.cache
def _digest(path, name, words):
    definitions, _ = _module(path)
    copies = [ast.parse(ast.unparse(tree)).body[0] for tree in definitions.get(name, [])]
    trees = [ast.dump(_Wordless(words).visit(copy)) for copy in copies]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()


def _is_plumbing(path):
    return path.is_relative_to(HERE) and path.relative_to(HERE).as_posix().startswith(PLUMBING)


def _imports(node):
    """Returns {name: (file, name in it or None)} of imports from this project."""
    brought = {}
    for alias in node.names:
        name = alias.asname or alias.name
        if isinstance(node, ast.Import):
            file = HERE.joinpath(*alias.name.split(".")).with_suffix(".py")
            if file.exists() and ("." not in alias.name or alias.asname):  # import common
                brought[name] = file, None
            continue
        folder = HERE.joinpath(*node.module.split("."))
        if (folder / f"{alias.name}.py").exists():  # from study.train import loop
            brought[name] = folder / f"{alias.name}.py", None
        elif folder.with_suffix(".py").exists():  # from study.train.loop import train
            brought[name] = folder.with_suffix(".py"), alias.name
    return brought


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class _Wordless(ast.NodeTransformer):
    """Takes docstrings and messages out; sentences unless they count."""

    def __init__(self, words):
        self.words = words

    def generic_visit(self, node):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                kept = [part for part in statements if not (_is_text(part) or _says(part))]
                setattr(node, field, kept or ([ast.Pass()] if statements else []))
        return super().generic_visit(node)

    def visit_Raise(self, node):
        return _without_text(self.generic_visit(node))

    def visit_Call(self, node):
        node = self.generic_visit(node)
        return _without_text(node) if _called(node) in SAYING else node

    def visit_Constant(self, node):
        if isinstance(node.value, str) and not self.words and SENTENCE.search(node.value):
            return ast.Constant("")
        return node


def _says(statement):
    """True if a statement only prints, or adds a flag, whose value is in the configuration."""
    called = _called(statement.value) if isinstance(statement, ast.Expr) else None
    return called in {"print", "add_argument", "warn"}


def _called(expression):
    """Returns the name of a called function; None if it is no call."""
    function = getattr(expression, "func", None)
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def _without_text(node):
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            part.value = ""
    return node
