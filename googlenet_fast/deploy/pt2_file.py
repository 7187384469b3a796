"""Files of PyTorch itself: exported programs, and programs compiled by AOTInductor."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch._inductor.exc import InvalidCxxCompiler

from googlenet_fast.deploy.agreement import Run
from googlenet_fast.deploy.graph import Graph
from googlenet_fast.errors import GoogLeNetError

DESCRIPTION = "description.json"
"""Name of the description: of an extra file, or in the metadata of a compiled program."""


def pt2_file(graph: Graph, description: Mapping[str, Any]) -> bytes:
    """Return a graph as an exported program, with a description as an extra file, in JSON."""
    content = io.BytesIO()
    extra = {DESCRIPTION: json.dumps(description, ensure_ascii=False)}
    torch.export.save(graph.traced(), content, extra_files=extra)
    return content.getvalue()


def run_pt2(content: bytes) -> Run:
    """Return a function that runs an exported program."""
    module = torch.export.load(io.BytesIO(content)).module()
    return torch.no_grad()(lambda images: module(torch.from_numpy(images)).numpy())


def aot_file(graph: Graph, description: Mapping[str, Any], device: str) -> bytes:
    """Return a graph compiled by AOTInductor for CPUs or GPUs like this machine's.

    The description is in its metadata, in JSON.

    Raises:
        GoogLeNetError: there is no such device or no C++ compiler.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise GoogLeNetError("--device cuda: PyTorch finds no GPU here; choose cpu")
    metadata = {DESCRIPTION: json.dumps(description)}
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.pt2")
        try:
            aoti_compile_and_package(
                graph.to(device).traced(),
                package_path=str(file),
                inductor_configs={"aot_inductor.metadata": metadata},
            )
        except InvalidCxxCompiler:
            raise GoogLeNetError(
                "--aot: needs a C++ compiler; install g++, or leave --aot out"
            ) from None
        return file.read_bytes()


def run_aot(content: bytes, device: str) -> Run:
    """Return a function that runs a compiled program."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.pt2")
        file.write_bytes(content)
        program = aoti_load_package(str(file))

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        # In tf32, which GPUs take for convolutions, differences would be those of rounding.
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
            return program(torch.from_numpy(images).to(device)).cpu().numpy()

    return run
