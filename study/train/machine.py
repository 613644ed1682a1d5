"""The machine under a run: the processes of torchrun (else one, of rank 0), memory, the device."""

import contextlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def n_processes():
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """Returns the number of this process; the first, 0, alone writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes(device):
    """Joins the processes of torchrun, if any; all but the first print nothing."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    try:
        with open(os.devnull, "w") as null:
            with contextlib.redirect_stdout(null if rank() else sys.stdout):
                yield
    finally:
        dist.destroy_process_group()


def wait_for_all():
    if n_processes() > 1:
        dist.barrier()


def sum_over_processes(sums):
    if n_processes() > 1:
        dist.all_reduce(sums)
    return sums


def of_first_process(number):
    """Returns the first process's number: by the clock all decide alike."""
    numbers = [number]
    if n_processes() > 1:
        dist.broadcast_object_list(numbers)
    return numbers[0]


def parallel(model, device):
    """Returns the model with gradients that are means over all processes."""
    if n_processes() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)


def reset_peak_memory(device):
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device):
    """Returns the peak of GPU or resident memory since the last reset; None on macOS."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return None


def is_out_of_memory(error):
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    ways = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ways)


def device_name(device):
    """Returns "cpu", "cuda NVIDIA H200" and the like."""
    device = torch.device(device)
    name = f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return name if n_processes() == 1 else f"{n_processes()} x {name}"
