"""What is exported: a trained network, the way it is fed images, the names of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from googlenet_fast.classifier.display_names import known_names, labels
from googlenet_fast.classifier.transform import AnyImage, Transform
from googlenet_fast.data.reading import decode
from googlenet_fast.data.tar_members import Location
from googlenet_fast.deploy.graph import Graph
from googlenet_fast.deploy.samples import Sample
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.model.frozen import Frozen, freeze
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.preprocessing import Preprocessing
from googlenet_fast.model.weights import load_model


@dataclass(frozen=True)
class Trained:
    """A trained network, as a graph to export and as what the graph must agree with."""

    model: GoogLeNet
    frozen: Frozen
    """The same network by this package's kernels, on the CPU."""
    preprocessing: Preprocessing
    graph: Graph

    @classmethod
    def load(cls, weights: str | Path, preset: str | None, with_preprocessing: bool) -> "Trained":
        """Load weights of any format.

        Raises:
            GoogLeNetError: weights that cannot be loaded, or images too small for the network.
        """
        model, info = load_model(weights, preset=preset)
        how = info.preprocessing
        model.preset.check_input_size(how.image_size, aux=False)
        graph = Graph(model, how.image_size, how.normalization if with_preprocessing else None)
        return cls(model, freeze(model), how, graph)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names in the weights, or ImageNet's identifiers; None if unknown."""
        return known_names(self.preprocessing.class_names, self.model.num_classes)

    def description(self) -> dict[str, Any]:
        """Return what a program that runs the file must know, as plain values."""
        side = self.preprocessing.image_size
        given = f"uint8 (N, {side}, {side}, 3), RGB"
        if self.graph.normalize is None:
            given = f"float32 (N, 3, {side}, {side}), (pixel - mean) / std of 8-bit pixels"
        return {
            "input": given,
            "output": self.graph.output,
            "preset": self.model.preset.name,
            **self.preprocessing.values(),
            "class_names": list(labels(self.class_names, self.model.num_classes)),
        }

    def inputs(self, images: Sequence[Sample]) -> NDArray[Any]:
        """Return the graph's input for images, C-contiguous: compiled programs do not check."""
        transform = Transform(self.preprocessing)
        make = transform if self.graph.normalize is None else transform.crop
        return np.ascontiguousarray([np.asarray(make(_opened(image))) for image in images])

    def outputs(self, images: Sequence[Sample]) -> Tensor:
        """Return what the graph's output must be for images, as `predict` computes it."""
        transform = Transform(self.preprocessing)
        logits = self.frozen(torch.stack([transform(_opened(image)) for image in images]))
        return logits if self.graph.normalize is None else logits.softmax(1)


def _opened(image: Sample) -> AnyImage:
    return decode(image, MAX_PIXELS) if isinstance(image, Location) else image
