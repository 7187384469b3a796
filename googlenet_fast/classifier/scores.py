"""What a classifier says about an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassScore:
    """A class and its probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of an image, in order of probability."""

    scores: list[ClassScore]

    @property
    def label(self) -> str:
        """Name of the most likely class."""
        return self.scores[0].name

    @property
    def index(self) -> int:
        """Number of the most likely class."""
        return self.scores[0].index

    @property
    def probability(self) -> float:
        """Probability of the most likely class."""
        return self.scores[0].probability
