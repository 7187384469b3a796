"""Evaluate top-1, top-5, loss and confusion matrix, exactly for any number of processes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.engine.distributed import Process


@dataclass(frozen=True)
class Evaluation:
    """Results over the images of all processes."""

    images: int
    """Number of images."""
    loss: float
    """Mean cross-entropy."""
    top5_count: int
    """Images whose label is among the five highest logits."""
    confusion: Tensor
    """Counts (num_classes, num_classes) int64 on the CPU: rows are labels, columns predictions."""

    @property
    def top1_count(self) -> int:
        """Images whose label is the highest logit."""
        return int(self.confusion.diagonal().sum())

    @property
    def top1(self) -> float:
        """Share of images, in %, whose label is the highest logit."""
        return 100 * self.top1_count / max(self.images, 1)

    @property
    def top5(self) -> float:
        """Share of images, in %, whose label is among the five highest logits."""
        return 100 * self.top5_count / max(self.images, 1)

    @property
    def per_class_top1(self) -> Tensor:
        """Top-1 accuracy in % of each class (num_classes,); NaN for a class with no image."""
        return 100 * self.confusion.diagonal() / self.confusion.sum(1)


@torch.no_grad()
def evaluate(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    process: Process,
    num_classes: int,
    amp_dtype: torch.dtype | None = None,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Evaluation:
    """Evaluate a network, such as `model.frozen.Frozen`, on every (images, labels) of a loader.

    Sums stay on the device and are added over all processes once, at the end, so processes may have
    different numbers of batches. `observe` gets the logits and labels of each batch of this
    process.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=process.device)
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=process.device)
    for images, labels in batches:
        with torch.autocast(process.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            logits = network(images)
        if observe is not None:
            observe(logits, labels)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        top = logits.topk(min(5, num_classes), dim=1).indices
        top5 = (top == labels[:, None]).sum()
        sums += torch.stack([loss.double(), top5.double()])
        cells = labels * num_classes + top[:, 0]
        confusion.index_add_(
            0, cells, torch.ones_like(cells)
        )  # bincount would synchronise with a GPU
    process.sum(sums)
    process.sum(confusion)
    loss_sum, top5_sum = sums.tolist()
    matrix = confusion.view(num_classes, num_classes).cpu()
    images_seen = int(matrix.sum())
    return Evaluation(
        images=images_seen,
        loss=loss_sum / max(images_seen, 1),
        top5_count=int(top5_sum),
        confusion=matrix,
    )
