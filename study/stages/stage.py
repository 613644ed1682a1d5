"""The stage contract: how every numbered script checks its inputs, writes its outputs and knows
when it is done.

A stage reads the files of earlier stages and writes its own. Its *manifest*,
`<stage>.manifest.json`, is written last and says what was made, from what, by which code. From the
manifests alone every script can tell whether its input is missing, unfinished, damaged or stale,
and whether its own output is up to date. Staleness goes by
content: an upstream stage that ran again and wrote the same bytes makes nothing stale.

    stage = Stage(__file__, args, config={"max_voices": 4})    # exits with the mend if an input is
        not fit
    if stage.up_to_date():
        return
    with stage.writing():                                       # lock + marker: from here on
        "unfinished"
        write_text(stage.root / "data/train.txt", text)         # atomic
        stage.finish(outputs=["data/train.txt"], counts={"tunes": 3}, summary={"tunes": 3})

Loads no torch: converters and their pool workers start quickly.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from importlib import metadata
from pathlib import Path

from study.stages.arguments import fail, resolve_root, root_flags
from study.stages.code_key import HERE, code_digest

from tqdm import tqdm

from study.families import FAMILIES

TRAINING = tuple(family.stage for family in FAMILIES.values())
OPTIONAL = frozenset(family.stage for family in FAMILIES.values() if family.optional) | {
    "08_finetune"
}
# stage -> (folder of its manifest, below the root; stages it reads)
STAGES = {
    "01_download": ("data", ()),
    "02_midi_to_abc": ("data", ("01_download",)),
    "03_tokenize_split": ("data", ("02_midi_to_abc",)),
    **{name: ("checkpoints", ("03_tokenize_split",)) for name in TRAINING},
    "06_fit_scaling": ("part4_outputs", ("03_tokenize_split", *TRAINING)),
    "07_train_best_and_generate": (
        "part4_outputs",
        ("03_tokenize_split", *TRAINING, "06_fit_scaling"),
    ),
    "08_finetune": ("finetuned", ("03_tokenize_split",)),
}
# what one training script should be given as its sister was; --quick, --root and --seed go to every
# stage
BEST = "best_model"  # name of the best model's files
SUITE_FLAGS = (
    "--device",
    "--only",
    "--suite",
    "--seeds",
    "--recipe",
    "--data-fractions",
    "--epochs",
    "--max-train-chars",
    "--max-minutes",
    "--jobs",
)
# recorded in manifests
PACKAGES = ("torch", "music21", "symusic", "numpy", "scipy", "matplotlib", "verovio", "pyppmd")
# prefix of files being written; short, because names may already be 255 bytes long
TEMPORARY = ".tmp-"

# A script that is still loading (torch takes seconds) ends at Ctrl-C without a traceback; `run`
# takes over from here.
if (
    Path(sys.argv[0]).stem in STAGES
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# ---------------------------------------------------------------- the frame of a script


def run(main):
    """Calls a script's main(): Ctrl-C, SIGTERM, a full disk and a closed pipe end in one line, not
    in a traceback."""
    name = Path(sys.argv[0]).stem
    again = "what is finished is kept; the same command goes on from there"

    def terminated(*_):
        raise KeyboardInterrupt("terminated")

    signal.signal(signal.SIGTERM, terminated)
    with contextlib.suppress(AttributeError):  # output that a test has put in its place
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt as stop:
        print(f"\n{name}: {str(stop) or 'interrupted'}: {again}", file=sys.stderr)
        sys.exit(143 if str(stop) else 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "a file would exceed the size limit",
            errno.EROFS: "the folder is read-only",
            errno.EACCES: "permission denied",
            errno.EPERM: "permission denied",
        }
        # tempfile cannot write in any
        if error.errno == errno.ENOENT and "temporary directory" in str(error):
            fail(
                name,
                "the disk is full: no temporary folder can be written",
                f"make room, or set TMPDIR; {again}",
            )
        if error.errno not in reasons:
            raise
        where = f": {error.filename}" if error.filename else ""
        fail(name, f"{reasons[error.errno]}{where}", f"make room or permit writing; {again}")
    except MemoryError:
        fail(
            name,
            "not enough memory",
            f"use a machine with more, or smaller budgets (see --help); {again}",
        )
    except BrokenProcessPool:
        fail(
            name,
            "a worker process was killed, most often for want of memory",
            f"give fewer --workers; {again}",
        )


def progress(iterable=None, total=None, desc=None, unit="it"):
    """tqdm on a terminal, silent elsewhere and in worker processes, whose bars would write over
    each other."""
    silent = not sys.stderr.isatty() or multiprocessing.parent_process() is not None
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=silent, dynamic_ncols=True)


# ---------------------------------------------------------------- machine


def cpu_count():
    """Cores that this process may use."""
    # not on macOS
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_alive(pid):
    """True if there is a process of this number."""
    try:
        os.kill(pid, 0)  # signal 0 asks only
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # there is one, of another user
        pass
    return True


def die_with_parent():
    """The first call of a worker process: Ctrl-C is its parent's business, and it ends when its
    parent does, however that ended. (A worker that merely finds its pipe closed may be at a file
    for minutes, and then complains.)"""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent.pid:  # it died before it could be told
            os._exit(1)
    else:  # a thread, which has to wait while C code holds the interpreter
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def worker_pool(n_workers, n_jobs):
    """A ProcessPoolExecutor of at most n_workers, at most one a core and one a job; use its `map`.

    The workers end with this process. One that is killed ends the work with BrokenProcessPool, of
    which `run` makes a sentence (a multiprocessing.Pool would wait for its answer for ever).
    """
    # fork where it is safe, as no thread runs yet: a spawned worker of a script loads torch, for
    # seconds
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(
        max(1, min(n_workers, cpu_count(), n_jobs)), context, die_with_parent
    )
    shown = threading.excepthook
    try:
        yield pool
    except BaseException:
        # the pool's own thread hears of the deaths and finds its futures cancelled: a traceback
        # that helps nobody
        threading.excepthook = lambda _: None
        for worker in multiprocessing.active_children():
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        threading.excepthook = shown


# ---------------------------------------------------------------- files

_temporary_number = itertools.count()


@contextlib.contextmanager
def atomic(path, mode="w", durable=True):
    """Opens a temporary file beside `path`; it takes the name `path` only when it is complete.

    durable: flush to disk before the rename. Switch it off for thousands of small files;
    `Stage.finish` syncs the disk once for all of them before it writes the manifest.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{next(_temporary_number)}"
    try:
        # a byte of a path that is no UTF-8 is written as \udcff, which JSON reads back
        text = {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
        with open(temporary, mode, **({} if "b" in mode else text)) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text, durable=True):
    """Writes text (UTF-8, LF) atomically."""
    with atomic(path, durable=durable) as file:
        file.write(text)


