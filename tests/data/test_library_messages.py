"""Lines of image libraries are caught; those of others pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from googlenet_fast.data.library_messages import IMAGE_LIBRARY
from tests.data.odd_images import damaged_inside, encoded, misread_images, picture

PROGRAM = """
import ctypes, os, sys
from googlenet_fast.data.library_messages import all_caught, caught
libc = ctypes.CDLL(None)
stderr = ctypes.c_void_p.in_dll(libc, "stderr")
def c_prints(text):
    libc.fputs(text, ctypes.c_void_p(stderr.value))
with caught() as outer:
    c_prints(b"Corrupt JPEG data: premature end of data segment\\n")
    with caught() as inner:
        c_prints(b"Corrupt JPEG data: bad Huffman code\\n" * 2)
        print("Python", file=sys.stderr)
    c_prints(b"OMP: Warning: threads\\n")
    with all_caught() as all_lines:
        os.write(2, b"\\x1b[0;31m[ERROR] \\x1b[0m[jpeg_parser] Invalid marker\\n")
    print(inner.take(), all_lines.take())
    print(outer.take(), outer.take())
c_prints(b"after\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the program uses glibc's names")
def test_lines_are_caught_once_by_each_user_and_others_pass() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    bad_code, early, marker = "bad Huffman code", "premature end of data segment", "Invalid marker"
    assert done.stdout.splitlines() == [
        f"{[bad_code, marker]} {[marker]}",
        f"{[early, bad_code, marker]} []",
    ]
    assert sorted(done.stderr.splitlines()) == ["OMP: Warning: threads", "Python", "after"]


@pytest.mark.parametrize(
    "line",
    [
        "[ERROR] [png_parser] Unexpected length", "[ERROR:0@0.003] global loadsave.cpp:1374",
        "[ WARN:0@0.065] global grfmt_tiff.cpp:122", "libpng error: IEND: out of place",
        "TIFFFillStrip: Read error on strip 0", "_tiffReadProc: Invalid Read at loc 3309",
        "Fax4Decode: Bad code word at line 27", "Huffman table 0x01 was not defined",
        "Didn't expect more than one scan", "Unsupported JPEG process: SOF type 0xc9",
    ],
)  # fmt: skip
def test_lines_of_image_libraries(line: str) -> None:
    assert IMAGE_LIBRARY.match(line)


@pytest.mark.parametrize(
    "line",
    [
        "[W1130 12:00:00.1 socket.cpp:200] retrying", "terminate called after throwing",
        "  what():  CUDA error: no kernel image is available", "NCCL WARN timeout",
    ],
)  # fmt: skip
def test_lines_of_others(line: str) -> None:
    assert not IMAGE_LIBRARY.match(line)


LOADS = """
import sys
from pathlib import Path
import numpy as np
from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.model.presets import IMAGENET_RGB
root = Path(sys.argv[1])
files = sorted(path.name for path in root.iterdir())
dataset = ImageDataset(root, files, np.zeros(len(files), np.int64), ("x",), root)
options = LoaderOptions(
    train=True, batch_size=len(files), image_size=16, normalization=IMAGENET_RGB,
    kind=sys.argv[2], num_workers=1,
)
loader = build_loader(dataset, options)
for epoch in range(2):
    loader.set_epoch(epoch)
    assert sum(len(labels) for _, labels in loader) == len(files)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_a_damaged_image_is_named_once_and_no_other_line_is_printed(
    kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("nvidia.dali" if kind == "dali" else "PIL")
    for i, content in enumerate([*misread_images().values(), *[encoded(picture())] * 3]):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    (tmp_path / "victim.jpg").write_bytes(damaged_inside()["half and an end"])
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(tmp_path), kind],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = f"{tmp_path}/victim.jpg: looks damaged: premature end of data segment"
    assert done.stderr.splitlines() == ([line] if kind == "dali" else [])
