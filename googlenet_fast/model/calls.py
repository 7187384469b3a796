"""The calls of fused ops that a network makes, found without computing anything."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.registry import Call, Op, call_of, record_calls, use_impl


def _uncompiled() -> AbstractContextManager[Any]:
    """Return a context in which `torch.compile` is off; torch before 2.6 has none."""
    if not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def one_process(model: nn.Module) -> Iterator[None]:
    """Have synchronised batch norms take this process's statistics alone in a `with` block.

    The other processes need not take part.
    """
    norms = [module for module in model.modules() if type(module) is nn.SyncBatchNorm]
    for norm in norms:
        norm.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.SyncBatchNorm


def calls_of(
    model: GoogLeNet, batch: int, image_size: int, amp: torch.dtype | None, device: torch.device
) -> list[tuple[str, Call]]:
    """Return the different calls in training and in evaluation, each with the op's name.

    The arguments are those of `count_calls`.
    """
    return list(
        dict.fromkeys(
            call
            for training in (True, False)
            for call in count_calls(model, batch, image_size, amp, device, training)
        )
    )


def count_calls(
    model: GoogLeNet,
    batch: int,
    image_size: int,
    amp: torch.dtype | None,
    device: torch.device,
    training: bool,
) -> Counter[tuple[str, Call]]:
    """Return how often the network makes each call of an op; calls that ops make do not count.

    The network runs on fake tensors: nothing is computed, and its state stays.

    Args:
        model: on any device, meta too.
        batch: images.
        image_size: side of an image, in pixels.
        amp: dtype of mixed precision, or None.
        device: where the network would run.
        training: of the network, with gradients; False: in evaluation, without.
    """
    calls: Counter[tuple[str, Call]] = Counter()

    def record(op: Op, arguments: Sequence[Any]) -> None:
        calls[op.name, call_of(arguments)] += 1

    modes = {module: module.training for module in model.modules()}
    with FakeTensorMode(), record_calls(record), one_process(model):
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        images = torch.empty(batch, 3, image_size, image_size, device=device, dtype=amp)
        model.train(training)
        with (
            use_impl("reference"),  # it makes no calls of ops
            torch.set_grad_enabled(training),
            _uncompiled(),  # a compiled network calls no ops
            torch.autocast(device.type, amp, enabled=amp is not None, cache_enabled=False),
        ):
            functional_call(model, state, (images,))
    for module, mode in modes.items():
        module.training = mode
    return calls