def write_bytes(path, data, durable=True):
    """Writes bytes atomically."""
    with atomic(path, "wb", durable=durable) as file:
        file.write(data)


def write_json(path, value):
    """Writes strict JSON atomically; NaN and Infinity raise ValueError (a value that was not
    measured is None)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path):
    """The value in a JSON file, or None if the file is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (
        FileNotFoundError,
        NotADirectoryError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        RecursionError,
    ):
        return None


def file_digest(path):
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value):
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def stage_code(name):
    """Digest of the code of a stage: what its main() reaches. Where pages and figures are made,
    words count too, and the names and colours of the families."""
    shows = STAGES[name][0] == "part4_outputs"
    code = code_digest([(HERE / f"{name}.py", "main")], words=shows)
    return value_digest([code, list(FAMILIES.values())]) if shows else code


def tree_files(folder):
    """All files under `folder` as sorted relative paths (str), temporary ones left out; no links
    are followed."""
    found, folders = [], [""]
    while folders:
        below = folders.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(below + entry.name + "/")
                elif not entry.name.startswith(TEMPORARY):
                    found.append(below + entry.name)
    return sorted(found)


def remove_temporaries(folder):
    """Deletes what killed writers left behind; files of living processes stay."""
    for path in folder.rglob(TEMPORARY + "*"):
        pid = path.name[len(TEMPORARY) :].split("-")[0]
        if not (pid.isdigit() and int(pid) != os.getpid() and is_alive(int(pid))):
            path.unlink(missing_ok=True)


def _index_line(relative, stat, digest):
    return f"{stat.st_size}\t{stat.st_mtime_ns}\t{digest}\t{json.dumps(relative)}\n"


