"""Accuracy, loss and confusion of a network over batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.evaluation import evaluate

ALONE = Process(0, 1, 0, 1, torch.device("cpu"))


class Logits(nn.Module):
    """Takes the logits from the first pixels of each image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.num_classes]


def batches(sizes: list[int], num_classes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 3, 4, 4), torch.randint(num_classes, (n,))) for n in sizes]


@pytest.mark.parametrize("num_classes", [2, 4, 5, 40])
def test_measures_equal_those_of_each_image_alone(num_classes: int) -> None:
    data = batches([7, 7, 1, 3], num_classes)
    model = Logits(num_classes)
    result = evaluate(model, data, ALONE, num_classes)

    logits = torch.cat([model(images) for images, _ in data])
    labels = torch.cat([labels for _, labels in data])
    order = logits.argsort(dim=1, descending=True)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    top1 = top5 = 0
    for label, ranked in zip(labels.tolist(), order.tolist(), strict=True):
        confusion[label, ranked[0]] += 1
        top1 += label == ranked[0]
        top5 += label in ranked[:5]
    assert result.images == 18
    assert torch.equal(result.confusion, confusion)
    assert (result.top1_count, result.top5_count) == (top1, top5)
    assert result.top1 == pytest.approx(100 * top1 / 18)
    assert result.top5 == pytest.approx(100 * top5 / 18)
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_classes_without_images_have_no_accuracy() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[:, 0, 0, 1] = 1  # class 1 in all
    result = evaluate(Logits(3), [(images, torch.tensor([1, 1, 2]))], ALONE, 3)
    accuracy = result.per_class_top1
    assert accuracy[0].isnan()
    assert accuracy[1:].tolist() == [100, 0]


def test_no_image() -> None:
    """What a process has that gets no share of few images."""
    result = evaluate(Logits(3), [], ALONE, 3)
    assert (result.images, result.top1, result.top5, result.loss) == (0, 0, 0, 0)


def test_autocast() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    evaluate(model, batches([4], 6), ALONE, 6, torch.bfloat16)
    assert seen == [torch.bfloat16]
