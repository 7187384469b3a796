"""The most confident wrong predictions."""

import heapq
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, order=True)
class Mistake:
    """An image with a wrong prediction."""

    probability: float
    """Probability of the prediction."""
    index: int
    """Index of the image in the dataset."""
    label: int
    prediction: int
    label_probability: float
    """Probability of the label."""


class Mistakes:
    """Keeps the `count` most confident mistakes; batches come in the dataset's order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[Mistake] = []
        self._seen = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add the mistakes of a batch: logits (N, num_classes), labels (N,)."""
        probabilities = logits.float().softmax(1)
        highest, predictions = probabilities.max(1)
        of_labels = probabilities.gather(1, labels[:, None])[:, 0]
        for i in (predictions != labels).nonzero().flatten().tolist():
            mistake = Mistake(
                float(highest[i]),
                self._seen + i,
                int(labels[i]),
                int(predictions[i]),
                float(of_labels[i]),
            )
            heapq.heappush(self._heap, mistake)
            if len(self._heap) > self._count:
                heapq.heappop(self._heap)
        self._seen += len(labels)

    def most_confident_first(self) -> list[Mistake]:
        """Return the mistakes, most confident first."""
        return sorted(self._heap, reverse=True)
