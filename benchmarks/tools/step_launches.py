"""Count the device kernels that a whole step launches, without a GPU.

The step runs on fake tensors: forward, loss, backward, gradient scaling and optimizer as the
trainer runs them in fp16. Each operation counts with the kernels that a GPU launches for it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.tools.launch_prediction import LAUNCH, MEMORY, TENSOR_CORES, predict
from googlenet_fast import extension
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.engine.optimizer import build_optimizer
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.kernels.launch import observe
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.ops import common, use_impl
from googlenet_fast.registry import invalidate

BATCH, SIDE = 64, 224

aten = torch.ops.aten
FREE = ("empty", "detach", "_record_function", "prim.", "promote_types", "_unsafe_view")
"""Parts of the names of operations that launch nothing."""

CHUNK, CHUNKS = 65536, 320
"""Elements that a block of PyTorch's multi-tensor kernels has, and blocks that a launch has."""

TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Tensors of each list that a launch of them takes, by the number of lists
(ATen/native/cuda/MultiTensorApply.cuh)."""


class Row(NamedTuple):
    """An operation of a step."""

    name: str
    launches: int
    bytes: int
    """Of its tensors, each once a call."""
    microseconds: float
    """Predicted: a launch each, and the longer of bytes of memory and products."""


class Counter(TorchDispatchMode):
    """Counts the launches of what runs, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}

    def add(self, name: str, launches: int, moved: int, microseconds: float) -> None:
        """Add launches of an operation."""
        old = self.rows.get(name, Row(name, 0, 0, 0.0))
        self.rows[name] = Row(
            name, old.launches + launches, old.bytes + moved, old.microseconds + microseconds
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        if func.namespace == "googlenet_fast" and "triton" in func.__name__:
            with self:  # its kernels are seen by `observe`, the rest here
                return func._op_dk(torch._C.DispatchKey.CPU, *args, **kwargs)
        result = func(*args, **kwargs)
        count = launches_of(func, args)
        if count:
            tensors = {id(x): x for x in tree_leaves((args, kwargs, result)) if _is_tensor(x)}
            moved = sum(x.numel() * x.element_size() for x in tensors.values())
            flops = flop_registry.get(func.overloadpacket, lambda *_, **__: 0)
            operations = flops(*args, **kwargs, out_val=result)
            seconds = count * LAUNCH + max(moved / MEMORY, operations / TENSOR_CORES)
            self.add(func.overloadpacket.__name__, count, moved, 1e6 * seconds)
        return result


def launches_of(func: Any, args: Sequence[Any]) -> int:
    """Return the kernels that a GPU launches for an operation."""
    packet = func.overloadpacket
    if func.is_view or any(part in str(func) for part in FREE):
        return 0
    if packet is aten.convolution:
        return 1 + (args[2] is not None)
    if packet is aten.convolution_backward:
        return sum(args[-1])
    if packet in (aten.native_batch_norm, aten.native_batch_norm_backward):
        return 2
    if func.namespace != "aten":  # a kernel of this package takes all its tensors in one launch
        return 1
    lists = [x for x in args if isinstance(x, list | tuple) and x and _is_tensor(x[0])]
    if lists and ("foreach" in str(func) or "fused" in str(func)):
        return _multi_tensor_launches([len(x) and [t.numel() for t in x] for x in lists])
    return 1


def _multi_tensor_launches(lists: Sequence[Any]) -> int:
    """Return the launches of multi-tensor kernels: one is full of tensors, or of chunks."""
    most = TENSORS[min(len(lists), max(TENSORS))]
    launches = tensors = chunks = 0
    for elements in lists[0]:
        tensors += 1
        for _ in range(-(-elements // CHUNK)):
            chunks += 1
            if chunks == CHUNKS:
                launches, chunks, tensors = launches + 1, 0, 0
        if tensors == most:
            launches, chunks, tensors = launches + 1, 0, 0
    return launches + bool(chunks)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def training_step(preset: str) -> list[Row]:
    """Return what a training step of a preset with auxiliary heads launches, in fp16 at batch 64.

    The convolutions are the library's, which are the fastest in training, and everything else this
    package's kernels.
    """
    with FakeTensorMode(), _kernels_of_a_gpu(), use_impl("aten"):
        model = GoogLeNet(preset)
        half = HalfWeights(model, torch.float16)
        optimizer = build_optimizer(model, OptimizerConfig(), half)
        step = TrainStep(half, optimizer, amp_dtype=torch.float16)
        images, labels = _images(), torch.zeros(BATCH, dtype=torch.long)
        step(images, labels)  # makes what later steps keep
        with Counter() as counter:
            step(images, labels)
    return list(counter.rows.values())


def inference(preset: str, *, lrn: bool) -> list[Row]:
    """Return what inference of a preset launches, in fp16 at batch 64, with the Triton kernels."""
    with FakeTensorMode(), use_impl("triton"), torch.device("cuda"):
        network = freeze(GoogLeNet(preset, aux=False, lrn=lrn), torch.float16)
        images = _images().half()
        with torch.autocast("cuda", torch.float16), Counter() as counter, _triton(counter):
            network(images)
    return list(counter.rows.values())


@contextmanager
def _kernels_of_a_gpu() -> Iterator[None]:
    """Let every kernel that GPUs have be one operation, also in dtypes that CPU kernels lack.

    Fake tensors are on the CPU: PyTorch has no backward pass of fake CUDA tensors without a GPU.
    """
    with (
        mock.patch.dict(extension.BUILD_INFO, {"emulates": "cuda"}),
        mock.patch.object(extension, "missing_part", return_value=None),
        mock.patch.object(common, "_has_kernel", return_value=True),
    ):
        invalidate()
        yield
    invalidate()


@contextmanager
def _triton(counter: Counter) -> Iterator[None]:
    def add(launch: Any, run: Callable[[], None]) -> None:
        found = predict(launch)
        counter.add(found.kernel, 1, found.memory_bytes, found.microseconds)

    with observe(add):
        yield


def _images() -> Tensor:
    return torch.zeros(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)


STEPS: dict[str, Callable[[], list[Row]]] = {
    "training, paper": lambda: training_step("paper"),
    "training, paddleclas": lambda: training_step("paddleclas"),
    "training, torchvision": lambda: training_step("torchvision"),
    "inference, paper": lambda: inference("paper", lrn=True),
    "inference, paper without LRN": lambda: inference("paper", lrn=False),
}
"""Steps that are counted, by name."""


def totals(rows: Sequence[Row]) -> dict[str, float]:
    """Return launches and predicted microseconds of a step."""
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        sums["launches"] += row.launches
        sums["microseconds"] += row.microseconds
    return dict(sums)
