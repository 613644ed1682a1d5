"""What code decides a number: a digest of the definitions that a function can reach, without the
words in them.

A result is made again when its key changes, and its key holds the digest of the code that made it.
A digest of files would be too coarse (a colour, a message or a function beside the one that counts
would train nine models again), so the digest is taken over *definitions*: starting from the
functions and classes named, every top-level definition of this project whose name occurs in one
already reached is reached too, across files.

    code_digest((evaluate, Transformer))        # functions and classes
    code_digest([(HERE / "06_fit_scaling.py", "main")], words=True)

Not part of it: comments, docstrings, help texts, log lines, messages of errors (`_Wordless`); files
that move results but decide none (`PLUMBING`); what is looked up by name at run time (the rows of
`study/families.py`), whose users name the class that they use themselves.
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
SAYING = frozenset(
    {
        "print",
        "fail",
        "progress",
        "exit",
        "add_argument",
        "add_argument_group",
        "warn",
        "error",
        "Stopped",
    }
)
# three words in a row: no key and no piece of ABC
SENTENCE = re.compile(r"[A-Za-z]{2,},? [A-Za-z]+,? [A-Za-z]")


def code_digest(roots, words=False):
    """SHA-256 (hexadecimal) over the definitions that `roots` reach.

    roots: functions, classes, or pairs (path of a Python file, name in it). words: sentences count
    too, and templates; for what writes pages and captions, where the words are the result.
    """
    waiting, reached = [_place(root) for root in roots], set()
    while waiting:
        place = waiting.pop()
        if place not in reached:
            reached.add(place)
            waiting += _module(place[0]).dependencies(place[1])
    # wherever it stands
    lines = sorted(f"{name} {_module(path).digest(name, words)}" for path, name in reached)
    if words:
        lines += _templates({path.parent for path, _ in reached})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _templates(folders):
    """Lines for the pages' templates, styles and scripts that stand beside the code."""
    paths = [path for folder in folders for path in folder.iterdir() if path.suffix in TEMPLATES]
    return sorted(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths)


def _place(root):
    if isinstance(root, tuple):
        return Path(root[0]).resolve(), root[1]
    root = getattr(root, "__wrapped__", root)  # functools.cache and the like
    return Path(sys.modules[root.__module__].__file__).resolve(), root.__qualname__.split(".")[0]


@functools.cache
def _module(path):
    return _Module(path)


class _Module:
    """The top-level definitions of one file: what each is called, what it uses, and its digest."""

    def __init__(self, path):
        self.path = path
        # name -> syntax trees; "": statements that run when the file is loaded
        self.definitions = {"": []}
        self.imported = {}  # name -> (file, name in it; None: the file itself)
        self._dependencies, self._digests = {}, {}  # as they are asked for
        for node in ast.parse(path.read_bytes()).body:
            self._add(node)

    def _add(self, node):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imported.update(_imports(node, self.path))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in {
                part.id
                for target in targets
                for part in ast.walk(target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            } or {""}:
                self.definitions.setdefault(name, []).append(node)
        elif not (
            _is_text(node) or isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        ):
            self.definitions[""].append(node)

    def dependencies(self, name):
        """The places [(file, name)] that this definition uses, in this project."""
        if name not in self._dependencies:
            self._dependencies[name] = self._uses(name)
        return self._dependencies[name]

    def _uses(self, name):
        trees = self.definitions.get(name, [])
        imported = dict(self.imported)
        for node in (part for tree in trees for part in ast.walk(tree)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):  # inside a function
                imported.update(_imports(node, self.path))
        places = [(self.path, "")]
        for node in (part for tree in trees for part in ast.walk(tree)):
            if isinstance(node, ast.Name):
                if node.id in self.definitions:
                    places.append((self.path, node.id))
                elif node.id in imported and imported[node.id][1]:
                    places.append(imported[node.id])
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                file, inner = imported.get(node.value.id, (None, None))
                if file and inner is None:
                    places.append((file, node.attr))
        return [place for place in places if not _is_plumbing(place[0])]

    def digest(self, name, words):
        """SHA-256 over the syntax trees of a name's definitions."""
        if (name, words) not in self._digests:
            trees = [
                ast.dump(_Wordless(words).visit(_copy(tree)))
                for tree in self.definitions.get(name, [])
            ]
            self._digests[name, words] = hashlib.sha256("\n".join(trees).encode()).hexdigest()
        return self._digests[name, words]


def _is_plumbing(path):
    return path.is_relative_to(HERE) and path.relative_to(HERE).as_posix().startswith(PLUMBING)


def _imports(node, path):
    """{name: (file, name in it or None)} of what an import statement brings from this project."""
    brought = {}
    if isinstance(node, ast.ImportFrom):
        folder = (
            HERE.joinpath(*(node.module or "").split("."))
            if not node.level
            else path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        )
        for alias in node.names:
            name = alias.asname or alias.name
            if (folder / f"{alias.name}.py").exists():  # from study import training
                brought[name] = folder / f"{alias.name}.py", None
            elif folder.with_suffix(".py").exists():  # from study.train.loop import train
                brought[name] = folder.with_suffix(".py"), alias.name
            elif (folder / "__init__.py").exists():  # from study.report import x
                brought[name] = folder / "__init__.py", alias.name
    else:
        for alias in node.names:
            file = HERE.joinpath(*alias.name.split(".")).with_suffix(".py")
            if file.exists() and ("." not in alias.name or alias.asname):  # import common
                brought[alias.asname or alias.name] = file, None
    return brought


def _is_text(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _copy(tree):
    return ast.parse(ast.unparse(tree)).body[0]


class _Wordless(ast.NodeTransformer):
    """Takes words out of a syntax tree: docstrings, log lines, help texts, messages; sentences too
    unless they count."""

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
    """True for a statement that only prints something or adds a flag to a command line, whose
    values stand in the configuration of the stage anyway."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and _called(statement.value) in {"print", "add_argument", "warn"}
    )


def _called(call):
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def _without_text(node):
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            part.value = ""
    return node
