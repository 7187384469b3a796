"""The images that `predict` is asked about."""

import os
from pathlib import Path

import pytest

from googlenet_fast.classifier.sources import find_images
from googlenet_fast.data.tar_members import Location


def test_files_folders_and_what_is_neither(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/1.JFIF", "a/@eaDir/1.jpg", "a/2.heic", "b.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    found, missing = find_images(
        [tmp_path / name for name in ("a", "b.gif", "a/pipe.jpg", "gone.jpg")], tmp_path
    )
    assert found == [Location(str(tmp_path / f), str(tmp_path / f)) for f in ("a/1.JFIF", "b.gif")]
    assert [image.reason for image in missing] == [
        f"{tmp_path}/a/pipe.jpg: is not a regular file",
        f"{tmp_path}/gone.jpg: no such file or folder",
    ]
    assert caplog.messages == [
        f"{tmp_path}/a: 1 files passed over: 1 .heic",
        f"{tmp_path}/a/pipe.jpg: not a regular file; passed over",
    ]
