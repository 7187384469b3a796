"""One process of a training or evaluation run: its rank, its device, its collectives."""

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from googlenet_fast.cli import Device
from googlenet_fast.data.waiting import ending_on_signals
from googlenet_fast.engine.cudnn import cudnn_benchmark
from googlenet_fast.engine.memory import keep_freed_memory
from googlenet_fast.errors import GoogLeNetError

_LOST_PEER = re.compile(
    "timed out waiting|timeout caused|closed by peer|reset by peer|socket closed|broken pipe"
    "|remote process exited",
    re.IGNORECASE,
)
"""Messages of gloo and NCCL when another process hangs or is gone; they have no error class."""


@dataclass(frozen=True)
class Process:
    """Rank and device of this process. A single process is rank 0 of 1, with no process group."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take the maximum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def broadcast_tensor(self, tensor: torch.Tensor) -> None:
        """Overwrite `tensor` with the main process's."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=0)

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value, a plain Python object."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, plain Python objects, in the order of ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def distributed(device: Device = "auto", timeout: float = 600.0) -> Iterator[Process]:
    """Join the run that torchrun started, or run as a single process.

    CUDA tensors use NCCL, CPU tensors gloo. On a GPU cuDNN's benchmark mode is on until the end,
    unless the caller set its flags; see `cudnn_benchmark`.

    Args:
        device: where this process computes.
        timeout: seconds to wait for another process before the run stops.

    Raises:
        GoogLeNetError: an environment variable of torchrun that is missing or no number, no such
            device, the rendezvous port is in use, or another process was lost or did not answer in
            time.
    """
    _check_environment()
    local_rank = _number("LOCAL_RANK", 0)
    process = Process(
        rank=_number("RANK", 0),
        world_size=world_size(),
        local_rank=local_rank,
        local_world_size=_number("LOCAL_WORLD_SIZE", 1),
        device=_choose_device(device, local_rank),
    )
    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)
    else:
        _share_cores(process.local_world_size)
        keep_freed_memory()
    if process.world_size > 1:
        _join(process, timeout)
    try:
        with ending_on_signals(), cudnn_benchmark(process.device):
            yield process
    except RuntimeError as error:
        rendezvous_lost = isinstance(error, (dist.DistNetworkError, dist.DistStoreError))
        if not rendezvous_lost and not _LOST_PEER.search(str(error)):
            raise
        raise GoogLeNetError(
            f"process {process.rank} of {process.world_size}: another process ended, or hangs and "
            f"did not answer for {timeout:g} s (--timeout); see its own messages; --resume auto "
            f"continues a run from the last checkpoint ({str(error).splitlines()[0]})"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun.

    Raises:
        GoogLeNetError: WORLD_SIZE is not such a number.
    """
    return _number("WORLD_SIZE", 1, least=1)


def _number(variable: str, default: int, least: int = 0) -> int:
    text = os.environ.get(variable)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise GoogLeNetError(
            f"environment variable {variable}={text}: must be a whole number of {least} or more, "
            "as torchrun sets it; unset it to run without torchrun"
        )
    return int(text)


def _check_environment() -> None:
    """Check what torchrun sets, before PyTorch reads it."""
    processes, rank = world_size(), _number("RANK", 0)
    if rank >= processes:
        raise GoogLeNetError(
            f"environment variable RANK={rank}: must be below WORLD_SIZE, which is {processes}; "
            "start with torchrun, or unset RANK to run without it"
        )
    _number("MASTER_PORT", 0)
    for variable in ("RANK", "MASTER_ADDR", "MASTER_PORT") if processes > 1 else ():
        if variable not in os.environ:
            raise GoogLeNetError(
                f"environment variable {variable} is not set, but WORLD_SIZE={processes}; start "
                "with torchrun, or unset WORLD_SIZE to run without it"
            )


def _choose_device(device: Device, local_rank: int) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise GoogLeNetError(
            f"--device cuda: process {local_rank} of this machine has no GPU ({count} found); "
            "start fewer processes (--nproc-per-node) or use --device cpu"
        )
    return torch.device("cuda", local_rank)


def _share_cores(local_world_size: int) -> None:
    """Divide the cores among this machine's processes.

    torchrun sets OMP_NUM_THREADS=1 if it starts several, which would leave cores idle.
    """
    if local_world_size > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, (cores or 1) // local_world_size))


def _join(process: Process, timeout: float) -> None:
    backend = "cpu:gloo,cuda:nccl" if process.device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=_fresh_store(timeout),
            rank=process.rank,
            world_size=process.world_size,
            timeout=timedelta(seconds=timeout),
        )
    except dist.DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise GoogLeNetError(
            f"cannot meet the other processes at {address}: {str(error).splitlines()[0]}; "
            "if the port is in use, choose another with torchrun --master-port"
        ) from None


def _fresh_store(timeout: float) -> dist.Store:
    """Return the rendezvous store under a prefix that is new for every start of the processes.

    After a worker fails, torchrun restarts all of them with the same store, which still has the
    addresses of the previous start. Rank 0 creates a prefix per start and sends it in reply to each
    rank's nonce, so a dead start's addresses are never read.
    """
    store, rank, world_size = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    unique = uuid.uuid4().hex
    if rank > 0:
        nonce = unique
        store.set(f"nonce/{rank}", nonce)
        prefix = store.get(f"prefix/{nonce}").decode()
        store.set(f"{prefix}/ack/{rank}", "")
        return dist.PrefixStore(prefix, store)
    prefix = unique
    deadline = time.monotonic() + timeout
    missing = list(range(1, world_size))
    while missing := [r for r in missing if not store.check([f"{prefix}/ack/{r}"])]:
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"processes {missing} did not come within {timeout:g} s")
        for r in missing:
            if store.check([f"nonce/{r}"]):
                store.set(f"prefix/{store.get(f'nonce/{r}').decode()}", prefix)
        time.sleep(0.01)
    return dist.PrefixStore(prefix, store)
