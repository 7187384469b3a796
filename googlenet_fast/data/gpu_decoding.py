"""Settings of DALI's JPEG decoder on a GPU, by card."""

from dataclasses import dataclass
from typing import Any

DEFAULT_ENGINE_LOAD = 0.65
"""DALI's default of `hw_decoder_load`; cards without a decoder engine ignore it."""
ENGINE_LOAD = {(8, 0): 0.75, (9, 0): 0.9}
"""Compute capability -> a better `hw_decoder_load`. A100: NVIDIA measured about 7,000 images/s at
0.75, 5,000 at 1 and 6,000 at 0 (blog "Loading Data Fast with DALI and New Hardware JPEG Decoder in
NVIDIA A100 GPUs", cited by DALI's documentation; figures as in NVIDIA/DALI#5362). H100: it has
seven engines instead of one (NVIDIA's MIG user guide). If its other decoder is as fast as the
A100's, the engines are the bottleneck above 35,000 / (35,000 + 6,000) = 0.85; not measured."""
LARGEST_WIDTH, LARGEST_HEIGHT = 5980, 6430
"""Largest sides of ImageNet's photos in pixels, as in NVIDIA's ImageNet example."""
LEAST_DEVICE_PADDING, MOST_DEVICE_PADDING = 16_777_216, 211_025_920
LEAST_HOST_PADDING, MOST_HOST_PADDING = 8_388_608, 140_544_512
"""Bytes per thread that nvJPEG allocates first. A larger image later causes a reallocation, which
waits for the GPU. Least: DALI's defaults. Most: those of DALI's ImageNet example
(docs/examples/use_cases/pytorch/resnet50/main.py)."""
SHARE_OF_MEMORY = 0.05
"""Share of the card's memory that the padding of all threads may take."""


@dataclass(frozen=True)
class GpuDecoding:
    """Arguments of DALI's image decoders on a GPU."""

    hw_decoder_load: float
    """Share of the JPEGs that the card's decoder engine takes, if it has one."""
    device_memory_padding: int
    """Bytes of GPU memory per thread."""
    host_memory_padding: int
    """Bytes of page-locked memory per thread; DALI allocates two such buffers."""
    preallocate_width_hint: int = LARGEST_WIDTH
    """Pixels."""
    preallocate_height_hint: int = LARGEST_HEIGHT
    """Pixels."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a decoder."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"{self.hw_decoder_load:.0%} of the JPEGs by the decoder engine if the card has one, "
            f"{self.device_memory_padding / 1e6:.0f} MB of GPU and 2 x "
            f"{self.host_memory_padding / 1e6:.0f} MB of host memory per thread"
        )


def gpu_decoding(
    capability: tuple[int, int],
    memory: int,
    num_threads: int,
    hw_decoder_load: float | None = None,
) -> GpuDecoding:
    """Return the settings for a card.

    Args:
        capability: Compute capability.
        memory: Memory in bytes.
        num_threads: Threads of the pipeline.
        hw_decoder_load: Share of the decoder engine; default: by compute capability.
    """
    if hw_decoder_load is None:
        hw_decoder_load = ENGINE_LOAD.get(capability, DEFAULT_ENGINE_LOAD)
    share = min(1.0, SHARE_OF_MEMORY * memory / num_threads / MOST_DEVICE_PADDING)
    return GpuDecoding(
        hw_decoder_load,
        max(int(share * MOST_DEVICE_PADDING), LEAST_DEVICE_PADDING),
        max(int(share * MOST_HOST_PADDING), LEAST_HOST_PADDING),
    )
