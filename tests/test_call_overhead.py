"""How much Python of this package a call enters: frames, which no noise disturbs, not times."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import googlenet_fast
from googlenet_fast import extension
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.presets import PRESETS

ROOT = str(Path(googlenet_fast.__file__).parent)

needs_extension = pytest.mark.skipif(
    extension.missing_part("cpu") is not None, reason="the extension has no CPU part"
)


def frames(function: Callable[[], object]) -> int:
    """Count the frames of this package that a call enters, generators and comprehensions too."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(ROOT)

    function()  # fills memos
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@needs_extension
@pytest.mark.parametrize(
    ("preset", "training", "limit"),
    [
        ("paper", False, 20),
        ("torchvision", False, 20),
        ("paper", True, 20),
        ("torchvision", True, 50),
    ],
)
def test_frames_of_a_block(preset: str, training: bool, limit: int) -> None:
    block = Inception(PRESETS[preset], 24, Widths(8, 6, 10, 4, 5, 7)).train(training)
    x = torch.randn(2, 24, 9, 9, requires_grad=training)
    with torch.set_grad_enabled(training):
        assert 0 < frames(lambda: block(x)) <= limit


def test_importing_the_ops_imports_no_dynamo() -> None:
    """It takes longer than all the rest, torch included."""
    program = (
        "import sys, googlenet_fast.ops, googlenet_fast.model\n"
        "print([m for m in ('torch._dynamo', 'torch._inductor') if m in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout.strip() == "[]", child.stdout + child.stderr
