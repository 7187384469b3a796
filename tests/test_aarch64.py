"""The CPU kernels compile for 64-bit ARM."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.setup_script import setup

COMPILER = "aarch64-linux-gnu-g++"
SOURCES = sorted((Path(__file__).parents[1] / "csrc" / "cpu").glob("*.cpp"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that check a source, with torch's headers precompiled."""
    build = setup()
    command = [COMPILER, "-std=c++20", *build.WARNINGS, "-Werror", *build.STABLE_ABI]
    command += [*build.VECTORIZE, "-DGOOGLENET_FAST_ISA=baseline"]
    command += [f"-isystem{folder}" for folder in build.describe_torch().include]
    header = tmp_path_factory.mktemp("compiled") / "torch.h"
    header.write_text("#include <torch/csrc/stable/ops.h>\n")
    run([*command, "-x", "c++-header", str(header), f"-o{header}.gch"])
    return [*command, "-fsyntax-only", "-include", str(header)]


def run(command: list[str]) -> None:
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


@pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"no {COMPILER} (Debian's g++-aarch64-linux-gnu)"
)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_compiles_for_arm(source: Path, command: list[str]) -> None:
    run([*command, str(source)])