def _describe_tree(folder, index_path):
    """Digests every file of a folder; the index keeps size, time and digest, so that checks need
    not read them again."""
    tree, n_files, n_bytes = hashlib.sha256(), 0, 0
    known = _read_index(index_path)
    with atomic(index_path) as index:
        for relative in tree_files(folder):
            stat = os.stat(folder / relative)
            size, mtime, digest = known.get(relative, (None, None, None))
            if (size, mtime) != (stat.st_size, stat.st_mtime_ns):
                digest = file_digest(folder / relative)
            index.write(_index_line(relative, stat, digest))
            tree.update(f"{json.dumps(relative)}\t{digest}\n".encode())
            n_files, n_bytes = n_files + 1, n_bytes + stat.st_size
    return {"files": n_files, "bytes": n_bytes, "sha256": tree.hexdigest()}


def _describe_file(path):
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _read_index(index_path):
    known = {}
    if index_path.exists():
        for line in index_path.read_text(encoding="utf-8").splitlines():
            # a torn line means only that one file is read again
            with contextlib.suppress(ValueError):
                size, mtime, digest, relative = line.split("\t", 3)
                known[json.loads(relative)] = int(size), int(mtime), digest
    return known


def _damage(root, name, expected, index_path):
    """What differs between an output and its manifest entry, in words; None if it is intact."""
    path = root / name
    if not path.exists():
        return f"{name} is gone"
    if "files" not in expected:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size:,} bytes instead of {expected['bytes']:,}"
        return (
            None
            if file_digest(path) == expected["sha256"]
            else f"{name} has changed since it was written"
        )
    now, known = tree_files(path), _read_index(index_path)
    if len(now) != expected["files"]:
        return f"{name} holds {len(now):,} files instead of {expected['files']:,}"
    tree = hashlib.sha256()
    for relative in now:
        stat = os.stat(path / relative)
        size, mtime, digest = known.get(relative, (None, None, None))
        if (size, mtime) != (stat.st_size, stat.st_mtime_ns):
            digest = file_digest(path / relative)
        tree.update(f"{json.dumps(relative)}\t{digest}\n".encode())
    return (
        None
        if tree.hexdigest() == expected["sha256"]
        else f"{name} has changed since it was written"
    )


# ---------------------------------------------------------------- the stage


def stage_folder(name):
    """(folder of a stage's manifest below the root, its script's name); `08_finetune/mine` is one
    of several that a script makes.

    >>> stage_folder("02_midi_to_abc"), stage_folder("08_finetune/mine")
    (('data', '02_midi_to_abc'), ('finetuned/mine', '08_finetune'))
    """
    script, _, part = name.partition("/")
    return f"{STAGES[script][0]}/{part}".rstrip("/"), script


def manifest_path(root, name):
    """Where a stage's manifest stands, e.g. ROOT/data/02_midi_to_abc.manifest.json."""
    folder, script = stage_folder(name)
    return root / folder / f"{script}.manifest.json"


def marker_path(root, name):
    """The marker that a stage leaves while it is writing: an interrupted run leaves it behind."""
    folder, script = stage_folder(name)
    return root / folder / f"{script}.running.json"


def who_writes(root, name):
    """The process that is at work on a stage in this root, in words, as its marker tells."""
    other = read_json(marker_path(root, name)) or {}
    return (
        f"process {other['pid']}, started {other['started']}"
        if "pid" in other
        else "another process"
    )


def stages_read(root, name):
    """The stages whose outputs a stage reads in this root: those of optional families only if they
    were run."""
    return [
        before
        for before in STAGES[name][1]
        if before not in OPTIONAL
        or manifest_path(root, before).exists()
        or marker_path(root, before).exists()
    ]


def load_manifest(root, name):
    """A stage's manifest as a dict, or None if there is none that can be read."""
    manifest = read_json(manifest_path(root, name))
    with contextlib.suppress(ValueError):  # infinite numbers, which no stage writes
        if isinstance(manifest, dict) and manifest.get("seal") == _seal(manifest):
            return manifest
    return None


def restate(root, name, outputs):
    """Puts files of a finished stage that a later one has written anew into its manifest; their
    content is a function of what stands in the root, and both write it by the same function.
    Nothing happens without a manifest."""
    manifest = load_manifest(root, name)
    if manifest is not None:
        described = {
            **manifest["outputs"],
            **{
                output: _describe_file(root / output)
                for output in outputs
                if output in manifest["outputs"]
            },
        }
        manifest.update(outputs=described, output_digest=value_digest(described))
        write_json(manifest_path(root, name), {**manifest, "seal": _seal(manifest)})


def _seal(manifest):
    """Digest of all that a manifest says: one that was edited by hand is not believed."""
    return value_digest({key: value for key, value in manifest.items() if key != "seal"})


