"""The training configuration: dataclasses, YAML recipes and command-line overrides."""

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import yaml

from googlenet_fast.choices import PARTS, BadImages, Initialization, PresetName
from googlenet_fast.cli import (
    Amp,
    AtLeastOne,
    Autotune,
    Decay,
    Device,
    Fraction,
    Graph,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Resize,
    add_config_flags,
    check_ranges,
    config_flags,
    program,
)
from googlenet_fast.errors import GoogLeNetError, suggestion
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.paddleclas import read_document, translate
from googlenet_fast.parser import Parser


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    preset: PresetName = "torchvision"
    """Whose GoogLeNet: Szegedy et al. and Caffe's, PaddleClas's, or torchvision's (batch norm)."""
    num_classes: PositiveInt | None = None
    """Number of classes; default: those of the dataset."""
    aux: bool = True
    """Train with the two auxiliary classifiers."""
    lrn: bool | None = None
    """Local response normalisation in the stem; default: the preset's."""
    dropout: Fraction | None = None
    """Dropout before the classifier; default: the preset's."""
    init: Initialization | None = None
    """Random initial weights: Caffe's, He's with the variance 2 / fan-in (PaddleClas's), or
    torchvision's with the standard deviation 0.01; default: the preset's."""
    freeze: str | None = None
    """Parts that keep their weights and statistics, separated by commas: stem, 3a, 3b, 4a to 4e,
    5a, 5b, aux, fc; or backbone, which is all but the heads aux and fc."""
    sync_bn: bool = False
    """Batch norm over the batches of all processes; for GPUs and presets with batch norm."""
    weights: str | None = None
    """Weights to start from: .safetensors, .pth, .pdparams, .caffemodel or a googlenet_fast
    checkpoint; or what is downloaded once: caffe, torchvision, paddleclas, a URL,
    hf://owner/name[/file]."""

    def __post_init__(self) -> None:
        check_ranges(self, "model.")
        for part in self.frozen_parts:
            _check_part(f"--model.freeze {self.freeze}", part, (*PARTS, "backbone"))

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """The parts that `freeze` names."""
        return () if self.freeze is None else tuple(map(str.strip, self.freeze.split(",")))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images."""

    path: Path | None = None
    """Dataset folder with train/ and val/ class folders, with train_list.txt and val_list.txt, with
    class folders alone or with WebDataset shards; or a pattern of shards, 'train-{000..127}.tar'.
    Default: the embedded handwritten digits."""
    train_list: Path | None = None
    """List of training images, one "relative/path label" per line, instead of `path`; or a pattern
    of shards."""
    val_list: Path | None = None
    """List of validation images, or a pattern of shards."""
    root: Path | None = None
    """Folder that the paths of the lists are relative to; default: the folder of the list."""
    val_root: Path | None = None
    """The same for `val_list`; default: `root`."""
    delimiter: str = " "
    """Separator of path and label in the lists."""
    relabel: bool = False
    """Renumber the labels of the lists from 0, in sorted order."""
    class_names: Path | None = None
    """File with one class name per line, in label order."""
    loader: Literal["auto", "dali", "pillow", "torchvision", "synthetic"] = "auto"
    """What reads the images; auto is DALI where it is installed, else Pillow. torchvision is the
    old name of pillow."""
    image_size: PositiveInt = 224
    """Side of the network's square input in training, in pixels."""
    eval_size: PositiveInt | None = None
    """The same in evaluation; default: image_size."""
    resize_size: PositiveInt | None = None
    """Short side before the centre crop of evaluation; default: eval_size * 256 / 224."""
    resize: Resize | None = None
    """Bilinear filter of images and crops: with antialiasing, cv2's without, or in Pillow's two
    8-bit passes; default: that of the weights to start from, cv2 for PaddleClas's and Caffe's, else
    antialias."""
    batch_size: PositiveInt = 64
    """Images per step and process."""
    shuffle: bool = True
    """Shuffle the training images in every epoch."""
    drop_last: bool = True
    """Drop the training images that do not fill an epoch's last step. Otherwise that step is
    smaller, and fewer images than there are processes are repeated to share it evenly."""
    num_workers: NonNegativeInt = 2
    """Decoding threads (DALI) or processes (Pillow) of each process."""
    prefetch: PositiveInt = 2
    """Batches made ahead (Pillow: by each of its processes)."""
    hw_decoder_load: Fraction | None = None
    """Share of the JPEGs that a GPU's decoder engine takes; default: depends on the GPU."""
    bad_images: BadImages = "error"
    """What to do about unreadable images: stop at the first one, or read all images once before
    training and drop the unreadable ones, listed in bad_images.txt of the run."""
    max_pixels: PositiveInt = MAX_PIXELS
    """An image with more pixels counts as unreadable."""
    min_area: PositiveFraction = 0.08
    """Smallest share of the image that a random training crop covers."""
    aspect_ratio: AtLeastOne = 4 / 3
    """Largest aspect ratio of a random training crop; its inverse is the smallest."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent with momentum."""

    lr: PositiveFloat = 0.05
    """Learning rate after warm-up, for the global batch (it is not scaled by the batch size)."""
    momentum: Fraction = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: NonNegativeFloat = 1e-4
    """L2 penalty."""
    decay_bias_and_norm: bool = True
    """Apply the L2 penalty to biases and batch-norm parameters too, as PaddleClas does."""
    classifier_lr_scale: PositiveFloat = 1.0
    """Factor of the classifiers' learning rate; more than 1 suits fine-tuning."""
    bias_lr_scale: PositiveFloat = 1.0
    """Factor of the learning rate of the biases of convolutions and classifiers; Caffe's is 2."""
    layer_lr_decay: PositiveFraction = 1.0
    """Factor of the learning rate from each part of the network to the one before it: the heads
    have the full rate, block 5b this share of it, 5a its square, and so on to the stem."""
    lr_scale: dict[str, float] = field(default_factory=dict)
    """Further factors by part, such as {stem: 0.1, 3a: 0.1}; parts are named as in model.freeze."""
    clip_grad_norm: PositiveFloat | None = None
    """Scale the gradients of a step down to this norm, taken over all of them, if it is larger."""

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer.")
        for part, scale in self.lr_scale.items():
            _check_part("--optimizer.lr_scale", part, PARTS)
            if not (math.isfinite(scale) and scale >= 0):
                raise GoogLeNetError(f"--optimizer.lr_scale {part}: {scale}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over time, updated at every step."""

    name: Literal["cosine", "step", "piecewise", "polynomial", "constant"] = "cosine"
    """Shape of the decay after warm-up."""
    warmup_epochs: NonNegativeFloat = 5.0
    """Epochs of linear warm-up."""
    warmup_lr: NonNegativeFloat = 0.0
    """Learning rate at the start of warm-up."""
    by_epoch: bool = False
    """Update the learning rate once per epoch instead."""
    final_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of cosine and polynomial decay."""
    step_epochs: PositiveFloat = 30.0
    """step: epochs between two decays."""
    gamma: PositiveFloat = 0.1
    """step: factor of each decay."""
    boundaries: list[float] = field(default_factory=list)
    """piecewise: epochs after warm-up at which the learning rate changes."""
    values: list[float] = field(default_factory=list)
    """piecewise: learning rates before, between and after the boundaries, instead of lr."""
    power: PositiveFloat = 1.0
    """polynomial: exponent (Caffe's quick solver: 0.5)."""

    def __post_init__(self) -> None:
        check_ranges(self, "schedule.")
        if self.name != "piecewise":
            return
        if len(self.values) != len(self.boundaries) + 1:
            raise GoogLeNetError(
                f"--schedule.values {self.values}: piecewise needs one more than "
                f"--schedule.boundaries {self.boundaries}"
            )
        if self.boundaries != sorted(self.boundaries):
            raise GoogLeNetError(f"--schedule.boundaries {self.boundaries}: must rise")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Raises:
        GoogLeNetError: names the flag of a value out of its range, or of values that exclude each
            other.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: PositiveInt = 90
    """Passes over the training images."""
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread over all classes."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are averaged into one step."""
    ema_decay: Decay | None = None
    """Decay of an exponential moving average of the weights, smaller in the first steps t:
    min(decay, (1 + t) / (10 + t)); evaluation then uses the average."""
    amp: Amp = "auto"
    """Mixed precision; auto is fp16 with loss scaling on a GPU and off on a CPU."""
    loss_scale: PositiveFloat = 128.0
    """Factor of the loss in fp16; the initial one if dynamic_loss_scale."""
    dynamic_loss_scale: bool = True
    """Double the loss scale after 2000 steps without overflow and halve it after an overflow."""
    compile: bool = False
    """Run the network through torch.compile."""
    graph: Graph = "auto"
    """Capture the training step and the network in CUDA graphs after a few steps and replay them;
    auto: on a GPU."""
    autotune: Autotune = "auto"
    """Measure on the GPU, before training, which backend of each op is fastest, then whether whole
    steps are faster in plain PyTorch or through torch.compile, and take what is. The results are
    cached. auto: in runs of 2000 steps or more; compiled candidates from 50,000 steps on."""
    device: Device = "auto"
    """Where to train; auto is a GPU where there is one."""
    seed: NonNegativeInt = 0
    """Seed of initialisation, order, augmentation and dropout."""
    eval_interval: PositiveInt = 1
    """Epochs between evaluations (the last epoch is always evaluated)."""
    save_interval: PositiveInt | None = None
    """Epochs between checkpoints that are kept, epoch_N.pt; default: only the last and the best."""
    log_interval: PositiveInt = 20
    """Steps between log lines."""
    checkpoint_interval: PositiveInt | None = None
    """Steps between checkpoints within an epoch; default: one at the end of each epoch."""
    max_nonfinite_steps: PositiveInt = 20
    """Consecutive steps with a non-finite loss or gradients after which the run stops."""
    timeout: PositiveFloat = 600.0
    """Seconds to wait for another process before the run stops."""
    output: Path | None = None
    """Folder of the run; default: a new one in runs/."""
    resume: str | None = None
    """"auto" continues the run in the output folder, if there is one; or a path of a checkpoint."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.accumulate > 1 and not self.data.drop_last:
            raise GoogLeNetError(
                f"--data.drop_last false: excludes --accumulate {self.accumulate}, whose steps are "
                "all of the same size; leave one out"
            )


def _check_part(flag: str, part: str, parts: Sequence[str]) -> None:
    if part not in parts:
        nearest = suggestion(part, parts) or f"; choose from {', '.join(parts)}"
        raise GoogLeNetError(f"{flag}: {part!r} is no part of the network{nearest}")


_OLD_NAMES = {"exhaustive_search": "autotune", "max_bad_steps": "max_nonfinite_steps"}
"""Names that recipes and runs of older versions have -> the field."""
_SECTION_FIELDS = ("path", "name")
"""Fields whose short flag is the section's name: --data is --data.path."""


_SOURCE = re.compile(r"--(data([._-]path)?|(data\.)?train[_-]list)(=|$)")
"""A flag that names the images to train on."""


def load_config(arguments: Sequence[str]) -> TrainConfig:
    """Return the configuration of a command line.

    `-c RECIPE` names a YAML file or a recipe of the package (configs/RECIPE.yaml), and
    `--section.field VALUE` overrides it. A PaddleClas configuration is translated; `-o KEY=VALUE`
    overrides it as in PaddleClas. Without a recipe and without data the recipe is `digits`.

    Raises:
        GoogLeNetError: an unknown key, a bad value, a recipe that cannot be read.
    """
    config, overrides, arguments = config_flags(arguments)
    if overrides and config is None:
        raise GoogLeNetError(f"-o {overrides[0]}: overrides a PaddleClas configuration; give -c")
    if config is None and not any(_SOURCE.match(argument) for argument in arguments):
        config = Path("digits")
    parser = _parser()
    if config is not None:
        recipe = _read_recipe(parser, _find_recipe(config), overrides)
        parser.set_defaults(dict(recipe.items()))
    values = parser.instantiate(parser.parse_args(arguments))
    fields = dataclasses.fields(TrainConfig)
    return TrainConfig(**{field.name: values[field.name] for field in fields})


def dump_config(config: TrainConfig) -> str:
    """Return the configuration as YAML that `-c` reads back."""
    return yaml.safe_dump(config_values(config), sort_keys=False)


def config_values(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts of plain values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _find_recipe(file: Path) -> Path:
    """Return the YAML file of `-c FILE`: a path, or a recipe of the package."""
    if file.is_file():
        return file
    name, recipes = str(file), _recipes()
    if name not in recipes:
        raise GoogLeNetError(
            f"--config {name}: no such file, and the recipes are {', '.join(recipes)}"
            + suggestion(name, recipes)
        )
    return recipes[name]


def _recipes() -> dict[str, Path]:
    """Return the package's recipes, by name."""
    folder = Path(str(resources.files("googlenet_fast") / "configs"))
    return {recipe.stem: recipe for recipe in sorted(folder.glob("*.yaml"))}


def _read_recipe(parser: Parser, recipe: Path, overrides: Sequence[str]) -> jsonargparse.Namespace:
    """Parse a recipe, which may be a PaddleClas configuration; its mistakes have its name."""
    document = read_document(recipe, overrides)
    if document is not None:
        return parser.parse_object(translate(document).train_values())
    text = recipe.read_text(encoding="utf-8-sig")
    for old, name in _OLD_NAMES.items():
        text = re.sub(rf"^{old}\s*:", f"{name}:", text, flags=re.MULTILINE)
    if re.search(r"^config\s*:", text, re.MULTILINE):
        raise GoogLeNetError(
            f"{recipe}: config: a recipe cannot name another; write all into one file"
        )
    try:
        return parser.parse_string(text)
    except GoogLeNetError as error:
        raise GoogLeNetError(f"{recipe}: {error}") from None


def _described_recipes() -> str:
    """Return a line for each recipe: what the first comment of its file says."""
    comments = {
        name: re.match(r"(?:# (?!  ).*\n)+", file.read_text(encoding="utf-8"))
        for name, file in _recipes().items()
    }
    return "\n".join(
        f"  {name:22}{' '.join(line.strip('# ') for line in found[0].splitlines())}"
        for name, found in comments.items()
        if found is not None
    )


def _parser() -> Parser:
    parser = Parser(
        prog=program("train"),
        usage="%(prog)s [-c RECIPE] [--data PHOTOS] [--FLAG VALUE ...]",
        description="Train GoogLeNet. With no arguments: on embedded handwritten digits.\n\n"
        f"Recipes:\n{_described_recipes()}\n\n"
        "The defaults below are those of this command line: without -c and --data the recipe "
        "digits, else of -c RECIPE, else the package's own. A recipe has the long names, as "
        "sections.",
    )
    add_config_flags(parser, "a YAML file, or a recipe of the package")
    parser.add_class_arguments(TrainConfig, as_group=False)
    sections = {
        field.name
        for field in dataclasses.fields(TrainConfig)
        if field.default_factory is not dataclasses.MISSING
    }
    for section in sections:  # jsonargparse's own, a file for a section: --data means its path
        parser._option_string_actions.pop(f"--{section}").help = argparse.SUPPRESS
    for action in list(parser._actions):
        section, _, name = action.dest.partition(".")
        if name:
            short = section if name in _SECTION_FIELDS else name
            parser.add_alias(f"--{short.replace('_', '-')}", action.option_strings[0])
    parser.add_alias("--workers", "--data.num_workers")
    for old, name in _OLD_NAMES.items():
        parser.add_alias(f"--{old.replace('_', '-')}", f"--{name}", shown=False)
    return parser
