"""Mutated images, lists and checkpoints: an error at most, never a crash or an unpickled object.

150 images go through both loaders; 1,000 lists and checkpoints are read. The environment variable
GOOGLENET_FAST_FUZZ=N makes it N times as many. DALI runs in its own process, so that its crash is
a failed test.
"""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet_fast.data import ImageDataset
from googlenet_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from googlenet_fast.errors import GoogLeNetError
from tests.data.odd_images import encoded, png16

ROUNDS = int(os.environ.get("GOOGLENET_FAST_FUZZ", "1"))
LIMIT = 1_000_000
"""Pixels of the largest image; damaged headers declare larger ones."""
BOTH_READ = """
import json, resource, sys
from pathlib import Path
import numpy as np
from googlenet_fast.data import ImageDataset, LoaderOptions
from googlenet_fast.data.headers import look
from googlenet_fast.data.loader import readable_batches
from googlenet_fast.data.reading import DecodeError
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.unreadable import why_unreadable
from googlenet_fast.model.presets import Normalization

root, limit = Path(sys.argv[1]), int(sys.argv[2])
GREY_LEVELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")

def pixels(files, kind):
    dataset = ImageDataset(root, files, np.zeros(len(files), np.int64), ("x",), root)
    options = LoaderOptions(
        train=False, batch_size=16, image_size=16, normalization=GREY_LEVELS, kind=kind,
        num_workers=0, max_pixels=limit,
    )
    found = {}
    for indices, images in readable_batches(dataset, options):
        for i, index in enumerate(indices.tolist()):
            known = isinstance(images, DecodeError)
            found[files[index]] = None if known else images[i].numpy()
    return found

files = sorted(path.name for path in root.iterdir())
good = [f for f in files if why_unreadable(Location(f, str(root / f)), limit) is None]
contents = {f: np.fromfile(root / f, np.uint8) for f in files if f not in set(good)}
# Pillow decides on the others, so DALI's loader refuses them as well.
doubtful = [f for f, content in contents.items() if look(content).kind is None]
dali, other = pixels(good + doubtful, "dali"), pixels(good, "pillow")
lost = [f for f in good if dali[f] is None]
differing = [
    f for f in good
    if dali[f] is not None and np.abs(dali[f] - other[f]).mean() > 1
]
passed = [f for f in doubtful if dali[f] is not None]
print(json.dumps({
    "files": len(files), "good": len(good), "doubtful": len(doubtful), "lost": lost,
    "differing": differing, "passed": passed,
    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A few bytes or bits changed, cut off, left out or repeated."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4))):
        if not data:
            break
        at = generator.randrange(len(data))
        end = at + generator.randrange(1, 40)
        match generator.randrange(6):
            case 0:
                data[at] ^= 1 << generator.randrange(8)
            case 1:
                data[at] = generator.choice((0, 127, 128, 255))
            case 2:
                del data[at:]
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end]
            case _:
                data[at : at + 2] = generator.choice(
                    (b"\xff\xff", b"\0\0", b"\xff\xd8", b"\xff\xda")
                )
    return bytes(data)


def images() -> list[bytes]:
    """Small images of all kinds, as many JPEGs as others."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((40, 30))
    jpegs = [
        encoded(image.convert(mode), **options)
        for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1})
        for mode in ("RGB", "L", "CMYK")
    ]
    others = [encoded(image.convert(mode), "PNG") for mode in ("RGB", "L", "P", "RGBA")]
    others += [encoded(image, kind) for kind in ("BMP", "PPM", "TIFF")]
    others += [encoded(image, "WEBP", lossless=lossless) for lossless in (True, False)]
    others += [encoded(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg")]
    return [*jpegs, *others, png16(np.asarray(image.convert("L"), np.uint16) * 257)]


@pytest.mark.slow
def test_mutated_images(tmp_path: Path) -> None:
    """Both loaders read the same files, and the same pixels of each; nothing is printed."""
    pytest.importorskip("nvidia.dali")
    pytest.importorskip("torchvision")
    count = 150 * ROUNDS
    generator = random.Random(0)
    originals = images()
    for i in range(count):
        content = mutated(generator.choice(originals), generator)
        (tmp_path / f"{i:07}.jpg").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", BOTH_READ, str(tmp_path), str(LIMIT)],
        capture_output=True, text=True, timeout=600 * ROUNDS, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    strays = [line for line in done.stderr.splitlines() if not line.startswith(str(tmp_path))]
    assert strays == [], "each line names a file"
    found = json.loads(done.stdout)
    assert found["files"] == count
    assert 0.1 < found["good"] / count < 0.9
    assert found["lost"] == []
    assert len(found["differing"]) <= count / 500
    assert len(found["passed"]) <= count / 100, "DALI reads what Pillow refuses"
    assert found["memory"] < 2**31


def test_mutated_lists(tmp_path: Path) -> None:
    generator = random.Random(1)
    for name in ("a b.jpg", "ü.jpg", "c.jpg"):
        (tmp_path / name).touch()
    original = "\ufeffa b.jpg 0\r\nü.jpg 1\r\n\r\nc.jpg 2\r\n".encode()
    path = tmp_path / "list.txt"
    for _ in range(500 * ROUNDS):
        path.write_bytes(mutated(original, generator))
        try:
            dataset = ImageDataset.from_list(path)
        except GoogLeNetError as error:
            assert str(path) in str(error)  # noqa: PT017
            continue
        assert {Path(dataset.path(i)).parent for i in range(len(dataset))} <= {tmp_path}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_mutated_checkpoints(tmp_path: Path) -> None:
    generator = random.Random(2)
    path, trace = tmp_path / "last.pt", tmp_path / "trace"
    save_checkpoint(path, {"model": {"weight": torch.arange(6.0)}, "step": 3})
    call = b"cposix\nsystem\n(S'touch " + os.fsencode(trace) + b"'\ntR."
    originals = [path.read_bytes(), pickle.dumps({"step": 3}), call]
    for _ in range(500 * ROUNDS):
        path.write_bytes(mutated(generator.choice(originals), generator))
        try:
            state = load_checkpoint(path)
        except GoogLeNetError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert isinstance(state, dict)
    assert not trace.exists()
