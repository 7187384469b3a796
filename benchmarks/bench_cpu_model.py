"""Time training steps and inference of GoogLeNet on a CPU, against every installed peer.

`benchmarks/requirements-cpu-peers.txt` installs the peers. `benchmarks.tools.cpu_performance`
measures more batches and numbers of threads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cpu_peers import OURS, export_network, installed_peers
from benchmarks.cpu_worker import Worker
from benchmarks.harness import Measurement, interleave, relative_error, remarks

TOLERANCE = 1e-4
"""Largest relative error, in norm, of a peer's logits or of its first two losses. The third loss is
not compared: at batch 1 it is a thousand times as sensitive to rounding as the second."""

PAUSE = 0.5
"""Seconds before each timed step. OpenMP's threads spin for up to 0.2 s after their work
(KMP_BLOCKTIME) and would slow down the next peer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the converted network."""
    path = tmp_path_factory.mktemp("network")
    export_network(path)
    return path


@contextmanager
def workers(peers: Sequence[str], folder: Path, threads: int) -> Iterator[dict[str, Worker]]:
    """Start one process per peer."""
    with ExitStack() as stack:
        yield {peer: stack.enter_context(Worker(peer, folder, threads)) for peer in peers}


def time_peers(
    started: dict[str, Worker], mode: str, batch: int, repeats: int
) -> dict[str, Measurement]:
    """Time a step of each peer. This package is first and is the baseline.

    Steps from the same weights first check that all peers compute the same.
    """
    values = {
        peer: torch.tensor(
            [worker.run(mode, batch)["value"] for _ in range(2)], dtype=torch.float64
        )
        for peer, worker in started.items()
    }
    errors = {peer: relative_error([value], [values[OURS]]) for peer, value in values.items()}
    assert max(errors.values()) < TOLERANCE, errors
    steps = {peer: partial(worker.run, mode, batch) for peer, worker in started.items()}
    return interleave(
        f"{mode}, batch {batch}",
        steps,
        repeats=repeats,
        errors=errors,
        clock=_settled_seconds,
    )


def _settled_seconds(step: Callable[[], Any]) -> float:
    time.sleep(PAUSE)
    return float(step()["seconds"])


@pytest.mark.parametrize("mode", ["training", "inference"])
def bench_cpu_model(folder: Path, mode: str) -> None:
    peers = installed_peers(training=mode == "training")
    with workers(peers, folder, torch.get_num_threads()) as started:
        time_peers(started, mode, batch=16, repeats=5)


def peak_memory(folder: Path, peer: str, batch: int) -> int:
    """Return the bytes that two training steps take beside the network, in a new process."""
    with workers([peer], folder, torch.get_num_threads()) as started:
        return max(started[peer].run("training", batch)["peak"] for _ in range(2))


def bench_cpu_memory(folder: Path) -> None:
    """Check that a training step takes no more memory than PyTorch's."""
    peers = (OURS, "PyTorch", "PyTorch channels_last")
    peaks = {peer: peak_memory(folder, peer, 64) for peer in peers}
    memory = ", ".join(f"{peer} {peak / 2**20:.0f} MiB" for peer, peak in peaks.items())
    remarks.append(f"memory of a training step, batch 64: {memory}")
    assert peaks[OURS] == min(peaks.values())
