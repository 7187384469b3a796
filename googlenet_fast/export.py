"""Convert weights, or write files to deploy: `python -m googlenet_fast.export WEIGHTS OUTPUT`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from googlenet_fast import cli
from googlenet_fast.errors import (
    GoogLeNetError,
    log_to_stderr,
    long_imports,
    printable,
    run_command,
)
from googlenet_fast.extras import require
from googlenet_fast.parser import Parser
from googlenet_fast.pretrained import is_remote

if TYPE_CHECKING:
    from jsonargparse._core import ActionsContainer

    from googlenet_fast.engine.config import TrainConfig

AotDevice = Literal["cpu", "cuda"]
WEIGHTS = (".safetensors", ".pth", ".pdparams", ".caffemodel")
"""Suffixes of files of weights."""
GRAPHS = (".onnx", ".pt2")
"""Suffixes of files that run without this package."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writes and checks .onnx files: the extra `onnx`."""


class Options(argparse.Namespace):
    """Flags of this command."""

    weights: str | Path
    output: Path
    preset: str | None
    with_preprocessing: bool
    images: list[Path]
    aot: bool
    device: AotDevice | None
    int8: bool
    data: Path | None
    list: Path | None
    root: Path | None
    delimiter: str
    relabel: bool
    run: "TrainConfig | None" = None
    """The run whose folder was named as the weights."""


def main() -> None:
    """Run the command."""
    log_to_stderr(logging.WARNING)
    options = parse(sys.argv[1:])
    if options.output.suffix in GRAPHS:
        _write_graph(options)
    else:
        _convert(options)


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; raise `GoogLeNetError` for a mistake."""
    parser = Parser(
        prog=cli.program("export"),
        description="Convert the weights of a network, without its auxiliary heads. The suffix of "
        "OUTPUT is the format. Weights: .safetensors .pth (torchvision's keys), "
        ".pdparams (PaddleClas) or .caffemodel (Caffe). How images are resized and normalised and "
        "the class names are kept: in .safetensors, else in OUTPUT.json beside the file. Files "
        "that run without this package: .onnx, or .pt2 (torch.export). They are written if they "
        "compute what the network computes.",
    )
    cli.add_weights(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    cli.add_preset(parser)
    graph = parser.add_argument_group(".onnx and .pt2")
    graph.add_argument(
        "--with-preprocessing",
        type=bool,
        default=False,
        help="take 8-bit RGB images (N, S, S, 3), already resized and cropped, and return "
        "probabilities; else: take normalised images (N, 3, S, S) and return logits",
    )
    graph.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="images, and folders of them, to check the file on; with --int8 also to calibrate "
        "on; default: random images",
    )
    graph.add_argument(
        "--aot",
        type=bool,
        default=False,
        help=".pt2: compile by AOTInductor, which takes minutes; else: any device can run the file",
    )
    graph.add_argument("--device", type=AotDevice, help="what --aot compiles for; default: cpu")
    graph.add_argument(
        "--int8",
        type=bool,
        default=False,
        help=".onnx: quantise weights and activations to 8 bits. Activations are calibrated on "
        "training images, accuracy is measured on validation images: of --data or --list, or of "
        "the run whose folder WEIGHTS is",
    )
    _add_data(parser.add_argument_group("images for --int8"))
    options = parser.parse_args(arguments, namespace=Options())
    _check(options)
    return options


def _add_data(group: "ActionsContainer") -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="class folders, or a dataset folder (train and val, as folders, lists or shards)",
    )
    source.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help='a list, one "relative/path label" per line, of which a tenth is for validation',
    )
    cli.add_list_flags(group)
    cli.add_relabel(group)


def _check(options: Options) -> None:
    """Check what can be checked before torch is imported, and before minutes of work."""
    suffix, labelled = options.output.suffix, (options.data, options.list) != (None, None)
    for flag, given, suffixes in (
        ("--with-preprocessing", options.with_preprocessing, GRAPHS),
        ("--images", options.images, GRAPHS),
        ("--aot", options.aot, (".pt2",)),
        ("--int8", options.int8, (".onnx",)),
    ):
        if given and suffix not in suffixes:
            raise GoogLeNetError(
                f"{flag}: is for {' and '.join(suffixes)}, not for {options.output}"
            )
    if suffix not in (*WEIGHTS, *GRAPHS):
        formats = ", ".join((*WEIGHTS, *GRAPHS))
        raise GoogLeNetError(f"{options.output}: choose a name that ends in one of {formats}")
    if options.device is not None and not options.aot:
        raise GoogLeNetError("--device: is for --aot")
    if labelled and not options.int8:
        raise GoogLeNetError(
            "--data and --list: are for --int8; to check a file on images: --images"
        )
    if labelled and options.images:
        raise GoogLeNetError("--images: choose them, or labelled ones with --data or --list")
    if options.int8 and not (labelled or options.images or Path(options.weights).is_dir()):
        raise GoogLeNetError("--int8: needs images to calibrate on: --data, --list or --images")
    if suffix == ".onnx":
        require(str(options.output), *ONNX_PACKAGES)
    if not options.output.parent.is_dir():
        raise GoogLeNetError(f"{options.output}: there is no folder {options.output.parent}")


def _file(weights: str | Path) -> str | Path:
    """Return the best checkpoint of a run for its folder, else the weights as they are named."""
    from googlenet_fast.engine.run_folder import best_of

    return weights if is_remote(weights) else best_of(Path(weights))


def _convert(options: Options) -> None:
    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.model.weights import load_model, save_weights

    model, info = load_model(_file(options.weights), preset=options.preset)
    save_weights(model, options.output, preprocessing=info.preprocessing)
    print(
        f"{printable(options.output)}: preset {info.preset}, {info.num_classes} classes, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, images at {info.preprocessing}"
    )


def _write_graph(options: Options) -> None:
    with long_imports():
        from googlenet_fast.deploy.samples import files, labelled, random_samples
        from googlenet_fast.deploy.trained import Trained
        from googlenet_fast.deploy.write import write_graph, write_int8
        from googlenet_fast.engine.export_images import choose_splits
        from googlenet_fast.engine.run_evaluation import read_run_config

    folder, options.weights = Path(options.weights), _file(options.weights)
    trained = Trained.load(options.weights, options.preset, options.with_preprocessing)
    output = options.output
    if options.images:
        calibration = test = files(options.images)
    elif options.int8:
        options.run = read_run_config(folder) if folder.is_dir() else None
        train, val = choose_splits(options, trained.model.num_classes, trained.class_names)
        for note in dict.fromkeys([*train.notes, *val.notes]):
            logging.getLogger("googlenet_fast").warning("note: %s", note)
        calibration, test = labelled(train.dataset, train.which), labelled(val.dataset, val.which)
    else:
        test = random_samples(trained.preprocessing.image_size)
    if options.int8:
        checked = write_int8(trained, output, calibration, test)
    else:
        device = (options.device or "cpu") if options.aot else None
        checked = write_graph(trained, output, test, device)
    described = trained.description()
    print(
        f"{printable(output)}: preset {described['preset']}, {trained.model.num_classes} classes, "
        f"{described['input']} -> {described['output']}\n{checked}"
    )


if __name__ == "__main__":
    run_command(main)
