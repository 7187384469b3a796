"""The wrong predictions that a network was surest of."""

import heapq
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, order=True)
class Mistake:
    """An image that was taken for something else."""

    probability: float
    """Of the prediction."""
    index: int
    """Position of the image among those evaluated."""
    label: int
    prediction: int
    label_probability: float
    """Of the label."""


class Mistakes:
    """Keeps the `most` mistakes with the highest probabilities, of images that come in order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[Mistake] = []
        self._seen = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Look at a batch: logits (N, num_classes), labels (N,)."""
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
            if len(self._heap) > self._most:
                heapq.heappop(self._heap)
        self._seen += len(labels)

    def worst_first(self) -> list[Mistake]:
        """The mistakes, surest first."""
        return sorted(self._heap, reverse=True)
