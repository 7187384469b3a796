"""A request to stop (SIGINT, SIGTERM), obeyed by all processes at the same step."""

import signal
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A signal stopped the run."""


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a request; a second one has its usual effect.

    Several processes agree on the request by an asynchronous all-reduce over gloo. Its result is
    read one step later, so no step waits for it. It is an error if a process does not answer for
    `timeout` seconds.
    """

    def __init__(self, world_size: int, timeout: float = 600.0) -> None:
        self.signal: signal.Signals | None = None
        self._group: dist.ProcessGroup | None = None
        if world_size > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            assert isinstance(group, dist.ProcessGroup)  # every process is a member
            self._group = group
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None

    def __enter__(self) -> "StopSignal":
        self._previous = {
            number: signal.signal(number, self._request)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pending is not None and error is None:
            self._pending.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._previous[signal.Signals(number)])

    def poll(self) -> bool:
        """Return whether to stop now, the same in all processes; each calls it once per step."""
        if self._group is None:
            return self.signal is not None
        agreed = False
        if self._pending is not None:
            self._pending.wait()
            agreed = bool(self._flag.item())
        self._flag = torch.tensor([self.signal is not None], dtype=torch.int32)
        self._pending = dist.all_reduce(
            self._flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed
