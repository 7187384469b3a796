"""Write files that run a trained network without this package."""

from pathlib import Path

from googlenet_fast.deploy.agreement import Run, largest_difference
from googlenet_fast.deploy.samples import Samples
from googlenet_fast.deploy.trained import Trained
from googlenet_fast.errors import printable
from googlenet_fast.files import write_atomically

CHECKED = 64
"""Images that a file is checked on, if there are so many."""


def write_graph(
    trained: Trained, output: Path, samples: Samples, aot_device: str | None = None
) -> str:
    """Write a network to an .onnx or .pt2 file, if it computes there what it computes here.

    Args:
        trained: the network.
        output: the file.
        samples: images to check it on.
        aot_device: compile a .pt2 file for this device.

    Returns:
        What was checked, in words.

    Raises:
        GoogLeNetError: the outputs differ, or writing fails; nothing is written.
    """
    content, run = _made(trained, output.suffix, aot_device)
    checked = _checked(run, trained, samples.some(CHECKED))
    write_atomically(output, content)
    return checked


def write_int8(trained: Trained, output: Path, calibration: Samples, test: Samples) -> str:
    """Write a network to an .onnx file in 8 bits.

    Args:
        trained: the network.
        output: the file.
        calibration: images that show which values activations have.
        test: images on which it is compared with fp32.

    Returns:
        What was checked, in words.

    Raises:
        GoogLeNetError: 8 bits change the probabilities too much, or writing fails; nothing is
            written.
    """
    from googlenet_fast.deploy import int8
    from googlenet_fast.deploy.onnx_file import run_onnx

    fp32, run = _made(trained, ".onnx", None)
    checked = _checked(run, trained, test.some(CHECKED))
    calibration = calibration.some(int8.CALIBRATION_IMAGES)
    content = int8.int8_file(fp32, trained, calibration)
    result = int8.quality(run, run_onnx(content), trained, test)
    write_atomically(output, content)
    return (
        f"in fp32 {checked}\nin int8, calibrated on {printable(calibration)}\n"
        f"{printable(test)}: {result}"
    )


def _made(trained: Trained, suffix: str, aot_device: str | None) -> tuple[bytes, Run]:
    """Return a file's content and what runs it; only what the format needs is imported."""
    if suffix == ".onnx":
        from googlenet_fast.deploy.onnx_file import onnx_file, run_onnx

        content = onnx_file(trained.graph, trained.description())
        return content, run_onnx(content)
    from googlenet_fast.deploy import pt2_file

    if aot_device is None:
        content = pt2_file.pt2_file(trained.graph, trained.description())
        return content, pt2_file.run_pt2(content)
    content = pt2_file.aot_file(trained.graph, trained.description(), aot_device)
    return content, pt2_file.run_aot(content, aot_device)


def _checked(run: Run, trained: Trained, samples: Samples) -> str:
    difference = largest_difference(run, trained, samples)
    return (
        f"checked on {printable(samples)}: {trained.graph.output} differ from the network's by at "
        f"most {difference:.1g}"
    )
