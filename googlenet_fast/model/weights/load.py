"""Load weights of any supported format into a network, or build their network."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from googlenet_fast.errors import UserError
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.weights.caffe import read_caffemodel
from googlenet_fast.model.weights.paddle import read_pdparams
from googlenet_fast.model.weights.pytorch import read_safetensors, read_torch
from googlenet_fast.model.weights.weight_file import Description, WeightFile

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
    class_names: tuple[str, ...] | None
    image_size: int | None
    """Side of the images that it was trained for, in pixels."""
    resize_size: int | None
    """Short side before the centre crop in pixels, if not image_size * 256 / 224."""


def load_weights(model: GoogLeNet, path: str | Path) -> LoadReport:
    """Load a weight file into `model`, all or nothing.

    The format is detected from the content. Classifiers are initialised again if the file has
    another number of classes, and so are auxiliary heads that the file lacks. `transform_input` of
    the model is set if the file says what its weights expect.

    Raises:
        UserError: the file cannot be read, has another preset, or has a missing, unknown or
            misshapen key; the model is unchanged.
    """
    return _load_into(model, read_weights(path))


def load_model(
    path: str | Path, *, preset: str | None = None, num_classes: int | None = None
) -> tuple[GoogLeNet, ModelInfo]:
    """Build the network of a weight file, without auxiliary heads, in eval mode.

    Args:
        path: weights in any supported format.
        preset: which network; default: what the file says, or what its tensor names suggest.
        num_classes: the expected number of classes.

    Raises:
        UserError: as for `load_weights`, or the file holds another preset or number of classes.
    """
    file = read_weights(path)
    description = file.description
    if num_classes is not None and file.num_classes != num_classes:
        raise UserError(f"weights {path}: for {file.num_classes} classes, not {num_classes}")
    names = description.class_names
    if names is not None and len(names) != file.num_classes:
        raise UserError(f"weights {path}: {len(names)} class names for {file.num_classes} classes")
    model = GoogLeNet(
        preset or file.preset,
        file.num_classes,
        aux=False,
        dropout=description.dropout,
        lrn=description.lrn,
    )
    _load_into(model, file)
    info = ModelInfo(
        model.preset.name,
        file.num_classes,
        names,
        description.image_size,
        description.resize_size,
    )
    return model.eval(), info


def read_weights(path: str | Path) -> WeightFile:
    """Read a weight file; detect its format from its content.

    Raises:
        UserError: no such file, an unknown format, or a damaged or hostile file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"weights {path}: {error.strerror}") from None
    if content.startswith((_ZIP, _TORCH_PICKLE)):
        file = WeightFile(path, "PyTorch", *read_torch(path, content))
    elif _is_safetensors(content):  # before pickles, whose first byte a length may have
        file = WeightFile(path, "safetensors", *read_safetensors(path))
    elif content.startswith(_PICKLE):
        description = Description(preset="paddleclas")
        file = WeightFile(path, "PaddleClas", read_pdparams(path, content), description)
    else:
        description = Description(preset="paper")
        file = WeightFile(path, "Caffe", read_caffemodel(path, content), description)
    file.check_tensors()
    return file


def _is_safetensors(content: bytes) -> bool:
    """Return True if the file starts with the length of a JSON header, at most 100 MB."""
    return int.from_bytes(content[:8], "little") <= 100_000_000 and content[8:9] == b"{"


def _load_into(model: GoogLeNet, file: WeightFile) -> LoadReport:
    description = file.description
    if description.preset not in (None, model.preset.name):
        raise UserError(
            f"weights {file.path}: of preset {description.preset}, the model's is"
            f" {model.preset.name}; choose preset {description.preset}"
        )
    heads = ("aux1", "aux2")
    in_file = [head for head in heads if any(key.startswith(f"{head}.") for key in file.state)]
    fresh = [head for head in heads if model.aux and not in_file]
    ignored = [] if model.aux else in_file
    if file.num_classes != model.num_classes:
        fresh += [name for name in model.classifiers() if name.partition(".")[0] not in fresh]

    expected = _without(model.state_dict(), fresh)
    state = _without(file.state, [*fresh, *ignored])
    for key in expected:
        if key not in state:
            raise UserError(f"weights {file.path}: key {key} is missing")
    for key, value in state.items():
        if key not in expected:
            raise UserError(f"weights {file.path}: key {key} is not one of the model's")
        if value.shape != expected[key].shape:
            raise UserError(
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
