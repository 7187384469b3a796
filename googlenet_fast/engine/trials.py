"""A candidate's steps on trial: are they right, and how long do they take?"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from math import ceil
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from googlenet_fast.capture import capturer_for
from googlenet_fast.cli import Graph
from googlenet_fast.engine.candidates import OURS, Candidate, Compile, Switch
from googlenet_fast.engine.optimizer import set_lr
from googlenet_fast.engine.step import TrainStep, googlenet_loss
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import one_process
from googlenet_fast.model.graphed import GraphedNetwork
from googlenet_fast.model.layers import Dropout
from googlenet_fast.model.plain import Plain
from googlenet_fast.model.presets import Normalization
from googlenet_fast.registry import use_impl
from googlenet_fast.selfcheck.accuracy import (
    ATTEMPTS,
    TOLERANCES,
    effective_dtype,
    relative_errors,
)
from googlenet_fast.selfcheck.parts import without_ops

WARM_UP = 20
"""Steps before the first timed one: they compile, search cuDNN's algorithms and capture graphs."""

ROUNDS, SECONDS = 5, 2.0
"""Timings of a candidate, and the seconds that they take together."""

GRADIENTS = 5e-2
"""Relative error, in norm, of a parameter's gradient that is allowed beyond twice the reference's.
A value that rounding moves across zero changes those of all earlier layers, most with batch norm.
"""

LOGITS = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""Largest relative difference, in norm, of logits from the reference's in the same precision."""

Clock = Callable[[Callable[[], object], torch.device], float]
"""Returns the seconds of a call: `seconds_per_call`."""


class InaccurateError(Exception):
    """A candidate's results are not those of the reference."""


class Batch(NamedTuple):
    """What steps are timed on, and how they compute."""

    size: int
    """Images."""
    image_size: int
    """Pixels a side."""
    amp: torch.dtype | None
    device: torch.device
    graph: Graph
    """Replay CUDA graphs."""

    def make(self, normalization: Normalization) -> Tensor:
        """Return images of random pixels as a loader gives them, (N, 3, H, W) channels_last."""
        shape = self.size, 3, self.image_size, self.image_size
        pixels = 255 * torch.rand(shape, device=self.device)
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (normalization.mean, normalization.std)
        )
        images = ((pixels - mean) / std).to(self.amp or torch.float32)
        return images.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        """Return the context of mixed precision, if the run has it."""
        return torch.autocast(self.device.type, self.amp, enabled=self.amp is not None)

    @property
    def rounding(self) -> torch.dtype:
        """The dtype whose rounding results have."""
        return effective_dtype(self.amp or torch.float32, self.device.type)


