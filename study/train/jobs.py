"""Runs side by side, each in a process of its own: small models do not fill the cores of a machine
one after the other.

    for record in train_side_by_side(root, runs, "cpu", jobs=2):
        print(record["name"])

A process takes one run after the other and has its share of the cores as threads. All end with the
process that started them, however that ended. Asked to stop, each saves the state of its run first.
"""

import collections
import contextlib
import multiprocessing
import os
import sys
from multiprocessing import connection

from study.stages.process import cpu_count, die_with_parent, progress

import torch

from study.train.data import load_data
from study.train.loop import Stopped
from study.train.runs import train

STOP_SECONDS = 30  # for the step at hand and the state of a run, before a process is killed


def threads_of(jobs):
    """Threads of each of so many processes.

    >>> threads_of(cpu_count()), threads_of(1) == cpu_count()
    (1, True)
    """
    return max(1, cpu_count() // jobs)


def train_side_by_side(root, runs, device, jobs, again=False):
    """Yields the record of each run (a plan) as it ends; they are begun in the order given, `jobs`
    at a time. Raises what `train` raises, and Stopped when a process was killed."""
    context, waiting, workers = multiprocessing.get_context("spawn"), collections.deque(runs), {}
    settings = str(device), threads_of(jobs), again
    bar = progress(total=len(runs), desc="runs", unit="run")
    try:
        for _ in range(min(jobs, len(runs))):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(
                target=_work, args=(theirs, root, *settings), daemon=True
            )
            workers[ours].start()
            theirs.close()
            _give(ours, waiting.popleft())
        while workers:
            for ready in connection.wait(list(workers)):
                reply = _take(ready)
                if isinstance(reply, Exception):
                    raise reply
                if waiting:
                    _give(ready, waiting.popleft())
                else:
                    _give(ready, None)
                    workers.pop(ready).join()
                bar.clear()  # whoever takes the record may print a line
                yield reply
                bar.update()
                bar.refresh()
    finally:
        bar.close()
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join(STOP_SECONDS)
            worker.kill()


def _give(worker, run):
    with contextlib.suppress(OSError):  # it was killed: `_take` says so
        worker.send(run)


def _take(worker):
    try:
        return worker.recv()
    except (EOFError, OSError):
        raise Stopped(
            "a process that trained was killed, most often for want of memory: give fewer --jobs"
        ) from None


def _work(parent, root, device, threads, again):
    """The life of a process: one run after the other, until there is none."""
    die_with_parent()
    # Ctrl-C goes to the parent alone, which asks each process to stop, once: a second time means at
    # once
    os.setpgrp()
    torch.set_num_threads(threads)
    data = load_data(root)
    while (run := parent.recv()) is not None:
        try:
            reply = train(root, run, data, torch.device(device), again)
        except KeyboardInterrupt:
            sys.exit(1)
        except Exception as problem:
            reply = problem
        parent.send(reply)
