"""The training configuration: dataclasses, YAML recipes and command-line overrides."""

import argparse
import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
import yaml

from googlenet_fast.cli import Amp, Device
from googlenet_fast.data.reading import MAX_PIXELS
from googlenet_fast.errors import UserError
from googlenet_fast.paddleclas import read_document, translate

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


@dataclass(kw_only=True)
class ModelConfig:
    """The network."""

    preset: Literal["paper", "paddleclas", "torchvision"] = "torchvision"
    """Whose GoogLeNet: Szegedy et al. and Caffe's, PaddleClas's, or torchvision's (batch norm)."""
    num_classes: int | None = None
    """Number of classes; default: those of the dataset."""
    aux: bool = True
    """Train with the two auxiliary classifiers."""
    lrn: bool | None = None
    """Local response normalisation in the stem; default: the preset's."""
    dropout: float | None = None
    """Dropout before the classifier; default: the preset's."""
    sync_bn: bool = False
    """Batch norm over the batches of all processes together; GPUs only, presets with batch norm."""
    weights: Path | None = None
    """Weights to start from: .safetensors, .pth, .pdparams, .caffemodel or a checkpoint of ours."""


@dataclass(kw_only=True)
class DataConfig:
    """The images."""

    path: Path | None = None
    """Dataset folder: train/ and val/ class folders, train_list.txt and val_list.txt, class folders
    alone or WebDataset shards, of which also a pattern, 'train-{000..127}.tar', will do; default:
    the embedded handwritten digits. `--data PATH` for short."""
    train_list: Path | None = None
    """List of training images, "relative/path label" a line, in place of `path`; or a pattern of
    shards."""
    val_list: Path | None = None
    """List of validation images, or a pattern of shards."""
    root: Path | None = None
    """Folder that the paths of the lists start from; default: the folder of the list."""
    val_root: Path | None = None
    """The same for `val_list`, where it differs."""
    delimiter: str = " "
    """What separates path and label in the lists."""
    relabel: bool = False
    """Number the labels of the lists anew from 0, in sorted order."""
    class_names: Path | None = None
    """File with a class name a line, in label order."""
    loader: Literal["auto", "dali", "torchvision", "synthetic"] = "auto"
    """What reads the images; auto takes DALI where it is installed."""
    image_size: int = 224
    """Side of the square the network sees, in pixels."""
    eval_size: int | None = None
    """The same in evaluation; default: image_size."""
    resize_size: int | None = None
    """Short side before the centre crop of evaluation; default: eval_size * 256 / 224."""
    batch_size: int = 64
    """Images a step in each process."""
    shuffle: bool = True
    """Shuffle the training images anew each epoch."""
    drop_last: bool = True
    """Leave out the training images that do not fill an epoch's last step; else that step is a
    smaller one, for which fewer images than there are processes come twice."""
    num_workers: int = 2
    """Decoding threads (DALI) or processes (torchvision) of each process."""
    prefetch: int = 2
    """Batches made ahead (torchvision: by each process)."""
    hw_decoder_load: float | None = None
    """Share of the JPEGs that a GPU's decoder engine takes; default: what suits the card."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read: stop at the first one that is met, or read all
    of them once before training and leave those out, listed in bad_images.txt of the run.
    `--bad-images` for short."""
    max_pixels: int = MAX_PIXELS
    """Of an image that is decoded: a larger one counts as bad."""
    min_area: float = 0.08
    """Least share of the image that a random training crop covers."""
    aspect_ratio: float = 4 / 3
    """Greatest aspect ratio of a random training crop (its inverse is the least)."""
    flip: float = 0.5
    """Probability of a horizontal flip."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent with momentum."""

    lr: float = 0.05
    """Learning rate after warm-up, for the global batch as it is (no rescaling)."""
    momentum: float = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    decay_bias_and_norm: bool = True
    """Apply the L2 penalty to biases and batch-norm parameters too, as PaddleClas does."""
    classifier_lr_scale: float = 1.0
    """Multiplies the learning rate of the classifiers; more than 1 suits fine-tuning."""