def all_problems(root, names, flags=""):
    """[(problem, mending command)] of these stages and, first, of what they in turn are made from,
    in the order in which the commands are to be run."""
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
    """[(problem, mending command)] for the outputs of stage `name`: missing, unfinished, damaged or
    stale."""
    folder, script = stage_folder(name)
    manifest, command = load_manifest(root, name), f"python {script}.py{flags}"
    if marker_path(root, name).exists():
        return [
            (
                f"unfinished: {name} was interrupted before its output in {folder}/ was complete",
                command,
            )
        ]
    if manifest is None:
        if manifest_path(root, name).exists():
            return [
                (
                    f"damaged: {folder}/{name}.manifest.json cannot be read or was edited",
                    command + " --force",
                )
            ]
        return [(f"missing: there is no output of {name} in {folder}/", command)]
    problems = []
    for before, digest in manifest["inputs"].items():
        upstream = load_manifest(root, before)
        if upstream and upstream["output_digest"] != digest:
            problems.append(
                (f"stale: the output of {name} was made from an older output of {before}", command)
            )
    if manifest["code_digest"] != stage_code(script):
        problems.append(
            (f"stale: {name}.py (or a module it uses) has changed since it ran", command)
        )
    for output, expected in manifest["outputs"].items():
        damage = _damage(root, output, expected, _index_path(root, name, output))
        if damage:
            problems.append((f"damaged: {damage}", command))
    return problems


def is_up_to_date(root, name, words):
    """True if the manifest of a stage says that this command made what stands in the root now.

    words: of the command line. It asks no script, so that seven stages take seconds; False means
    only that the script has to be asked.
    """
    manifest = load_manifest(root, name)
    return (
        manifest is not None
        and manifest["command"] == command_line(name, words)
        and set(manifest["inputs"]) == set(stages_read(root, name))
        and not manifest.get("missing")
        and not input_problems(root, name)
    )


def command_line(name, words):
    """A stage's command as manifests keep it: absolute paths cut to their last part."""
    shown = [f".../{Path(word).name}" if word.startswith("/") else word for word in words]
    return " ".join(["python", f"{name}.py", *shown])


def _index_path(root, name, output):
    folder, script = stage_folder(name)
    return root / folder / f".{script}.{output.replace('/', '-')}.files.tsv"


def environment(device=None):
    """Versions and machine for the record; no paths, no host name."""
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


