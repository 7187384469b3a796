"""Damaged files of ours are refused, or the damage is in a place without a meaning."""

import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from googlenet_fast.engine.run_folder import RunFolder
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights.load import read_weights
from googlenet_fast.model.weights.pytorch import write_safetensors, write_torch

VARIANTS = 200


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    weights = {f"inception3a.branch{i}.conv.weight": torch.randn(8, 6, 3, 3) for i in range(1, 5)}
    return {**weights, "fc.weight": torch.randn(3, 1024), "steps": torch.tensor(7)}


def variants(content: bytes, seed: int) -> Iterator[bytes]:
    """Bit flips, zeroed blocks and truncations; half of them at the ends, where directories are."""
    chance = random.Random(seed)
    for i in range(VARIANTS):
        at_ends = chance.choice([range(min(2000, len(content))), range(len(content))[-2000:]])
        place = chance.choice(at_ends if i % 2 else range(len(content)))
        damaged = bytearray(content)
        match i % 4:
            case 0 | 1:
                damaged[place] ^= 1 << chance.randrange(8)
            case 2:
                length = chance.choice([1, 16, 512, 4096])
                damaged[place : place + length] = bytes(len(damaged[place : place + length]))
            case _:
                del damaged[place:]
        if damaged != content:
            yield bytes(damaged)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def read_file(path: Path) -> Any:
    file = read_weights(path)
    return {"state": file.state, "description": file.description}


FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "last.pt": (
        lambda path: save_checkpoint(
            path, {"model": state(), "step": 12, "meta": {"class_names": ["ä", "b"]}}
        ),
        load_checkpoint,
    ),
    "x.safetensors": (
        lambda path: (
            path.write_bytes(
                write_safetensors(state(), {"preset": "torchvision", "class_names": ["a", "b"]})
            )
            and None
        ),
        read_file,
    ),
    "x.pth": (lambda path: path.write_bytes(write_torch(state())), read_file),
}


@pytest.mark.parametrize("name", FILES)
def test_no_damage_goes_unnoticed(name: str, tmp_path: Path) -> None:
    write, read = FILES[name]
    path = tmp_path / name
    write(path)
    content, expected = path.read_bytes(), read(path)
    loaded = 0
    for damaged in variants(content, seed=1):
        path.write_bytes(damaged)
        found = result(read, path)
        if isinstance(found, GoogLeNetError):
            assert name in str(found)
            assert "\n" not in str(found)
        else:
            loaded += 1
            assert same(found, expected)
    assert loaded < VARIANTS / 4


def result(read: Callable[[Path], Any], path: Path) -> Any:
    """What a file holds, or the error about it."""
    try:
        return read(path)
    except GoogLeNetError as error:
        return error


def test_one_flipped_bit_of_a_weight(tmp_path: Path) -> None:
    """In the middle of the numbers, where torch.load and safetensors see nothing wrong."""
    for name, (write, read) in FILES.items():
        path = tmp_path / name
        write(path)
        content = bytearray(path.read_bytes())
        content[content.index(state()["fc.weight"].numpy().tobytes()) + 1000] ^= 1
        path.write_bytes(content)
        with pytest.raises(GoogLeNetError, match=f"{name}: (is damaged|cannot be read)"):
            read(path)


def test_a_run_goes_on_from_the_checkpoint_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path, resuming=False)
    for step in (1, 2):
        folder.save_checkpoint({"step": step, "weight": torch.full((1000,), 3.0)}, best=False)
    content = bytearray(folder.last.read_bytes())
    content[content.index(torch.full((1000,), 3.0).numpy().tobytes()) + 2000] ^= 4
    folder.last.write_bytes(content)
    found = folder.load_newest()
    folder.close()
    assert found is not None
    assert (found[0], found[1]["step"]) == (folder.previous, 1)
    assert "last.pt: cannot be read (BadZipFile); it is damaged" in caplog.text


def test_archives_that_would_take_long_or_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(GoogLeNetError, match=r"bomb\.pt: cannot be read \(BadZipFile\)"):
        load_checkpoint(path)
