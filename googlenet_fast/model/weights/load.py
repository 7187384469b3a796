"""Load weights of any supported format into a network, or build their network."""

import logging
import stat
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.limits import MOST_WEIGHT_BYTES
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.preprocessing import Preprocessing
from googlenet_fast.model.weights.beside import beside, with_description_beside
from googlenet_fast.model.weights.caffe import read_caffemodel
from googlenet_fast.model.weights.paddle import read_pdparams
from googlenet_fast.model.weights.pytorch import read_safetensors, read_torch
from googlenet_fast.model.weights.weight_file import Description, WeightFile
from googlenet_fast.pretrained import is_remote, local_file, no_such_name

_log = logging.getLogger("googlenet_fast")

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_TORCH_PICKLE = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""First bytes of `torch.save` files before they were zip archives: a pickled magic number."""


@dataclass(frozen=True)
class LoadReport:
    """Result of `load_weights`; `str()` gives it in one line."""

    path: Path
    format: str
    loaded: int
    """Number of tensors taken from the file."""
    reinitialised: tuple[str, ...]
    """Submodules with fresh random weights: classifiers for another number of classes, or auxiliary
    heads that the file does not have."""
    ignored: tuple[str, ...]
    """Submodules of the file that the network does not have."""

    def __str__(self) -> str:
        text = f"weights from {self.path} ({self.format}): {self.loaded} tensors loaded"
        if self.reinitialised:
            text += f"; freshly initialised: {', '.join(self.reinitialised)}"
        if self.ignored:
            text += f"; ignored: {', '.join(self.ignored)}"
        return text


@dataclass(frozen=True)
class ModelInfo:
    """What a weight file says about its network."""

    preset: str
    num_classes: int
    preprocessing: Preprocessing
    """How its images are made, and what its classes are called."""


def load_weights(model: GoogLeNet, path: str | Path) -> LoadReport:
    """Load a weight file, or what to download, into `model`, all or nothing.

    The format is detected from the content. Classifiers are initialised again if the file has
    another number of classes, and so are auxiliary heads that the file lacks. A model without a
    classifier, `num_classes=0`, takes the rest of the file. `transform_input` of the model is set
    if the file says what its weights expect.

    Raises:
        GoogLeNetError: the file cannot be read, has another preset, or has a missing, unknown or
            misshapen key; the model is unchanged.
    """
    return _load_into(model, read_weights(path))


def load_model(
    path: str | Path, *, preset: str | None = None, num_classes: int | None = None
) -> tuple[GoogLeNet, ModelInfo]:
    """Build the network of a weight file, without auxiliary heads, in eval mode.

    Args:
        path: weights in any supported format, or what to download, as for `read_weights`.
        preset: which network; default: what the file says, or what its tensor names suggest.
        num_classes: the expected number of classes.

    Raises:
        GoogLeNetError: as for `load_weights`, or the file holds another preset or number of
            classes.
    """
    file = read_weights(path)
    description, preprocessing = file.description, file.preprocessing
    if num_classes is not None and file.num_classes != num_classes:
        raise GoogLeNetError(f"weights {path}: for {file.num_classes} classes, not {num_classes}")
    names = preprocessing.class_names
    if names is not None and len(names) != file.num_classes:
        raise GoogLeNetError(
            f"weights {path}: {len(names)} class names for {file.num_classes} classes"
        )
    model = GoogLeNet(
        preset or file.preset,
        file.num_classes,
        aux=False,
        dropout=description.dropout,
        lrn=description.lrn,
    )
    _load_into(model, file)
    if file.format == "PyTorch" and not file.states_preprocessing:
        _log.warning(
            "note: %s does not say how its images are made, and there is no %s; taken are %s",
            path, beside(file.path).name, preprocessing,
        )  # fmt: skip
    return model.eval(), ModelInfo(model.preset.name, file.num_classes, preprocessing)


def read_weights(path: str | Path) -> WeightFile:
    """Read a weight file; detect its format from its content.

    Args:
        path: the file, the folder of a run for its best.pt, or what `local_file` takes, such as
            "torchvision" or a URL.

    Raises:
        GoogLeNetError: no such file, an unknown format, or a damaged or hostile file.
    """
    named, path = path, local_file(path)
    if (best := path / "best.pt").is_file():  # the folder of a run
        path = best
    try:
        return _read(path)
    except GoogLeNetError as error:
        if not is_remote(named):
            raise
        path.unlink(missing_ok=True)  # else it would be taken for good
        raise GoogLeNetError(f"{error}; from {named}, and not kept") from None


def _read(path: Path) -> WeightFile:
    content = _content(path)
    if content.startswith((_ZIP, _TORCH_PICKLE)):
        file = WeightFile(path, "PyTorch", *read_torch(path, content))
    elif _is_safetensors(content):  # before pickles: its length may begin with the same byte
        file = WeightFile(path, "safetensors", *read_safetensors(path, content))
    elif content.startswith(_PICKLE):
        description = Description(preset="paddleclas")
        file = WeightFile(path, "PaddleClas", read_pdparams(path, content), description)
    else:
        description = Description(preset="paper")
        file = WeightFile(path, "Caffe", read_caffemodel(path, content), description)
    file.check_tensors()
    if not file.states_preprocessing and file.format != "safetensors":
        file = with_description_beside(file, content)
    return file


def _content(path: Path) -> bytes:
    """Return the bytes of a regular file that is not too large to hold GoogLeNet's weights."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_WEIGHT_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise GoogLeNetError(f"weights {path}: {error.strerror}{no_such_name(path)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise GoogLeNetError(f"weights {path}: not a file")
    raise GoogLeNetError(
        f"weights {path}: {status.st_size:,} bytes are more than GoogLeNet's weights take,"
        f" {MOST_WEIGHT_BYTES:,} with all that a checkpoint holds"
    )