def seconds_per_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call among many in a row, after a warm-up."""

    def seconds(calls: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        _wait(device)
        return (time.perf_counter() - started) / calls

    seconds(WARM_UP)
    calls = max(1, ceil(SECONDS / ROUNDS / seconds(WARM_UP)))
    return median(seconds(calls) for _ in range(ROUNDS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TrainingTrial:
    """Times training steps of candidates on a copy of a run's network; the run stays as it is.

    Args:
        network: the run's.
        make_step: makes a training step as the run's are made, for one process.
        batch: what a call of the step gets.
        label_smoothing: of the loss.
        accumulate: calls of a step.
        loss_scale: keeps gradients in the range of fp16.
        clock: times a step.
        compile: compiles a network.
    """

    def __init__(
        self,
        network: GoogLeNet,
        make_step: Callable[[Switch], TrainStep],
        batch: Batch,
        *,
        label_smoothing: float = 0.0,
        accumulate: int = 1,
        loss_scale: float = 128.0,
        clock: Clock = seconds_per_call,
        compile: Compile = torch.compile,
    ) -> None:
        self._network, self._make_step, self._batch = network, make_step, batch
        self._smoothing, self._accumulate = label_smoothing, accumulate
        self._scale = loss_scale
        self._clock, self._compile = clock, compile
        self._references: dict[int, tuple[list[Tensor], list[float]]] = {}

    def __call__(self, candidate: Candidate) -> float:
        """Return the seconds of a candidate's step.

        Raises:
            InaccurateError: its loss or gradients differ from the reference's.
            Exception: it does not run.
        """
        if candidate.plain:
            Plain(self._network)  # refuses what the copy below may not have
        with self._copied() as (switch, images, labels):
            self._check(switch, candidate, labels)
            return self._seconds(switch, images, labels)

    def rest(self) -> float:
        """Return the seconds of a step in which this package's ops compute nothing."""
        with self._copied() as (switch, images, labels), without_ops():
            switch.use(OURS)
            return self._seconds(switch, images, labels)

    @contextmanager
    def _copied(self) -> Iterator[tuple[Switch, Tensor, Tensor]]:
        """Copy the network, without dropout; make images and labels. Random states stay."""
        batch, device = self._batch, self._batch.device
        cuda = [device] if device.type == "cuda" else []
        if cuda:
            gc.collect()  # what the candidate before has left in cycles, also where it failed
            torch.cuda.empty_cache()
        with torch.random.fork_rng(cuda):
            torch.manual_seed(0)
            network = deepcopy(self._network)
            for module in network.modules():
                if isinstance(module, Dropout):
                    module.p = 0.0
            images = batch.make(network.preset.normalization)
            labels = torch.randint(network.num_classes, (batch.size,), device=device)
            with one_process(network):
                yield Switch(network), images, labels

    def _check(self, switch: Switch, candidate: Candidate, labels: Tensor) -> None:
        """Compare with the reference on other images where a value across zero may explain it."""
        for attempt in range(ATTEMPTS):
            failure = self._failure(switch, candidate, labels, attempt)
            if failure is None:
                return
        raise InaccurateError(failure)

    def _failure(
        self, switch: Switch, candidate: Candidate, labels: Tensor, seed: int
    ) -> str | None:
        """Return how a candidate's loss or gradients differ from the reference's in float64."""
        torch.manual_seed(seed)
        images = self._batch.make(switch.network.preset.normalization)
        if seed not in self._references:
            self._references[seed] = self._reference(switch, images, labels)
        exact, own = self._references[seed]
        switch.use(candidate, self._compile)
        found = relative_errors(self._results(switch, images, labels), exact)
        names = ["the loss", *(name for name, _ in switch.network.named_parameters())]
        for name, error, reference in zip(names, found, own, strict=True):
            of_loss, _ = TOLERANCES[self._batch.rounding]
            allowed = 2 * reference + (of_loss if name == "the loss" else GRADIENTS)
            if not error <= allowed:  # NaN fails too
                return f"relative error {error:.1e} of {name}, allowed is {allowed:.1e}"
        return None

    def _reference(
        self, switch: Switch, images: Tensor, labels: Tensor
    ) -> tuple[list[Tensor], list[float]]:
        """Return the reference's results in float64, and its errors in the run's precision.

        Where float64 does not fit into the memory, the run's precision stands in for it.
        """
        switch.use(OURS)
        with use_impl("reference"):
            own = self._results(switch, images, labels)
            try:
                with torch.autocast(self._batch.device.type, enabled=False):
                    exact_network = Switch(deepcopy(switch.network).double())
                    exact = self._gradients(exact_network, images.double(), labels, 1.0)
            except torch.OutOfMemoryError:
                exact = [result.double() for result in own]
        return exact, relative_errors(own, exact)

    def _results(self, switch: Switch, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the loss, then the gradients of all parameters, in the run's precision."""
        with self._batch.autocast():
            return self._gradients(switch, images, labels, self._scale)

    def _gradients(
        self, switch: Switch, images: Tensor, labels: Tensor, scale: float
    ) -> list[Tensor]:
        loss, _ = googlenet_loss(switch(images), labels, self._smoothing)
        gradients = torch.autograd.grad(loss * scale, list(switch.network.parameters()))
        return [loss.detach(), *(gradient / scale for gradient in gradients)]

    def _seconds(self, switch: Switch, images: Tensor, labels: Tensor) -> float:
        step = self._make_step(switch)
        set_lr(step.optimizer, 0.0)  # weights stay in their range

        def whole() -> None:
            for micro in range(self._accumulate):
                step(images, labels, update=micro == self._accumulate - 1)

        return self._clock(whole, self._batch.device)


class InferenceTrial:
    """Times the logits of candidates.

    Args:
        network: frozen; computes logits.
        normalization: of its images.
        batch: what a call gets.
        clock: times a call.
        compile: compiles a network.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        normalization: Normalization,
        batch: Batch,
        *,
        clock: Clock = seconds_per_call,
        compile: Compile = torch.compile,
    ) -> None:
        self._network, self._normalization, self._batch = network, normalization, batch
        self._clock, self._compile = clock, compile

    @torch.no_grad()
    def __call__(self, candidate: Candidate) -> float:
        """Return the seconds of a candidate's call.

        Raises:
            InaccurateError: its logits differ from the reference's.
            Exception: it does not run.
        """
        batch = self._batch
        with torch.random.fork_rng([batch.device] if batch.device.type == "cuda" else []):
            torch.manual_seed(0)
            images = batch.make(self._normalization)
        call = candidate.for_inference(self._network, self._compile)
        call = GraphedNetwork(call, capturer_for(batch.graph, batch.device), batch.size)

        def whole() -> Tensor:
            with batch.autocast():
                return call(images)

        with use_impl("reference"), batch.autocast():
            exact = self._network(images).double()
        (error,) = relative_errors([whole()], [exact])
        if not error <= LOGITS[batch.rounding]:
            raise InaccurateError(f"relative error {error:.1e} of the logits")
        return self._clock(whole, batch.device)
