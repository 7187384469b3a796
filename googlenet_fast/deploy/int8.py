"""Static quantisation of ONNX files to 8 bits."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from googlenet_fast.deploy.agreement import Run
from googlenet_fast.deploy.graph import INPUT
from googlenet_fast.deploy.samples import Samples
from googlenet_fast.deploy.trained import Trained
from googlenet_fast.errors import GoogLeNetError

CALIBRATION_IMAGES = 128
BATCH = 8
PERCENTILE = 99.999
"""Share of the activations that 8 bits must hold; larger ones are clipped. On TrashNet's photos
probabilities then change least: less than without clipping, or with 99.99."""

QUANTISED = ["Concat", "Conv", "Gemm", "MaxPool", "Relu", "Split"]
"""Ops in 8 bits. The others are few, and sensitive: normalisation, LRN, the last mean, softmax."""

MOST_CHANGE = 0.1
"""Mean total variation distance between probabilities of both networks that is accepted."""


def int8_file(content: bytes, trained: Trained, samples: Samples) -> bytes:
    """Return an ONNX file with 8-bit weights, per channel, and activations.

    Args:
        content: the file in fp32.
        trained: how its images are made.
        samples: images that show which values activations have.
    """
    with TemporaryDirectory() as folder:
        fp32, prepared, output = (
            Path(folder, f"{name}.onnx") for name in ("fp32", "prepared", "int8")
        )
        fp32.write_bytes(content)
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        with redirect_stdout(StringIO()):  # a line per batch
            quantize_static(
                prepared,
                output,
                _Calibration(trained, samples),
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={
                    "CalibPercentile": PERCENTILE,
                    "CalibStridedMinMax": 1,  # a batch at a time: activations fill the memory
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],  # the logits
                },
            )
        quantised = onnx.load(output)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(onnx.load_from_string(content).metadata_props)
    return quantised.SerializeToString()


class _Calibration(CalibrationDataReader):
    """Batches for ONNX Runtime, which asks for a range of them and then for one after another."""

    def __init__(self, trained: Trained, samples: Samples) -> None:
        images = samples.images
        self._trained = trained
        self._batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        self._left = iter(self._batches)
        self._progress = tqdm(total=len(self), unit="batch", leave=False, disable=None)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._left, None)
        if batch is None:
            return None
        self._progress.update()
        return {INPUT: self._trained.inputs(batch)}


@dataclass(frozen=True)
class Quality:
    """How a network in 8 bits compares with the same network in fp32."""

    agreement: float
    """Share of the images, in %, to which both give the same class."""
    accuracy: Mapping[str, tuple[float, float]]
    """Of top-1 and top-5: accuracy in fp32 and in 8 bits, in %; empty without labels."""

    def __str__(self) -> str:
        parts = [f"{k} {x:.2f} % in fp32, {y:.2f} % in int8" for k, (x, y) in self.accuracy.items()]
        return "; ".join([*parts, f"the same class for {self.agreement:.2f} %"])


def quality(fp32: Run, int8: Run, trained: Trained, samples: Samples) -> Quality:
    """Compare a network in 8 bits with the same network in fp32.

    Raises:
        GoogLeNetError: their probabilities differ by more than `MOST_CHANGE`.
    """
    pairs = []
    for start in tqdm(range(0, len(samples), BATCH), unit="batch", leave=False, disable=None):
        inputs = trained.inputs(samples.images[start : start + BATCH])
        pairs.append((fp32(inputs), int8(inputs)))
    before, after = (np.concatenate(outputs) for outputs in zip(*pairs, strict=True))
    if trained.graph.normalize is None:
        before, after = _softmax(before), _softmax(after)
    change = float(np.abs(before - after).sum(1).mean() / 2)
    if not change <= MOST_CHANGE:  # NaN is not
        raise GoogLeNetError(
            f"not written: 8 bits change the probabilities of {samples} by {100 * change:.0f} % on "
            "average; calibrate on images like those that the network was trained on"
        )
    agreement = 100 * float((before.argmax(1) == after.argmax(1)).mean())
    labels, accuracy = samples.labels, {}
    if labels is not None:
        for k in (1, 5):
            accuracy[f"top-{k}"] = _accuracy(before, labels, k), _accuracy(after, labels, k)
    return Quality(agreement, accuracy)


def _accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> float:
    """Return the share of images, in %, whose label is among the k most likely classes."""
    likely = np.argsort(-probabilities, axis=1)[:, :k]
    return 100 * float((likely == labels[:, None]).any(1).mean())


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
