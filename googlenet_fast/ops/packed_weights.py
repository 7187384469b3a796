"""Weights of convolutions in the layout that the CPU kernels multiply by.

A kernel rearranges its weights, or transforms them for Winograd's convolution, in every call. In
inference that can be done once, as long as the weights stay the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from googlenet_fast import extension
from googlenet_fast.ops.common import CONVOLUTION_DTYPES
from googlenet_fast.registry import define, requested, transforms_active

T = TypeVar("T")


def pack_weight(weight: Tensor, height: int, width: int) -> Tensor:
    """Return what `conv_bias_relu` and `inception` take as packed; its layout is this machine's.

    Args:
        weight: (K, C, T, T), on a CPU; T is 1, 3, 5 or 7.
        height: of the images that it multiplies; others with the same `tile_points` may follow.
        width: of the images.
    """
    return _PACK_WEIGHT(weight, height, width)


def pack_inception(weights: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
    """Return the weights of an Inception block, each through `pack_weight`, for `inception`.

    Args:
        weights: w_in, w3, w5 and wp of the op.
        height: of the images.
        width: of the images.
    """
    w_in, w3, w5, wp = weights
    c1 = w_in.size(0) - w3.size(1) - w5.size(1)
    return [pack_weight(w, height, width) for w in (w_in[:c1], w_in[c1:], w3, w5, wp)]


def fingerprint(tensors: Sequence[Tensor]) -> int:
    """Return a 64-bit digest of all bytes of CPU tensors, in one pass at memory speed.

    A change of any one 32-bit word changes it. Not cryptographic.
    """
    return _FINGERPRINT(tensors)


class _Snapshot(NamedTuple):
    """Packed copies of weights, and what they were copied from."""

    key: Any
    digest: int
    value: Any


class PackedWeights(Generic[T]):
    """A value computed from weights for CPU inference, right after any write to them.

    Versions of tensors only prove that a write happened; many ways to write leave them as they
    are. So the bytes are digested in every call. Threads share one immutable snapshot, which is
    replaced whole. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._snapshot: _Snapshot | None = None

    def get(
        self,
        sources: Sequence[Tensor],
        variant: Any,
        compute: Callable[[Sequence[Tensor]], T],
    ) -> T:
        """Return the value for the sources as they are now.

        Args:
            sources: weights, and what else the value is computed from; `can_pack` of them holds.
            variant: whatever else the value depends on, such as the images' size.
            compute: makes the value from copies of the sources.
        """
        key = [variant]
        for source in sources:
            version = -1 if source.is_inference() else source._version
            key.append((source.data_ptr(), version, source.shape, source.stride(), source.dtype))
        snapshot = self._snapshot
        if (
            snapshot is not None
            and snapshot.key == key
            and snapshot.digest == _FINGERPRINT(sources)
        ):
            return snapshot.value
        # The copies are what is digested and packed. Digested after packing, sources that another
        # thread writes meanwhile would give the old value the new digest.
        with torch.inference_mode(False), torch.no_grad():  # later calls may want gradients
            copies = [source.detach().clone() for source in sources]
            value = compute(copies)
        self._snapshot = _Snapshot(key, _FINGERPRINT(copies), value)
        return value

    def __reduce__(self) -> tuple[type["PackedWeights[T]"], tuple[()]]:
        return PackedWeights, ()


def can_pack(sources: Sequence[Tensor]) -> bool:
    """Return True if CPU kernels may take packed weights: no gradients, no tracing, real data."""
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or transforms_active()
        or requested() not in ("auto", "native")
        or extension.UNAVAILABLE is not None
        or "emulates" in extension.BUILD_INFO
    ):
        return False
    wants_gradient = torch.is_grad_enabled()
    for source in sources:
        if (
            type(source) not in (Tensor, nn.Parameter)
            or source.device.type != "cpu"
            or (source.is_floating_point() and source.dtype not in CONVOLUTION_DTYPES)
            or (wants_gradient and source.requires_grad)
        ):
            return False
    return True


def _fake_pack(weight: Tensor, height: int, width: int) -> Tensor:
    """Return a row; the instruction set decides its length."""
    size = torch.library.get_ctx().new_dynamic_size()
    return weight.new_empty(size, dtype=torch.float32)


def _fake_fingerprint(tensors: list[Tensor]) -> int:
    raise NotImplementedError("fingerprint: the digest of a fake tensor is not known")


_PACK_WEIGHT = define("pack_weight(Tensor weight, int height, int width) -> Tensor", _fake_pack)
_FINGERPRINT = define("fingerprint(Tensor[] tensors) -> int", _fake_fingerprint)
