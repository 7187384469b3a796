"""Convert weights to another format: `python -m googlenet_fast.export WEIGHTS OUTPUT`."""

import sys
from pathlib import Path

from googlenet_fast.cli import Parser, add_preset, add_weights, program
from googlenet_fast.errors import long_imports, printable, run_command


def main() -> None:
    """Run the command."""
    parser = Parser(
        prog=program("export"),
        description="Convert the weights of a network, without its auxiliary heads. The suffix of "
        "OUTPUT is the format: .safetensors .pth (torchvision's keys), "
        ".pdparams (PaddleClas) or .caffemodel (Caffe). How images are resized and normalised and "
        "the class names are kept: in .safetensors, else in OUTPUT.json beside the file.",
    )
    add_weights(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    add_preset(parser)
    options = parser.parse_args(sys.argv[1:])

    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.engine.run_folder import best_of
        from googlenet_fast.model.weights import load_model, save_weights
        from googlenet_fast.pretrained import is_remote

    weights = options.weights
    if not is_remote(weights):
        weights = best_of(Path(weights))
    model, info = load_model(weights, preset=options.preset)
    save_weights(model, options.output, preprocessing=info.preprocessing)
    print(
        f"{printable(options.output)}: preset {info.preset}, {info.num_classes} classes, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, images at {info.preprocessing}"
    )


if __name__ == "__main__":
    run_command(main)
