"""Run one peer in its own process, which times the requested steps.

Thread pools and OpenMP runtimes of different systems disturb each other in one process. Some also
read their number of threads only when the process starts.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.cpu_peers import PEERS


class Worker:
    """A child process that runs one peer. A context manager; leaving it ends the process.

    Args:
        peer: one of `cpu_peers.PEERS`.
        folder: has the files that `cpu_peers.export_network` writes.
        threads: of the peer.
    """

    def __init__(self, peer: str, folder: Path, threads: int) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads")
        self._name = peer
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cpu_worker", peer, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **dict.fromkeys(names, str(threads))},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, mode: str, batch: int) -> dict[str, Any]:
        """Run one step of `mode`, training or inference, on `batch` images.

        Returns:
            `seconds`: duration; `value`: the loss, or the logits of the first image; `peak`: growth
            of the process since the network was built, in bytes.

        Raises:
            RuntimeError: the peer failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(mode, batch, file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"{self._name} ended")
        return json.loads(reply)


def main() -> None:
    """Answer each line `MODE BATCH` on stdin with a line of JSON on stdout."""
    peer_name, folder, threads = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    peer = PEERS[peer_name](Path(folder), int(threads))
    work: tuple[list[str], Callable[[], Any]] | None = None
    for line in sys.stdin:
        mode, batch = request = line.split()
        if work is None or work[0] != request:
            work = None
            work = request, _work(peer, mode, int(batch))
            built = _peak_memory()
        start = time.perf_counter()
        value = work[1]()
        seconds = time.perf_counter() - start
        value = value if mode == "training" else value[0].tolist()
        reply = {"seconds": seconds, "value": value, "peak": _peak_memory() - built}
        print(json.dumps(reply), file=replies, flush=True)


def _work(peer: Any, mode: str, batch: int) -> Callable[[], Any]:
    images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
    if mode == "inference":
        return peer.inference(images)
    return peer.training(images, np.arange(batch) * 37 % 1000)


def _peak_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
