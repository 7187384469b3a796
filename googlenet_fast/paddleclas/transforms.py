"""Translate PaddleClas's lists of image transforms into fields of `DataConfig`."""

from collections.abc import Callable, Mapping
from typing import Any

from googlenet_fast.paddleclas.document import Section
from googlenet_fast.paddleclas.values import (
    boolean,
    integer,
    number,
    numbers,
    positive_integer,
    side,
    text,
)

Options = dict[str, Any]
"""Fields of `DataConfig`."""

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Those of ImageNet and of preset paddleclas, RGB, in units of 0..1."""

_FILTERS = {"cv2": "cv2", "pil": "pillow"}
"""PaddleClas's backend of a resizing transform -> our filter of that library."""


def training_options(split: Section, key: str) -> Options:
    """Return the options of a list of training transforms.

    Raises:
        GoogLeNetError: names the path of a transform or an argument that is not supported.
    """
    readers = {
        "DecodeImage": _decode, "RandCropImage": _random_crop, "RandFlipImage": _flip,
        "NormalizeImage": _normalize, "ToCHWImage": _nothing,
    }  # fmt: skip
    return {"flip": 0.0} | _read(split, key, readers, "RandCropImage")


def evaluation_options(split: Section, key: str) -> Options:
    """Return the options of a list of transforms for evaluation or prediction; raises the same."""
    readers = {
        "DecodeImage": _decode, "ResizeImage": _resize, "CropImage": _crop,
        "NormalizeImage": _normalize, "ToCHWImage": _nothing,
    }  # fmt: skip
    return _read(split, key, readers, "ResizeImage", "CropImage")


def _read(
    split: Section, key: str, readers: Mapping[str, Callable[[Section], Options]], *needed: str
) -> Options:
    """Read the transforms, which must come in the order of `readers`."""
    names = list(readers)
    options: Options = {}
    seen: list[str] = []
    for index, (name, arguments) in enumerate(split.operators(key)):
        place = f"{key}.{index}.{name}"
        if name not in names:
            split.refuse(place, f"is not supported; choose from {', '.join(names)}")
        if seen and names.index(name) <= names.index(seen[-1]):
            split.refuse(place, f"cannot come after {seen[-1]}; the order is {', '.join(names)}")
        options |= readers[name](arguments)
        seen.append(name)
    for name in ("DecodeImage", *needed, "NormalizeImage"):
        if name not in seen:
            split.refuse(key, f"needs {name}")
    return options


def _decode(arguments: Section) -> Options:
    arguments.fixed("to_np", [True], "the other transforms work on arrays")
    arguments.fixed("to_rgb", [True], "preset paddleclas takes RGB")
    arguments.fixed("channel_first", [False], "the other transforms take channels last")
    arguments.ignore({"backend": "DALI or Pillow decodes; pixels differ by rounding"})
    return {}


def _random_crop(arguments: Section) -> Options:
    scale = arguments.take("scale", numbers, [0.08, 1.0])
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] == 1:
        arguments.refuse("scale", f"{scale} is not supported; the upper limit must be 1")
    ratio = arguments.take("ratio", numbers, [3 / 4, 4 / 3])
    if len(ratio) != 2 or ratio[1] < 1 or abs(ratio[0] * ratio[1] - 1) > 0.01:
        arguments.refuse("ratio", f"{ratio} is not supported; it must be [1 / r, r]")
    if not arguments.take("use_log_aspect", boolean, True):
        arguments.note("use_log_aspect", "the logarithm of the aspect ratio is uniform")
    arguments.fixed("progress_size", [], "the size of the images does not change")
    return {
        "image_size": arguments.need("size", side), "min_area": scale[0], "aspect_ratio": ratio[1],
        "resize": _filter(arguments),
    }  # fmt: skip


def _flip(arguments: Section) -> Options:
    if arguments.take("flip_code", integer, 1) != 1:
        arguments.refuse("flip_code", "images are flipped horizontally, 1, or not at all")
    return {"flip": 0.5}


def _resize(arguments: Section) -> Options:
    if "size" in arguments:
        arguments.refuse("size", "is not supported; use resize_short, which keeps the aspect ratio")
    resize = _filter(arguments)
    return {"resize_size": arguments.need("resize_short", positive_integer), "resize": resize}


def _filter(arguments: Section) -> str:
    """Return the filter: cv2's, which PaddleClas uses by default, or Pillow's; both bilinear."""
    backend = arguments.take("backend", text, "cv2").lower()
    if backend not in _FILTERS:
        arguments.refuse("backend", f"{backend!r} is not supported; choose cv2 or pil")
    usual = "bilinear" if backend == "cv2" else "bicubic"
    if arguments.take("interpolation", text, usual).lower() != "bilinear":
        arguments.note("interpolation", "images are resized bilinearly")
    arguments.ignore({"return_numpy": "it is for PaddleClas's own types"})
    return _FILTERS[backend]


def _crop(arguments: Section) -> Options:
    return {"image_size": arguments.need("size", side)}


def _normalize(arguments: Section) -> Options:
    scale = arguments.take("scale", number, 1 / 255)
    if abs(scale * 255 - 1) > 1e-4:
        arguments.refuse("scale", f"{scale:g} is not supported; it must be 1.0/255.0")
    for key, wanted in (("mean", MEAN), ("std", STD)):
        if (given := arguments.take(key, numbers, wanted)) != wanted:
            arguments.refuse(key, f"{given} is not supported; preset paddleclas has {wanted}")
    arguments.fixed("order", ["", "hwc"], "the other transforms take channels last")
    arguments.fixed("channel_num", [3], "images have three channels")
    arguments.ignore({"output_fp16": "images have the dtype of mixed precision"})
    return {}


def _nothing(arguments: Section) -> Options:
    return {}
