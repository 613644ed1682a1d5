"""Runs side by side, each in a process of its own: small models do not fill the cores of a machine.

All end with the process that started them; asked to stop, each saves the state of its run.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from study.stages.process import cpu_count, die_with_parent, progress

import torch

from study.train.data import load_data
from study.train.loop import Stopped
from study.train.runs import train


def threads_of(jobs):
    """Returns each process's share of the cores."""
    return max(1, cpu_count() // jobs)


def train_side_by_side(root, runs, device, jobs, again=False):
    """Yields the record of each run as it ends; raises what `train` raises, and Stopped when a
    process was killed."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(runs)), context, _begin, (threads_of(jobs),))
    bar = progress(total=len(runs), desc="runs", unit="run")
    try:
        futures = [pool.submit(_train, root, run, str(device), again) for run in runs]
        for future in as_completed(futures):
            record = future.result()
            bar.clear()  # whoever takes the record may print a line
            yield record
            bar.update()
            bar.refresh()
    except BrokenProcessPool:  # the pool has asked the others to stop
        problem = "a process that trained was killed, most often for want of memory"
        raise Stopped(f"{problem}: give fewer --jobs") from None
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)


def _begin(threads):
    die_with_parent()
    os.setpgrp()  # Ctrl-C goes to the parent alone
    torch.set_num_threads(threads)


def _train(root, run, device, again):
    try:
        return train(root, run, load_data(root), torch.device(device), again)
    except KeyboardInterrupt:  # the process takes no further run
        sys.stdout.flush()
        os._exit(1)
