"""The Triton kernels checked without a GPU: in Triton's interpreter, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from googlenet_fast.diagnosis.checks import CASES, Case, Result, check_implementation
from googlenet_fast.ops import dispatch, triton_support

DTYPES = (torch.float32, torch.float16)
"""Checked; the interpreter's product of bf16 is wrong."""

COMMAND = (sys.executable, "-m", "googlenet_fast.diagnosis.interpreter")


def check_in_interpreter(command: Sequence[str] = COMMAND) -> list[Result]:
    """Run the checks in a child process, as Triton reads its switch once, when it is imported."""
    if not triton_support.INSTALLED:
        return [_all_kernels("triton is not installed", None)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GOOGLENET_FAST_IMPL": "auto"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        return [Result(**result) for result in json.loads(child.stdout)]
    except (ValueError, TypeError):
        last = (child.stderr.strip() or "no output").splitlines()[-1]
        return [_all_kernels(None, f"status {child.returncode}: {last}")]


def _all_kernels(reason: str | None, failure: str | None) -> Result:
    return Result("all kernels", "interpreter", "triton", reason, False, {}, failure)


def main() -> None:
    """Check every op that has Triton kernels and print the results as JSON."""
    results = [
        check_implementation(op, _small(case), "triton", DTYPES, "cpu")
        for op, case in CASES.items()
        if "triton" in dispatch.implementations(op, "cpu")
    ]
    print(json.dumps([{**asdict(result), "device": "interpreter"} for result in results]))


def _small(case: Case) -> Case:
    """The same channels on one image of 7x7: the interpreter is slow."""
    (_, channels, *_), *others = case.shapes
    return replace(case, shapes=((1, channels, 7, 7), *others))


if __name__ == "__main__":
    main()
