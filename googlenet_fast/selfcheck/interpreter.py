"""The Triton kernels checked without a GPU: in Triton's interpreter, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec

import torch

from googlenet_fast.registry import OPS, Call
from googlenet_fast.selfcheck.accuracy import Result, check_backend
from googlenet_fast.selfcheck.cases import activations, resized

DTYPES = (torch.float32, torch.float16)
"""Checked; the interpreter's product of bf16 is wrong."""

SIDE = 7
"""Largest height and width of the one image of each check: the interpreter is slow."""

COMMAND = (
    *(sys.executable, "-c"),
    "import googlenet_fast.ops; from googlenet_fast.selfcheck.interpreter import main; main()",
)


def check_in_interpreter(command: Sequence[str] = COMMAND) -> list[Result]:
    """Run the checks in a child process: Triton reads its switch once, when it is imported."""
    if find_spec("triton") is None:
        return [_all_kernels(reason="triton is not installed")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GOOGLENET_FAST_IMPL": "auto"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        return [Result(**result) for result in json.loads(child.stdout)]
    except (ValueError, TypeError):
        last = (child.stderr.strip() or "no output").splitlines()[-1]
        return [_all_kernels(failure=f"status {child.returncode}: {last}")]


def _all_kernels(reason: str | None = None, failure: str | None = None) -> Result:
    return Result("all kernels", "interpreter", "triton", reason, failure=failure)


def main() -> None:
    """Check every op that has Triton kernels and print the results as JSON."""
    results = [
        check_backend(op, backend, "cpu", map(_small, op.samples()), DTYPES)
        for op in OPS.values()
        for backend in op.on("cpu")
        if backend.name == "triton"
    ]
    print(json.dumps([asdict(replace(result, device="interpreter")) for result in results]))


def _small(call: Call) -> Call:
    _, _, height, width = activations(call)[0]
    return resized(call, 1, (min(height, SIDE), min(width, SIDE)))