def _is_safetensors(content: bytes) -> bool:
    """Return True if the file starts with the length of a JSON header, at most 100 MB."""
    return int.from_bytes(content[:8], "little") <= 100_000_000 and content[8:9] == b"{"


def _load_into(model: GoogLeNet, file: WeightFile) -> LoadReport:
    description = file.description
    if file.known_preset not in (None, model.preset.name):
        raise GoogLeNetError(
            f"weights {file.path}: of preset {file.known_preset}, the model's is"
            f" {model.preset.name}; choose preset {file.known_preset} (--model.preset in training,"
            " else --preset)"
        )
    heads = ("aux1", "aux2")
    in_file = [head for head in heads if any(key.startswith(f"{head}.") for key in file.state)]
    fresh = [head for head in heads if model.aux and not in_file]
    ignored = [] if model.aux else in_file
    if model.num_classes == 0:
        ignored.append("fc")
    if file.num_classes != model.num_classes:
        fresh += [name for name in model.classifiers() if name.partition(".")[0] not in fresh]

    expected = _without(model.state_dict(), fresh)
    state = _without(file.state, [*fresh, *ignored])
    for key, value in expected.items():
        if key not in state and key.endswith(".num_batches_tracked"):
            state[key] = torch.zeros_like(value)  # older PyTorch did not count, nor do converters
        if key not in state:
            raise GoogLeNetError(f"weights {file.path}: key {key} is missing")
    for key, value in state.items():
        if key not in expected:
            raise GoogLeNetError(f"weights {file.path}: key {key} is not one of the model's")
        if value.shape != expected[key].shape:
            raise GoogLeNetError(
                f"weights {file.path}: key {key} has shape {tuple(value.shape)},"
                f" the model's is {tuple(expected[key].shape)}"
            )

    model.load_state_dict(state, strict=False)
    model.initialize(*fresh)
    if description.transform_input is not None:
        model.transform_input = description.transform_input
    return LoadReport(file.path, file.format, len(state), tuple(fresh), tuple(ignored))


def _without(state: dict[str, Tensor], modules: list[str]) -> dict[str, Tensor]:
    """Return `state` without the tensors of the submodules called `modules`."""
    prefixes = tuple(f"{module}." for module in modules)
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}