@dataclass(kw_only=True)
class ScheduleConfig:
    """The learning rate over time, updated at every step."""

    name: Literal["cosine", "step", "piecewise", "polynomial", "constant"] = "cosine"
    """Shape of the decay after warm-up."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up."""
    warmup_lr: float = 0.0
    """Where warm-up starts."""
    by_epoch: bool = False
    """Keep the learning rate for an epoch each time."""
    final_lr: float = 0.0
    """Where cosine and polynomial decay end."""
    step_epochs: float = 30.0
    """step: epochs between two decays."""
    gamma: float = 0.1
    """step: factor of each decay."""
    boundaries: list[float] = field(default_factory=list)
    """piecewise: epochs after warm-up at which the learning rate changes."""
    values: list[float] = field(default_factory=list)
    """piecewise: learning rates before, between and after the boundaries, in place of lr."""
    power: float = 1.0
    """polynomial: exponent (Caffe's quick solver: 0.5)."""


@dataclass(kw_only=True)
class TrainConfig:
    """A training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: int = 90
    """Passes over the training images."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    accumulate: int = 1
    """Batches whose gradients add up to one step."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated."""
    amp: Amp = "auto"
    """Mixed precision; auto is fp16 with loss scaling on a GPU and off on a CPU."""
    loss_scale: float = 128.0
    """Factor of the loss in fp16, or where it starts."""
    dynamic_loss_scale: bool = True
    """Let the loss scale double after 2000 good steps and halve after an overflow."""
    compile: bool = False
    """Run the network through torch.compile."""
    exhaustive_search: Literal["auto", "on", "off"] = "auto"
    """Measure first, on a GPU, which implementation of each op is fastest there; what was measured
    is kept for later runs. auto: in runs of 2000 steps or more."""
    device: Device = "auto"
    """Where to train; auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of initialisation, order, augmentation and dropout."""
    eval_interval: int = 1
    """Epochs between evaluations (the last epoch is always evaluated)."""
    save_interval: int | None = None
    """Epochs between checkpoints that are kept, epoch_N.pt; default: the last and best alone."""
    log_interval: int = 20
    """Steps between log lines."""
    checkpoint_interval: int | None = None
    """Steps between checkpoints within an epoch; default: only its end has one."""
    max_bad_steps: int = 20
    """Steps in a row with a loss or gradients that are not finite, after which the run stops."""
    timeout: float = 600.0
    """Seconds to wait for another process before the run is given up."""
    output: Path | None = None
    """Folder of the run; default: a new one below runs/."""
    resume: str | None = None
    """"auto" continues the run in the output folder if it has begun; a path, that checkpoint."""


_POSITIVE = (
    "epochs", "accumulate", "eval_interval", "save_interval", "log_interval", "checkpoint_interval",
    "max_bad_steps", "timeout", "loss_scale", "model.num_classes", "data.image_size",
    "data.eval_size", "data.resize_size", "data.batch_size", "data.min_area", "data.aspect_ratio",
    "optimizer.lr",
    "optimizer.classifier_lr_scale", "schedule.step_epochs", "schedule.power", "schedule.gamma",
    "data.prefetch", "data.max_pixels",
)  # fmt: skip
_NOT_NEGATIVE = (
    "data.num_workers", "optimizer.weight_decay", "schedule.warmup_epochs", "schedule.warmup_lr",
    "schedule.final_lr", "seed",
)  # fmt: skip
_FRACTIONS = (
    "label_smoothing", "ema_decay", "optimizer.momentum", "model.dropout", "data.flip",
    "data.min_area", "data.hw_decoder_load",
)  # fmt: skip
_OWN_DATA = r"--data\.(path|train_list)\b"


def load_config(arguments: Sequence[str]) -> TrainConfig:
    """The configuration that a command line asks for.

    `-c RECIPE` names a YAML file or a recipe of the package (configs/RECIPE.yaml), and
    `--section.field VALUE` overrides it; a configuration of PaddleClas's is translated, and takes
    its `-o KEY=VALUE` too. With neither recipe nor data the recipe is `digits`.

    Raises:
        UserError: an unknown key, a bad value, a recipe that cannot be read.
    """
    parser = _parser()
    short = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    short.add_argument("-c", "--config")
    short.add_argument("-o", "--override", action="append", default=[])
    short.add_argument("--data")
    short.add_argument("--bad-images")
    try:
        named, overrides = short.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    overrides = [re.sub(r"^--[^=]*", lambda flag: _underscored(flag[0]), a) for a in overrides]
    if named.data is not None:
        overrides += ["--data.path", named.data]
    if named.bad_images is not None:
        overrides += ["--data.bad_images", named.bad_images]
    if named.config is None and not any(re.match(_OWN_DATA, a) for a in overrides):
        named.config = "digits"
    if named.config is not None:
        recipe = _recipe(named.config)
        document = read_document(recipe, named.override)
        if document is not None:
            values = json.dumps(translate(document).train_values())
            overrides = ["--config", values, *overrides]
        else:
            _check_recipe(parser, str(recipe))
            overrides = ["--config", str(recipe), *overrides]
    config = parser.instantiate(parser.parse_args(overrides))
    fields = {key: getattr(config, key) for key in TrainConfig.__dataclass_fields__}
    return _checked(TrainConfig(**fields))


