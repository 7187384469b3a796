"""Find damage inside a JPEG's data, which decoders fill with grey or noise without an error.

libjpeg prints a line about it, which Pillow suppresses. So the JPEG is decoded once more, by DALI
or torchvision.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch

from googlenet_fast.data.library_messages import all_caught
from googlenet_fast.vendors import is_other_vendors


def scan_damage(content: bytes) -> str | None:
    """Return what libjpeg says about a JPEG that Pillow can read; None if nothing.

    None, too, if neither DALI nor torchvision is installed, and for other formats.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    with all_caught() as messages:
        _decoder()(content)
        lines = messages.take()
    if not lines:
        return None
    ends_early = any("remature end" in line for line in lines)
    return f"{'its data ends early' if ends_early else 'damaged'} ({'; '.join(lines)})"


@cache
def _decoder() -> Callable[[bytes], object]:
    """Return a function that decodes a JPEG with libjpeg and raises no error."""
    for make in (dali_decoder, torchvision_decoder):
        try:
            return make()
        except ImportError:
            continue
    return lambda content: None


def torchvision_decoder() -> Callable[[bytes], object]:
    """Return torchvision's decoder."""
    from torchvision.io import decode_jpeg

    def decode(content: bytes) -> None:
        with warnings.catch_warnings(), suppress(RuntimeError):  # one that only Pillow reads
            warnings.simplefilter("ignore")
            decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))

    return decode


def dali_decoder() -> Callable[[bytes], object]:
    """Return DALI's decoder."""
    if is_other_vendors(torch.__version__):
        raise ImportError("DALI is for NVIDIA's GPUs")
    from googlenet_fast.data.dali import decoding_pipeline

    images: list[np.ndarray] = []

    @cache
    def pipeline() -> Any:
        return decoding_pipeline(
            batch_size=1, num_threads=1, device_id=None, gpu=None, images=lambda: images,
            exec_pipelined=False, exec_async=False,
        )  # fmt: skip

    def decode(content: bytes) -> None:
        images[:] = [np.frombuffer(content, np.uint8)]
        try:
            pipeline().run()
        except RuntimeError:
            pipeline.cache_clear()  # an error ends a pipeline

    return decode
