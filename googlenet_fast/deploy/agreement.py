"""Check that a file computes what the network computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.deploy.samples import Samples
from googlenet_fast.deploy.trained import Trained
from googlenet_fast.errors import GoogLeNetError

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Computes the output of a graph for a batch of its input."""

TOLERANCE = 1e-4
"""Difference that is accepted, as a share of the largest output. Sums in another order, and
Winograd's convolutions, differ by 1e-6 to 1e-5."""

BATCH = 8


def largest_difference(run: Run, trained: Trained, samples: Samples) -> float:
    """Return the largest difference between outputs of a file and of the network.

    The first image comes alone, the others in batches, as the number of images is free.

    Raises:
        GoogLeNetError: it is more than `TOLERANCE`.
    """
    images = samples.images
    parts = [images[:1], *(images[i : i + BATCH] for i in range(1, len(images), BATCH))]
    pairs = [(run(trained.inputs(part)), trained.outputs(part).numpy()) for part in parts]
    actual, expected = (np.concatenate(outputs) for outputs in zip(*pairs, strict=True))
    difference = float(np.abs(actual - expected).max())
    accepted = TOLERANCE * float(np.abs(expected).max())
    if not difference <= accepted:  # NaN is not
        raise GoogLeNetError(
            f"not written: its {trained.graph.output} for {samples} differ from the network's by "
            f"{difference:.2g}, more than {accepted:.1g}; the exporter or the runtime is at fault, "
            "try another version of it"
        )
    return difference
