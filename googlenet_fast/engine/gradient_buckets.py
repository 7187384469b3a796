"""Average gradients over processes while the backward pass still runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25 * 2**20
"""Gradients that are averaged at once; the default of PyTorch's DistributedDataParallel."""


class GradientBuckets:
    """Averages the gradients of tensors over all processes, in buckets.

    The hook of the last gradient of a bucket starts the bucket's all-reduce, which overlaps the
    rest of the backward pass; `join` waits for all of them. On CUDA nothing waits on the host:
    NCCL runs on a stream of its own that the current one joins, so a CUDA graph captures it too.
    Each process starts the buckets in the same order, whatever the order of the gradients.

    Args:
        leaves: tensors that require gradients, of any floating dtypes, in the order of the forward
            pass. Each must get a gradient in every backward pass.
        world_size: number of processes.
        bucket_bytes: a bucket ends with the gradient that reaches this size.
    """

    def __init__(
        self, leaves: Sequence[Tensor], world_size: int, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._buckets = [_Bucket(part, world_size) for part in _parts(leaves, bucket_bytes)]
        self._enabled = True
        self._started = 0
        for bucket in self._buckets:
            for leaf in bucket.leaves:
                leaf.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._note(bucket))

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Leave the gradients of a backward pass as this process's own, to be added to."""
        self._enabled = False
        try:
            yield
        finally:
            self._enabled = True

    def join(self) -> None:
        """Let the current stream wait for the averages, which are then the leaves' gradients."""
        assert self._started == len(self._buckets), "a leaf got no gradient"
        for bucket in self._buckets:
            bucket.join()
        self._started = 0

    def reset(self) -> None:
        """Forget a backward pass that failed."""
        self._started = 0
        for bucket in self._buckets:
            bucket.reset()

    def _note(self, bucket: "_Bucket") -> None:
        if not self._enabled:
            return
        bucket.missing -= 1
        while self._started < len(self._buckets) and not self._buckets[self._started].missing:
            self._buckets[self._started].start()
            self._started += 1


class _Bucket:
    """Gradients of one dtype and device in one flat tensor."""

    def __init__(self, leaves: Sequence[Tensor], world_size: int) -> None:
        self.leaves = leaves
        self.missing = len(leaves)
        self._world_size = world_size
        first = leaves[0]
        self._flat = first.new_zeros(sum(leaf.numel() for leaf in leaves))
        parts = self._flat.split([leaf.numel() for leaf in leaves])
        # With the strides of the leaves, as autograd and the fused optimizer prefer.
        self._views = [
            part.as_strided(leaf.shape, leaf.stride(), part.storage_offset())
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        for view, leaf in zip(self._views, leaves, strict=True):
            leaf.grad = view
        self._work: dist.Work | None = None

    @torch.no_grad()
    def start(self) -> None:
        """Gather the gradients, unless they are in the flat tensor already, and average them."""
        outside = [
            (view, leaf.grad)
            for view, leaf in zip(self._views, self.leaves, strict=True)
            if leaf.grad is not None and leaf.grad.data_ptr() != view.data_ptr()
        ]
        if outside:
            views, gradients = map(list, zip(*outside, strict=True))
            torch._foreach_copy_(views, gradients)
            for view, leaf in zip(self._views, self.leaves, strict=True):
                leaf.grad = view
        operation = dist.ReduceOp.AVG
        if not self._flat.is_cuda:  # gloo cannot average
            self._flat.mul_(1 / self._world_size)
            operation = dist.ReduceOp.SUM
        self._work = dist.all_reduce(self._flat, operation, async_op=True)

    def join(self) -> None:
        assert self._work is not None
        self._work.wait()
        self.reset()

    def reset(self) -> None:
        self._work, self.missing = None, len(self.leaves)


def _parts(leaves: Sequence[Tensor], bucket_bytes: int) -> list[list[Tensor]]:
    """Divide tensors into parts of one dtype and device, from the last one to the first."""
    open_parts: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    parts = []
    for leaf in reversed(leaves):
        kind = leaf.dtype, leaf.device
        part = open_parts.setdefault(kind, [])
        part.append(leaf)
        if sum(member.nbytes for member in part) >= bucket_bytes:
            parts.append(open_parts.pop(kind))
    return parts + list(open_parts.values())
