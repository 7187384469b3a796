"""Checkpoints are whole or absent, and never unpickle arbitrary objects."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from googlenet_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from googlenet_fast.errors import GoogLeNetError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run ä" / "last.pt"
    path.parent.mkdir()
    weights = torch.randn(3, 4)
    save_checkpoint(path, {"step": 3, "model": {"w": weights}, "names": ["a", "ä"]})
    state = load_checkpoint(path)
    assert state["step"] == 3
    assert state["names"] == ["a", "ä"]
    assert torch.equal(state["model"]["w"], weights)
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_keys_of_older_versions_are_renamed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", {"epoch": 2, "position": 640, "bad_steps": 1})
    state = load_checkpoint(tmp_path / "last.pt")
    del state["format"]
    assert state == {"epoch": 2, "images_seen": 640, "nonfinite_steps": 1}


def test_failing_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(GoogLeNetError, match=r"last\.pt: Input/output error; the previous one"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    monkeypatch.setattr("secrets.randbits", lambda bits: 7)  # the number of the temporary file
    (tmp_path / ".last.pt.7").symlink_to("/dev/full")
    with pytest.raises(
        GoogLeNetError, match=r"last\.pt: No space left on device; the previous one"
    ):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(GoogLeNetError, match=r"last\.pt: no such file"):
        load_checkpoint(path)
    save_checkpoint(path, {"step": 1, "model": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(GoogLeNetError, match=r"last\.pt: cannot be read"):
        load_checkpoint(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(GoogLeNetError, match="not a googlenet_fast checkpoint"):
        load_checkpoint(path)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_checkpoint_runs_nothing(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "last.pt", tmp_path / "ran"
    if zipped:
        torch.save({"format": Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"format": Hostile(marker)}, protocol=2))
    with pytest.raises(GoogLeNetError, match="cannot be read"):
        load_checkpoint(path)
    assert not marker.exists()
