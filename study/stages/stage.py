"""The stage contract: how a numbered script checks inputs, writes outputs and knows it is done.

stage = Stage(__file__, args, config={"max_voices": 4})  # fails with the mend of its inputs
if stage.up_to_date():
    return
with stage.writing():  # lock and marker: from here on "unfinished"
    write_text(stage.root / "data/train.txt", text)
    stage.finish(outputs=["data/train.txt"], counts={"tunes": 3})
"""

import contextlib
import fcntl
import os
import shlex
import time
from pathlib import Path

from study.stages.arguments import fail, resolve_root, root_flags
from study.stages.code_key import HERE
from study.stages.files import describe, read_json, remove_temporaries, value_digest, write_json
from study.stages.manifest import (
    OPTIONAL,
    STAGES,
    TRAINING,
    all_problems,
    command_line,
    environment,
    index_path,
    input_problems,
    load_manifest,
    marker_path,
    stage_code,
    stage_folder,
    stages_read,
    write_manifest,
)

# what a training script should be given as the one before it was
SUITE_FLAGS = (
    "--device --only --suite --seeds --recipe --data-fractions --epochs --max-train-chars"
    " --max-minutes --jobs"
).split()


class Stage:
    """One run of one numbered script.

    script: its __file__; args: its parsed arguments;
    config: what decides the outputs' bytes, as JSON values (not root, workers, device);
    reads: stages whose outputs it reads (default: as in STAGES);
    shared: several processes may run it at once, with locks of their own;
    part: name of what it makes now, with a manifest of its own.
    inputs: {stage: output digest}; resuming: an interrupted run of this key left its work behind.
    """

    def __init__(self, script, args, config, reads=None, shared=False, part=None):
        self.name, self.args, self.root = Path(script).stem, args, resolve_root(args)
        self.place = f"{self.name}/{part}" if part else self.name
        self.flags = root_flags(args) + (f" --seed {args.seed}" if args.seed else "")
        self.shared, self.started = shared, time.monotonic()
        self.config = {"quick": args.quick, "seed": args.seed, **config}
        self.marker = marker_path(self.root, self.place)
        self.resuming, self._locks = False, []
        reads = stages_read(self.root, self.name) if reads is None else reads
        problems = all_problems(self.root, reads, self.flags)
        if problems:
            texts, commands = (dict.fromkeys(column) for column in zip(*problems))
            fail(f"{self.name}.py", "\n".join(texts), "run: " + " && ".join(commands))
        self.inputs = {name: load_manifest(self.root, name)["output_digest"] for name in reads}
        self.code = stage_code(self.name)
        self.key = value_digest({"config": self.config, "code": self.code, "inputs": self.inputs})

    def up_to_date(self):
        """Returns True, and says so, if the outputs are what this run would write."""
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
        """Holds the stage's lock and its marker, which stays unless `finish` was reached."""
        self._lock()
        before = read_json(self.marker) or {}
        self.resuming = before.get("key") == self.key and not self.args.force
        remove_temporaries(self.marker.parent)
        started = time.strftime("%F %T")
        write_json(self.marker, {"key": self.key, "pid": os.getpid(), "started": started})
        try:
            yield self
        finally:
            for lock in self._locks:
                lock.close()
            self._locks = []

    def _lock(self):
        own = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
        for name, mode in [(self.place, own), *((name, fcntl.LOCK_SH) for name in self.inputs)]:
            folder, script = stage_folder(name)
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            lock = open(self.root / folder / f".{script}.lock", "a")
            try:
                fcntl.flock(lock, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                other = read_json(marker_path(self.root, name))
                known = f"process {other['pid']}, started {other['started']}" if other else ""
                problem = f"{name} is in use in this root by {known or 'another process'}"
                fail(f"{self.name}.py", problem, "wait until it has ended, or stop it")
            self._locks.append(lock)

    def finish(self, outputs, counts=None, skipped=None, summary=None, device=None, extra=None):
        """Writes the manifest, removes the marker and prints the closing block (summary).

        outputs: files and folders, relative to the root; counts: {what: number}; skipped: {reason:
        number}; extra: more of the manifest.
        """
        os.sync()
        described = {}
        for output in sorted(outputs):
            path, index = self.root / output, index_path(self.root, self.place, output)
            remove_temporaries(path)
            described[output] = describe(path, index, renew=True)
        seconds = round(time.monotonic() - self.started, 3)
        manifest = {
            "stage": self.name,
            "command": command_line(self.name, self.args.words),
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
        write_manifest(self.root, self.place, manifest)
        # a sister process still at work keeps the marker
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.marker.unlink(missing_ok=True)
        print(f"--- {self.name}")
        for key, value in {**(summary or {}), "seconds": seconds}.items():
            print(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}")
        self._print_next()

    def _print_next(self):
        names = [name for name in STAGES if name == self.name or name not in OPTIONAL]
        after = names.index(self.name) + 1
        if after == len(names):
            folder = "" if self.root == HERE else f"{self.args.root or 'quick'}/"
            outputs = f"{folder}part4_outputs"
            print(f"look at: {outputs}/report.html and {outputs}/RESULTS.json")
            return
        carried = SUITE_FLAGS if {self.name, names[after]} <= set(TRAINING) else ()
        print(f"next: python {names[after]}.py{self.flags}{repeated(self.args.words, carried)}")


def repeated(words, flags):
    """Returns some flags of a command line with their values.

    >>> repeated(["--quick", "--only=tiny, small", "--device", "cpu"], ("--only", "--device"))
    " --only 'tiny, small' --device cpu"
    """
    said = ""
    for word, following in zip(words, [*words[1:], ""]):
        flag, equals, value = word.partition("=")
        if flag in flags:
            said += f" {flag} {shlex.quote(value if equals else following)}"
    return said
