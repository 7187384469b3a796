"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from googlenet_fast import files
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import write_atomically


def test_a_device_stays_one(tmp_path: Path) -> None:
    """A file renamed to its name would take its place, as root even that of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(GoogLeNetError, match="pipe: it is not a regular file"):
        write_atomically(pipe, b"content")
    assert pipe.is_fifo()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")

    def interrupted(_: int) -> None:
        raise error

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises((KeyboardInterrupt, GoogLeNetError)):
        write_atomically(file, b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"before"
