"""Mutated images, lists and checkpoints: an error at most, never a crash or an unpickled object.

5,000 images go through Pillow and DALI; 1,000 lists and checkpoints are read. The environment
variable GOOGLENET_FAST_FUZZ=N makes it N times as many. DALI runs in its own process, so that its
crash is a failed test.
"""

import io
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
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.unreadable import why_unreadable
from googlenet_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from googlenet_fast.errors import UserError

ROUNDS = int(os.environ.get("GOOGLENET_FAST_FUZZ", "1"))
LIMIT = 1_000_000
"""Pixels of the largest image; damaged headers declare larger ones."""
DALI_READS = """
import resource, sys
from pathlib import Path
import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def, types
from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data.dali import decode_window, whole_image
from googlenet_fast.data.reading import DecodeError
from googlenet_fast.model.presets import IMAGENET_RGB

root, through_loader, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def decoding():
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    shape = fn.peek_image_shape(encoded)
    return decode_window(encoded, shape, whole_image(shape), limit, jpeg_fancy_upsampling=True)

def loads(file):
    dataset = ImageDataset(root, [file], np.zeros(1, np.int64), ("x",), root)
    options = LoaderOptions(
        train=False, batch_size=1, image_size=16, normalization=IMAGENET_RGB,
        kind="dali", num_workers=0, max_pixels=limit,
    )
    try:
        return len(list(build_loader(dataset, options))) == 1
    except DecodeError:
        return False

definition = decoding().serialize()
pipeline, good = None, []
files = sorted(path.name for path in root.iterdir())
for file in files:
    if pipeline is None:  # an error ends one
        pipeline = Pipeline.deserialize(definition, exec_pipelined=False, exec_async=False)
    pipeline.feed_input("encoded", [np.fromfile(root / file, np.uint8)])
    try:
        pipeline.run()
        good.append(file)
    except RuntimeError:
        pipeline = None
refused = [file for file in files[:through_loader] if file in good and not loads(file)]
passed = [file for file in files[:through_loader] if file not in good and loads(file)]
print(len(files), len(good), len(refused), len(passed))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
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


def jpegs() -> list[bytes]:
    """Small JPEGs of many kinds."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((40, 30))
    contents = []
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}):
        for mode in ("RGB", "L", "CMYK"):
            output = io.BytesIO()
            image.convert(mode).save(output, "JPEG", **options)
            contents.append(output.getvalue())
    return contents


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutated_jpegs(tmp_path: Path) -> None:
    count = 5000 * ROUNDS
    through_loader = count // 50  # each builds a loader, which is slow
    generator = random.Random(0)
    originals = jpegs()
    bad = 0
    for i in range(count):
        content = mutated(generator.choice(originals), generator)
        path = tmp_path / f"{i:07}.jpg"
        path.write_bytes(content)
        bad += why_unreadable(Location(str(path), str(path)), LIMIT) is not None
    assert 0.1 < bad / count < 0.9
    pytest.importorskip("nvidia.dali")
    done = subprocess.run(
        [sys.executable, "-c", DALI_READS, str(tmp_path), str(through_loader), str(LIMIT)],
        capture_output=True, text=True, timeout=600 * ROUNDS, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    read, good, refused, passed, memory = map(int, done.stdout.split())
    assert read == count
    assert 0.1 < good / read < 0.9
    assert refused < through_loader / 5, "the loader decodes few images with Pillow"
    assert passed == 0
    assert memory < 2**31


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
        except UserError as error:
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
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert isinstance(state, dict)
    assert not trace.exists()
