"""Waits for files end with a signal, and name the file."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from googlenet_fast.data import waiting

WAIT_FOR_A_PIPE = """
    import importlib.util, logging, os, signal
    spec = importlib.util.spec_from_file_location("waiting", {module!r})  # without torch
    waiting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(waiting)
    logging.basicConfig(format="%(message)s")
    waiting.GRACE, waiting.SLOW, waiting.PATIENCE = 1.0, {slow}, 0.5
    if {handled}:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)
    with waiting.ending_on_signals(), waiting.waiting_for(lambda: [{regular!r}, {pipe!r}]):
        print("waits", flush=True)
        while True:
            try:
                os.open({pipe!r}, os.O_RDONLY)
            except InterruptedError:
                pass
"""


def start(code: str, **values: object) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code).format(module=waiting.__file__, **values)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait_that_handlers_do_not_end(
    number: signal.Signals, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "regular.jpg").touch()
    process = start(
        WAIT_FOR_A_PIPE, handled=True, slow=60,
        pipe=str(tmp_path / "pipe.jpg"), regular=str(tmp_path / "regular.jpg"),
    )  # fmt: skip
    sent = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert time.monotonic() - sent < 10
    assert stderr == (
        f"error: {tmp_path}/pipe.jpg: could not be read for 1 s after {number.name}; "
        "ended at once\n"
    )


def test_a_long_wait_is_told_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "regular.jpg").touch()
    process = start(
        WAIT_FOR_A_PIPE, handled=False, slow=0.1,
        pipe=str(tmp_path / "pipe.jpg"), regular=str(tmp_path / "regular.jpg"),
    )  # fmt: skip
    time.sleep(2.5)
    process.terminate()
    _, stderr = process.communicate(timeout=20)
    assert stderr == f"still waiting for {tmp_path}/pipe.jpg after 0 s\n"


LOAD = """
    import numpy as np, os, signal, sys
    from pathlib import Path
    from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader, waiting
    from googlenet_fast.engine.stop_signal import StopSignal
    from googlenet_fast.model.presets import IMAGENET_RGB
    waiting.GRACE = 1.0
    dataset = ImageDataset.from_folder({root!r})
    victim = Path(dataset.path(5))
    victim.unlink()
    os.mkfifo(victim)
    options = LoaderOptions(
        train=True, kind={kind!r}, batch_size=4, image_size=32, normalization=IMAGENET_RGB,
        num_workers=1, shuffle=False,
    )
    with StopSignal(1), waiting.ending_on_signals():
        print("waits", flush=True)
        for images, _ in build_loader(dataset, options):
            pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_a_pipe_under_a_loader_never_hangs_for_good(kind: str, tmp_path: Path) -> None:
    """DALI waits for it in its own thread; a request to stop ends that, too. Pillow refuses it."""
    pytest.importorskip("nvidia.dali" if kind == "dali" else "PIL")
    generator = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    process = start(LOAD, root=str(tmp_path), kind=kind)
    time.sleep(5)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0
    assert f"{tmp_path}/b/3.jpg" in stderr or f"{tmp_path}/a/6.jpg" in stderr, stderr
