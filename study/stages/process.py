"""Processes: how a script runs and ends, its pool of workers, its progress bar.

Loads no torch: converters and their workers start quickly.
"""

import contextlib
import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from study.stages.arguments import fail, whole

from tqdm import tqdm

AGAIN = "what is finished is kept; the same command goes on from there"
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would exceed the size limit",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}

# A numbered script that is still loading (torch takes seconds) ends at Ctrl-C without a traceback.
is_script = Path(sys.argv[0]).name[:2].isdigit()
if is_script and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main):
    """Calls a script's main(): Ctrl-C, SIGTERM, a full disk and a closed pipe end in one line."""
    name = Path(sys.argv[0]).stem

    def terminated(*_):
        raise KeyboardInterrupt("terminated")

    signal.signal(signal.SIGTERM, terminated)
    sys.unraisablehook = again_if_lost
    with contextlib.suppress(AttributeError):  # output that a test has put in its place
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt as stop:
        print(f"\n{name}: {str(stop) or 'interrupted'}: {AGAIN}", file=sys.stderr)
        sys.exit(143 if str(stop) else 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # of tempfile
        if error.errno == errno.ENOENT and "temporary directory" in str(error):
            problem = "the disk is full: no temporary folder can be written"
            fail(name, problem, f"make room, or set TMPDIR; {AGAIN}")
        if error.errno not in DISK_ERRORS:
            raise
        where = f": {error.filename}" if error.filename else ""
        fail(name, DISK_ERRORS[error.errno] + where, f"make room or permit writing; {AGAIN}")
    except MemoryError:
        mend = "use a machine with more, or smaller budgets (see --help)"
        fail(name, "not enough memory", f"{mend}; {AGAIN}")
    except BrokenProcessPool:
        problem = "a worker process was killed, most often for want of memory"
        fail(name, problem, f"give fewer --workers; {AGAIN}")


def again_if_lost(unraisable):
    """Sends a signal anew whose exception came up in a destructor, where Python ignores it."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = signal.SIGTERM if str(unraisable.exc_value) else signal.SIGINT
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def progress(iterable=None, total=None, desc=None, unit="it"):
    """Returns a tqdm bar: on a terminal only, and not in worker processes."""
    silent = not sys.stderr.isatty() or multiprocessing.parent_process() is not None
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=silent, dynamic_ncols=True)


def cpu_count():
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_workers(parser):
    """Adds --workers to the flags of a script that keeps all cores busy."""
    parser.add_argument(
        "--workers",
        type=whole(1),
        metavar="N",
        default=cpu_count(),
        help="processes, at most one a core (default: all cores, here %(default)s)",
    )


def is_alive(pid):
    """Returns True if there is such a process."""
    try:
        os.kill(pid, 0)  # signal 0 asks only
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # there is one, of another user
        pass
    return True


def die_with_parent():
    """Prepares a worker process: it leaves Ctrl-C to its parent, and ends when its parent ends."""
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
def signals_later():
    """Holds SIGINT and SIGTERM back until its block has ended; only the main thread gets any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def worker_pool(n_workers, n_jobs):
    """Yields a ProcessPoolExecutor of at most n_workers, one a core and one a job; use its `map`.

    The workers end with this process. One that is killed ends the work with BrokenProcessPool (a
    multiprocessing.Pool would wait for ever).
    """
    # a spawned worker loads torch, for seconds; fork is safe as no thread runs yet
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    n_workers = max(1, min(n_workers, cpu_count(), n_jobs))
    pool = ProcessPoolExecutor(n_workers, context, die_with_parent)
    shown = threading.excepthook
    try:
        with signals_later():  # multiprocessing prints a traceback for a half-made process
            pool.submit(int)  # a forked pool makes all its workers now
        yield pool
    except BaseException:
        # the pool's thread finds its futures cancelled: a traceback that helps nobody
        threading.excepthook = lambda _: None
        for worker in multiprocessing.active_children():
            worker.kill()
        # one that was sending leaves half a result: its end, and not a wait for the other half
        pool._result_queue._writer.close()
        raise
    finally:
        with signals_later():
            pool.shutdown(cancel_futures=True)
        threading.excepthook = shown