class Stage:
    """One run of one numbered script.

    script: its __file__; args: its parsed arguments (root, quick, force, seed);
    config: what decides the outputs' bytes, as JSON values (root, workers, device do not belong
    here);
    reads: stages whose outputs it reads (default: as in STAGES);
    shared: several processes may run this stage at once on one root (they lock their own parts);
    part: name of what it makes, if the script makes several things, each with a manifest of its
    own;
    Attributes: name, root, flags, config, key, inputs ({stage: output digest}), resuming (inside
    `writing`).
    """

    def __init__(self, script, args, config, reads=None, shared=False, part=None):
        self.name, self.args, self.root = Path(script).stem, args, resolve_root(args)
        self.place = f"{self.name}/{part}" if part else self.name
        self.flags = root_flags(args) + (f" --seed {args.seed}" if args.seed else "")
        self.shared, self.started = shared, time.monotonic()
        self.config = {"quick": args.quick, "seed": args.seed, **config}
        self.manifest_path, self.marker = manifest_path(self.root, self.place), marker_path(
            self.root, self.place
        )
        self.resuming, self._locks = False, []
        reads = stages_read(self.root, self.name) if reads is None else reads
        problems = all_problems(self.root, reads, self.flags)
        if problems:
            commands = list(dict.fromkeys(command for _, command in problems))
            fail(
                f"{self.name}.py",
                "\n".join(dict.fromkeys(text for text, _ in problems)),
                "run: " + " && ".join(commands),
            )
        self.inputs = {name: load_manifest(self.root, name)["output_digest"] for name in reads}
        self.code = stage_code(self.name)
        self.key = value_digest({"config": self.config, "code": self.code, "inputs": self.inputs})

    def up_to_date(self):
        """True (and says so) if the outputs on disk are what this run would write."""
        manifest = load_manifest(self.root, self.place)
        if self.args.force or manifest is None or manifest.get("key") != self.key:
            return False
        if input_problems(self.root, self.place):
            return False
        print(f"{self.name}: up to date")
        self._print_next()
        return True

    @contextlib.contextmanager
    def writing(self):
        """Holds the stage's lock while outputs are written. Sets `resuming` if an interrupted run
        of this very key left its work behind; leaves the marker in place unless `finish` was
        reached."""
        self._lock()
        before = read_json(self.marker) or {}
        self.resuming = before.get("key") == self.key and not self.args.force
        remove_temporaries(self.marker.parent)
        write_json(
            self.marker, {"key": self.key, "pid": os.getpid(), "started": time.strftime("%F %T")}
        )
        try:
            yield self
        finally:
            for lock in self._locks:
                lock.close()
            self._locks = []

    def _lock(self):
        mode = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
        for name, mode in [(self.place, mode)] + [(name, fcntl.LOCK_SH) for name in self.inputs]:
            folder, script = stage_folder(name)
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            lock = open(self.root / folder / f".{script}.lock", "a")
            try:
                fcntl.flock(lock, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                fail(
                    f"{self.name}.py",
                    f"{name} is in use in this root by {who_writes(self.root, name)}",
                    "wait until it has ended, or stop it",
                )
            self._locks.append(lock)

    def finish(self, outputs, counts=None, skipped=None, summary=None, device=None, extra=None):
        """Writes the manifest, removes the marker and prints the closing block.

        outputs: files and folders below the root (relative paths, str); counts: {what: number};
        skipped: {reason: number}; summary: {key: value} of the closing block (printed, not
        digested);
        extra: further JSON entries of the manifest.
        """
        os.sync()
        described = {}
        for output in sorted(outputs):
            path = self.root / output
            if path.is_dir():
                remove_temporaries(path)
                described[output] = _describe_tree(path, _index_path(self.root, self.place, output))
            else:
                described[output] = _describe_file(path)
        seconds = round(time.monotonic() - self.started, 3)
        manifest = {
            "stage": self.name,
            "command": command_line(self.name, given_words(self.args)),
            "config": self.config,
            "key": self.key,
            "code_digest": self.code,
            "inputs": self.inputs,
            "outputs": described,
            "output_digest": value_digest(described),
            "counts": counts or {},
            "skipped": skipped or {},
            **(extra or {}),
            "environment": environment(device),
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        # as it will be read, e.g. keys that are numbers
        manifest = json.loads(json.dumps(manifest, allow_nan=False))
        write_json(self.manifest_path, {**manifest, "seal": _seal(manifest)})
        own = self._locks[0]
        # a sister process still at work keeps the marker
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.marker.unlink(missing_ok=True)
        print(f"--- {self.name}")
        for key, value in {**(summary or {}), "seconds": seconds}.items():
            print(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}")
        self._print_next()

    def _print_next(self):
        names = [name for name in STAGES if name == self.name or name not in OPTIONAL]
        after = names[names.index(self.name) + 1 :][:1]
        folder = "" if self.root == HERE else f"{self.args.root or 'quick'}/"
        if not after:
            print(
                f"look at: {folder}part4_outputs/report.html and {folder}part4_outputs/RESULTS.json"
            )
            return
        carried = SUITE_FLAGS if {self.name, *after} <= set(TRAINING) else ()
        print(f"next: python {after[0]}.py{self.flags}{repeated(given_words(self.args), carried)}")


def given_words(args):
    """The words of the command line that `args` were read from."""
    return getattr(args, "words", sys.argv[1:])


def repeated(words, flags):
    """Those of a command line's flags that another stage should have too, with their values, as a
    shell wants them.

    >>> repeated(["--quick", "--only=tiny, small", "--device", "cpu"], ("--only", "--device"))
    " --only 'tiny, small' --device cpu"
    """
    said = ""
    for word, following in zip(words, [*words[1:], ""]):
        flag, equals, value = word.partition("=")
        if flag in flags:
            said += f" {flag} {shlex.quote(value if equals else following)}"
    return said


def plain(value, digits=None):
    """The same as strict JSON wants it: tuples as lists, NumPy's types and fractions as Python's
    numbers (to so many significant digits), keys as text, and None for what is no finite number.

    >>> plain({3: (float("nan"), Fraction(1, 2))})
    {'3': [None, 0.5]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a NumPy array or number
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item, digits) for item in value]
    if isinstance(value, Fraction):
        value = float(value)
    if not isinstance(value, float):
        return value
    return (
        None
        if not math.isfinite(value)
        else value if digits is None else float(f"{value:.{digits}g}")
    )
