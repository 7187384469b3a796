"""How DALI decodes JPEGs on a GPU: which of its settings suit which card."""

from dataclasses import dataclass
from typing import Any

DEFAULT_ENGINE_LOAD = 0.65
"""DALI's own `hw_decoder_load`; cards without a decoder engine ignore it."""
ENGINE_LOAD = {(8, 0): 0.75, (9, 0): 0.9}
"""By compute capability, where another is better. A100: NVIDIA measured about 7,000 images/s at
0.75 against 5,000 at 1 and 6,000 at 0 (blog "Loading Data Fast with DALI and New Hardware JPEG
Decoder in NVIDIA A100 GPUs", which DALI's documentation of the setting refers to; figures as in
NVIDIA/DALI#5362). H100: it has seven such engines instead of one (NVIDIA's MIG user guide), so the
other path, at the A100's speed, would be the slower one below 35,000 / (35,000 + 6,000) = 0.85; not
measured."""
LARGEST_WIDTH, LARGEST_HEIGHT = 5980, 6430
"""Pixels of ImageNet's photos, for which NVIDIA's ImageNet example also allocates the engine."""
LEAST_DEVICE_PADDING, MOST_DEVICE_PADDING = 16_777_216, 211_025_920
LEAST_HOST_PADDING, MOST_HOST_PADDING = 8_388_608, 140_544_512
"""Bytes a thread that nvJPEG starts with, so that larger images later cause no reallocation, which
would wait for the GPU: DALI's defaults, and those of DALI's ImageNet example
(docs/examples/use_cases/pytorch/resnet50/main.py)."""
SHARE_OF_MEMORY = 0.05
"""Of the card's memory that the threads' padding may take."""


@dataclass(frozen=True)
class GpuDecoding:
    """Arguments of DALI's image decoders on a GPU."""

    hw_decoder_load: float
    """Share of the JPEGs that the card's decoder engine takes, if it has one."""
    device_memory_padding: int
    """Bytes of GPU memory a thread."""
    host_memory_padding: int
    """Bytes of page-locked memory a thread, of which DALI takes two."""
    preallocate_width_hint: int = LARGEST_WIDTH
    """Pixels."""
    preallocate_height_hint: int = LARGEST_HEIGHT
    """Pixels."""

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of a decoder."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"{self.hw_decoder_load:.0%} of the JPEGs by the decoder engine if the card has one, "
            f"{self.device_memory_padding / 1e6:.0f} MB of GPU and 2 x "
            f"{self.host_memory_padding / 1e6:.0f} MB of host memory a thread"
        )


def gpu_decoding(
    capability: tuple[int, int],
    memory: int,
    num_threads: int,
    hw_decoder_load: float | None = None,
) -> GpuDecoding:
    """The settings for a card.

    Args:
        capability: Its compute capability.
        memory: Its bytes of memory.
        num_threads: Of the pipeline.
        hw_decoder_load: The engine's share, in place of the card's.
    """
    if hw_decoder_load is None:
        hw_decoder_load = ENGINE_LOAD.get(capability, DEFAULT_ENGINE_LOAD)
    share = min(1.0, SHARE_OF_MEMORY * memory / num_threads / MOST_DEVICE_PADDING)
    return GpuDecoding(
        hw_decoder_load,
        max(int(share * MOST_DEVICE_PADDING), LEAST_DEVICE_PADDING),
        max(int(share * MOST_HOST_PADDING), LEAST_HOST_PADDING),
    )
