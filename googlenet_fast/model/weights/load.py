"""Load weights of any supported format into a network, or build the network they belong to."""

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
"""How files of `torch.save` began before they were zip archives: the pickled magic number."""


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; `str()` gives it in one line."""

    path: Path
    format: str
    loaded: int
    """Number of tensors taken from the file."""
    reinitialised: tuple[str, ...]
    """Submodules that got fresh random weights: classifiers for another number of classes, or
    auxiliary heads the file does not have."""
    ignored: tuple[str, ...]
    """Submodules that the file has and the network has not."""

    def __str__(self) -> str:
        text = f"weights from {self.path} ({self.format}): {self.loaded} tensors loaded"
        if self.reinitialised:
            text += f"; freshly initialised: {', '.join(self.reinitialised)}"
        if self.ignored:
            text += f"; ignored: {', '.join(self.ignored)}"
        return text


@dataclass(frozen=True)
class ModelInfo:
    """What a file of weights says about its network."""

    preset: str
    num_classes: int
    class_names: tuple[str, ...] | None
    image_size: int | None
    """Side in pixels of the images it was trained for."""
    resize_size: int | None
    """Short side in pixels before the centre crop, where it is not in the usual proportion."""


def load_weights(model: GoogLeNet, path: str | Path) -> LoadReport:
    """Load a file of weights into `model`, all or nothing.

    The format is told from the content. With another number of classes than the file's the
    classifiers start afresh, as do auxiliary heads that the file lacks. Where the file says whether
    its weights expect `transform_input`, the model follows.

    Raises:
        UserError: the file cannot be read, is of another preset, or has a missing, unknown or
            misshapen key; the model is then as it was.
    """
    return _load_into(model, read_weights(path))


def load_model(
    path: str | Path, *, preset: str | None = None, num_classes: int | None = None
) -> tuple[GoogLeNet, ModelInfo]:
    """Build the network that a file of weights belongs to, without auxiliary heads, in eval mode.

    Args:
        path: weights in any supported format.
        preset: which network, in case the file does not say and the names of its tensors mislead.
        num_classes: the number of classes expected.

    Raises:
        UserError: as `load_weights`, or `preset` or `num_classes` is not what the file holds.
    """
    file = read_weights(path)
    said = file.description
    if num_classes is not None and file.num_classes != num_classes:
        raise UserError(f"weights {path}: for {file.num_classes} classes, not {num_classes}")
    if said.class_names is not None and len(said.class_names) != file.num_classes:
        raise UserError(
            f"weights {path}: {len(said.class_names)} class names for {file.num_classes} classes"
        )
    model = GoogLeNet(
        preset or file.preset, file.num_classes, aux=False, dropout=said.dropout, lrn=said.lrn
    )
    _load_into(model, file)
    info = ModelInfo(
        model.preset.name, file.num_classes, said.class_names, said.image_size, said.resize_size
    )
    return model.eval(), info


def read_weights(path: str | Path) -> WeightFile:
    """Read a file of weights, telling its format from its content.

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
    elif content.startswith(_PICKLE):
        description = Description(preset="paddleclas")
        file = WeightFile(path, "PaddleClas", read_pdparams(path, content), description)
    elif _is_safetensors(content):
        file = WeightFile(path, "safetensors", *read_safetensors(path))
    else:
        description = Description(preset="paper")
        file = WeightFile(path, "Caffe", read_caffemodel(path, content), description)
    file.check_tensors()
    return file


def _is_safetensors(content: bytes) -> bool:
    """Whether the file begins with the length of a JSON header, which may be 100 MB at most."""
    return int.from_bytes(content[:8], "little") <= 100_000_000 and content[8:9] == b"{"


def _load_into(model: GoogLeNet, file: WeightFile) -> LoadReport:
    said = file.description
    if said.preset not in (None, model.preset.name):
        raise UserError(
            f"weights {file.path}: of preset {said.preset}, the model's is {model.preset.name};"
            f" choose preset {said.preset}"
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
    if said.transform_input is not None:
        model.transform_input = said.transform_input
    return LoadReport(file.path, file.format, len(state), tuple(fresh), tuple(ignored))


def _without(state: dict[str, Tensor], modules: list[str]) -> dict[str, Tensor]:
    """Return `state` without the tensors of the submodules called `modules`."""
    prefixes = tuple(f"{module}." for module in modules)
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}