def _underscored(flag: str) -> str:
    """Let --log-interval mean --log_interval."""
    return "--" + flag.removeprefix("--").replace("-", "_")


def dump_config(config: TrainConfig) -> str:
    """The configuration as YAML that `-c` reads back."""
    return yaml.safe_dump(config_values(config), sort_keys=False)


def config_values(config: TrainConfig) -> dict[str, Any]:
    """The configuration as nested dicts of plain values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _recipe(name: str) -> Path:
    """The YAML file that `-c name` means: a path, or a recipe of the package."""
    if Path(name).is_file():
        return Path(name)
    recipes = sorted(Path(str(resources.files("googlenet_fast") / "configs")).glob("*.yaml"))
    for recipe in recipes:
        if name == recipe.stem:
            return recipe
    stems = [recipe.stem for recipe in recipes]
    raise UserError(
        f"--config {name}: no such file, and the recipes are {', '.join(stems)}."
        + _hint(name, stems)
    )


def _check_recipe(parser: jsonargparse.ArgumentParser, recipe: str) -> None:
    """Parse the recipe alone, so that what is wrong in it is reported with its name."""
    try:
        parser.parse_path(recipe)
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from None


def _checked(config: TrainConfig) -> TrainConfig:
    """Refuse values outside their range."""
    for keys, valid, wanted in (
        (_POSITIVE, lambda value: value > 0, "more than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (_FRACTIONS, lambda value: 0 <= value <= 1, "between 0 and 1"),
    ):
        for key in keys:
            value = functools.reduce(getattr, key.split("."), config)
            if value is not None and not valid(value):
                raise UserError(f"--{key} {value}: must be {wanted}")
    if config.data.aspect_ratio < 1:
        raise UserError(f"--data.aspect_ratio {config.data.aspect_ratio}: must be 1 or more")
    if config.accumulate > 1 and not config.data.drop_last:
        raise UserError(
            f"--data.drop_last false: cannot be with --accumulate {config.accumulate}, whose steps "
            "are all of the same size; leave one out"
        )
    schedule = config.schedule
    if schedule.name == "piecewise":
        if len(schedule.values) != len(schedule.boundaries) + 1:
            raise UserError(
                f"--schedule.values {schedule.values}: piecewise needs one more than "
                f"--schedule.boundaries {schedule.boundaries}"
            )
        if schedule.boundaries != sorted(schedule.boundaries):
            raise UserError(f"--schedule.boundaries {schedule.boundaries}: must rise")
    return config


def _parser() -> "_Parser":
    parser = _Parser(
        prog="python -m googlenet_fast.train",
        description="Train GoogLeNet. With no arguments: on embedded handwritten digits.",
    )
    parser.add_argument(
        "-c", "--config", action="config", help="A YAML file, or a recipe of the package."
    )
    parser.add_class_arguments(TrainConfig, as_group=False)
    return parser


class _Parser(jsonargparse.ArgumentParser):
    """Reports what is wrong as one line, with the nearest valid key or value."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as a `UserError`."""
        line = " ".join(message.split())
        literal = re.search(r"Literal\[(.*)\]\. Got value: (\S+)", line)
        if literal:
            raise UserError(line + _hint(literal[2], re.findall(r"'(\w+)'", literal[1])))
        keys = [action.dest for action in self._actions]
        group = re.search(r"Group '(\S+)' does not accept option '(\S+)'", line)
        if group:
            raise UserError(line + _hint(f"{group[1]}.{group[2]}", keys))
        unknown = re.search(r"unrecognized arguments: -*([^\s=]+)|Option '(\S+)'", line)
        raise UserError(line + (_hint(unknown[1] or unknown[2], keys) if unknown else ""))


def _hint(word: str, choices: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(word, choices, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
