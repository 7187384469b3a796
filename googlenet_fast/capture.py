"""Run a function of tensors as a CUDA graph: as it is at first, then captured, then replayed."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from threading import Lock, local
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError

T = TypeVar("T")

WARMUP = 3
"""Calls that run as they are before a capture: they allocate what stays, compile kernels and choose
among them. torch.cuda.make_graphed_callables takes as many."""


class Capturer(Protocol):
    """Captures and replays. Tests replace it by one that replays on a CPU."""

    def run(self, function: Callable[[], T]) -> T:
        """Call a function where captures and replays run."""

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """Record what a function launches, and return what replays it.

        Nothing is launched before the first replay. A replay returns the tensors that the recorded
        call returned, with new values.
        """

    def close(self) -> None:
        """Let go of what was captured, which is not replayed any more."""


class CudaGraphs:
    """Captures CUDA graphs on one stream, from one memory pool.

    The graphs share memory for what only lives within a replay; a replay at a time runs. Warm-up
    uses the stream too, because autograd remembers where it met a parameter.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._first: torch.cuda.CUDAGraph | None = None
        """Keeps the pool: PyTorch takes none for a capture whose last graph is gone."""
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def run(self, function: Callable[[], T]) -> T:
        """Call a function on the stream; the current one waits for it, and it for the current."""
        caller = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            result = function()
        caller.wait_stream(self._stream)
        if isinstance(result, Tensor):
            result.record_stream(caller)
        return result

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """Record what a function launches, and return what replays it on the current stream."""
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context restores the stream also where the inner one fails to end a capture.
            # Other threads, such as DALI's and NCCL's, may call what a capture forbids.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, self._pool, self._stream, "thread_local"),
            ):
                result = function()
        except BaseException:
            self._abandon()
            raise
        self._first = self._first or graph
        self._graphs.add(graph)

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def _abandon(self) -> None:
        """Undo what a capture leaves that CUDA has broken off: PyTorch undoes it only after others.

        Else later allocations would come from the pool, and random numbers (before torch 2.13)
        from a generator that waits for a replay.
        """
        device = self._stream.device.index
        with suppress(RuntimeError):  # the capture has ended
            torch._C._cuda_endAllocateToPool(device, self._pool)
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())
        self._pool, self._first = torch.cuda.graph_pool_handle(), None

    def close(self) -> None:
        """Destroy the graphs. Until then NCCL waits for those that hold its launches, for ever."""
        torch.cuda.synchronize(self._stream.device)
        for graph in self._graphs:
            graph.reset()


def capturer_for(mode: str, device: torch.device) -> Capturer | None:
    """Return what captures on a device; None: calls run as they are.

    Args:
        mode: "on", "off" or "auto", which is on for CUDA.
        device: where the calls run.

    Raises:
        GoogLeNetError: "on" for a device without CUDA graphs.
    """
    if device.type == "cuda":
        return None if mode == "off" else CudaGraphs(device)
    if mode == "on":
        raise GoogLeNetError(
            f"--graph on: captures CUDA graphs, which needs a GPU, but this runs on the "
            f"{device.type.upper()}; use --graph auto"
        )
    return None


class Captured:
    """A function of tensors that is captured for each shape of them that comes several times.

    The first calls of a shape in a row run as they are: each does its work, none is repeated. Then
    the function is captured on copies of its inputs, and from there on a call copies its inputs
    there and replays. A shape in between, such as the smaller last batch of an epoch, runs as it
    is. Any number of threads may call; the one that captures has made the first calls itself,
    because the libraries' handles, which a capture cannot create, are a thread's own.

    A replay runs no Python: the function must leave its results in tensors that stay where they
    are, and must not read values of tensors. If a capture fails, a warning says why, and all calls
    run as they are from then on.

    Args:
        function: takes tensors, and options that choose what it does; returns a tensor or nothing.
        capturer: captures and replays; None: all calls run as they are.
        recover: restore what a call that broke off in Python has left behind.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        capturer: Capturer | None,
        recover: Callable[[], None] = lambda: None,
    ) -> None:
        self._function = function
        self._capturer = capturer
        self._recover = recover
        self._graphs: dict[Hashable, tuple[list[Tensor], Callable[[], Any]]] = {}
        self._calls: Counter[Hashable] = Counter()
        self._last_shapes: Hashable = None
        self._threads = local()
        self._lock = Lock()

    def __call__(self, *inputs: Tensor, **options: Hashable) -> Any:
        """Call the function, or replay it. A tensor that it returns is the caller's own."""
        if self._capturer is None:
            return self._function(*inputs, **options)
        with self._lock:
            key = (_shapes(inputs), _autocast(inputs[0].device), *options.items())
            if self._in_a_row(key) > WARMUP and key not in self._graphs:
                self._capture(key, inputs, options)
            if key not in self._graphs:
                return self._run(lambda: self._function(*inputs, **options))
            return self._run(lambda: _replay(*self._graphs[key], inputs))

    def _run(self, function: Callable[[], Any]) -> Any:
        return function() if self._capturer is None else self._capturer.run(function)

    def _in_a_row(self, key: tuple[Hashable, ...]) -> int:
        """Count this thread's calls of a key since the shapes changed last, this one included."""
        if key[0] != self._last_shapes:
            self._calls.clear()
        self._last_shapes = key[0]
        # Not the thread's ident, which the next thread gets when this one ends.
        thread = self._threads.__dict__.setdefault("thread", object())
        self._calls[key, thread] += 1
        return self._calls[key, thread]

    def _capture(
        self, key: Hashable, inputs: tuple[Tensor, ...], options: dict[str, Hashable]
    ) -> None:
        assert self._capturer is not None
        with torch.inference_mode(False):  # its tensors cannot be written to elsewhere
            places = [torch.empty_like(tensor).copy_(tensor) for tensor in inputs]
        try:
            replay = self._capturer.capture(lambda: self._function(*places, **options))
        except Exception as error:
            reason = " ".join(str(error.__context__ or error).split())
            logging.getLogger("googlenet_fast").warning(
                "no CUDA graph: %s: %s; going on without (--graph off silences this)",
                *(type(error.__context__ or error).__name__, reason[:300]),
            )
            self._recover()
            self._capturer = None
            self._graphs.clear()
        else:
            self._graphs[key] = places, replay


def _replay(places: list[Tensor], replay: Callable[[], Any], inputs: tuple[Tensor, ...]) -> Any:
    for place, tensor in zip(places, inputs, strict=True):
        place.copy_(tensor)
    result = replay()
    return result.clone() if isinstance(result, Tensor) else result


def _shapes(inputs: tuple[Tensor, ...]) -> Hashable:
    return tuple((tensor.shape, tensor.dtype) for tensor in inputs)


def _autocast(device: torch.device) -> Hashable:
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None
