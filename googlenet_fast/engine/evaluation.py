"""Evaluation: top-1, top-5, loss and the confusion matrix, exact over any number of processes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.data import Loader
from googlenet_fast.engine.distributed import Process


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured, over the images of all processes."""

    images: int
    """Number of images."""
    loss: float
    """Mean cross-entropy."""
    top1: float
    """Share of images, in %, whose label is the highest logit."""
    top5: float
    """Share of images, in %, whose label is among the five highest logits."""
    confusion: Tensor
    """Counts (num_classes, num_classes) int64 on the CPU: rows are labels, columns predictions."""

    @property
    def per_class_top1(self) -> Tensor:
        """Top-1 accuracy in % of each class (num_classes,); NaN for a class with no image."""
        return 100 * self.confusion.diagonal() / self.confusion.sum(1)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    process: Process,
    num_classes: int,
    amp_dtype: torch.dtype | None = None,
) -> Evaluation:
    """Evaluate `model` on every image of `loader`.

    Sums are accumulated on the device and added up over all processes once, at the end, so
    processes may have different numbers of batches. The model is put in its evaluation mode and
    back.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=process.device)
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=process.device)
    for images, labels in loader:
        with torch.autocast(process.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        top = logits.topk(min(5, num_classes), dim=1).indices
        top5 = (top == labels[:, None]).sum()
        sums += torch.stack([loss.double(), top5, torch.full_like(top5, len(labels))])
        confusion += torch.bincount(
            labels * num_classes + top[:, 0], minlength=num_classes * num_classes
        )
    model.train(was_training)
    process.sum(sums)
    process.sum(confusion)
    loss_sum, top5_sum, count = sums.tolist()
    matrix = confusion.view(num_classes, num_classes).cpu()
    return Evaluation(
        images=int(count),
        loss=loss_sum / max(count, 1),
        top1=100 * matrix.diagonal().sum().item() / max(count, 1),
        top5=100 * top5_sum / max(count, 1),
        confusion=matrix,
    )
