import json
from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet_fast.selfcheck import disk_cache
from googlenet_fast.selfcheck.disk_cache import (
    decode,
    encode,
    environment,
    read_record,
    write_record,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(disk_cache, "environment", environment)
    environment.cache_clear()


def path_of(kind: str) -> Path:
    return disk_cache._path(kind, environment("cpu"))


def test_a_record_is_read_back_and_none_is_empty(caplog: pytest.LogCaptureFixture) -> None:
    assert read_record("checked", "cpu") == []
    write_record("checked", "cpu", ["a", {"b": 1}])
    assert read_record("checked", "cpu") == ["a", {"b": 1}]
    assert read_record("other", "cpu") == []
    assert [path_of("checked")] == list(path_of("checked").parent.iterdir())
    assert not caplog.records


def test_other_versions_and_kernels_have_another_record(monkeypatch: pytest.MonkeyPatch) -> None:
    before = path_of("checked")
    assert len(environment("cpu")["kernels"]) == 64
    environment.cache_clear()
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert path_of("checked") != before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1, 2", "it cannot be read"),
        (b"\xff\xfe\x00", "it cannot be read"),
        (b"[]", "it is not a record"),
        (b'{"entries": 3}', "it is not a record"),
        (b'{"entries": [], "environment": {"gpu": "another"}}', "from another GPU"),
        (json.dumps({"entries": ["a"]}).encode(), "from another GPU"),
    ],
)
def test_damaged_and_foreign_records_are_ignored_with_a_line(
    content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_record("checked", "cpu", ["a"])
    path_of("checked").write_bytes(content)
    assert read_record("checked", "cpu") == []
    (line,) = caplog.messages
    assert reason in line
    assert str(path_of("checked")) in line
    assert "\n" not in line
    write_record("checked", "cpu", ["b"])
    assert read_record("checked", "cpu") == ["b"]


def test_a_folder_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "file" / "below"))
    write_record("checked", "cpu", ["a"])
    (line,) = caplog.messages
    assert f"{path_of('checked')}: not cached" in line
    assert read_record("checked", "cpu") == []


def test_calls_are_read_back() -> None:
    half = torch.float16
    call = (True, ((3, 224, 224), half), None, (((4,), half),), (), 1e-3, False, 2)
    assert decode(json.loads(json.dumps(encode(call)))) == call
    size = (True, (torch.Size([3, 2]), half))
    assert decode(json.loads(json.dumps(encode(size)))) == size


@pytest.mark.parametrize("value", [{"a": 1}, ["torch.load"], ["os"], [["torch.nn"]]])
def test_what_no_call_has_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no dtype|in a call"):
        decode(value)
