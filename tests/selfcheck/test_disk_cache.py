import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet_fast import extension
from googlenet_fast.selfcheck import disk_cache
from googlenet_fast.selfcheck.disk_cache import (
    decode,
    encode,
    environment,
    read_record,
    write_record,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(disk_cache, "environment", environment)
    disk_cache._machine.cache_clear()
    yield
    disk_cache._machine.cache_clear()


def path_of(kind: str) -> Path:
    return disk_cache._path(kind, environment("cpu"))


def test_a_record_is_read_back_and_none_is_empty(caplog: pytest.LogCaptureFixture) -> None:
    assert read_record("checked", "cpu") == []
    write_record("checked", "cpu", ["a", {"b": 1}])
    assert read_record("checked", "cpu") == ["a", {"b": 1}]
    assert read_record("other", "cpu") == []
    assert [path_of("checked")] == list(path_of("checked").parent.iterdir())
    assert not caplog.records


def test_the_sources_are_part_of_the_environment() -> None:
    about = environment("cpu")
    assert len(about["kernels"]) == len(about["ops"]) == 64
    assert about["csrc"] == extension.BUILD_INFO.get("csrc", "none")
    assert about["kernels"] != about["ops"]


Change = Callable[[pytest.MonkeyPatch], None]
CHANGES: dict[str, Change] = {
    "torch": lambda m: m.setattr(torch, "__version__", "9.9"),
    "cudnn": lambda m: m.setattr(torch.backends.cudnn, "version", lambda: 99999),
    "triton": lambda m: m.setattr(disk_cache, "_version", lambda package: f"9.9 of {package}"),
    "csrc": lambda m: m.setitem(extension.BUILD_INFO, "csrc", "other"),
    "kernels": lambda m: m.setattr(disk_cache, "sources_digest", lambda folder: "other"),
    "driver": lambda m: m.setattr(disk_cache, "NVIDIA_DRIVER", Path(__file__)),
    "gpu": lambda m: m.setattr(torch.cuda, "get_device_name", lambda device: "another"),
    "benchmark": lambda m: m.setattr(torch.backends.cudnn, "benchmark", True),
    "deterministic": lambda m: m.setattr(torch.backends.cudnn, "deterministic", True),
    "tf32": lambda m: m.setattr(torch.backends.cudnn, "allow_tf32", False),
    "precision": lambda m: m.setattr(torch, "get_float32_matmul_precision", lambda: "medium"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_times_depend_on_is_another_record(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(disk_cache, "NVIDIA_DRIVER", Path("/nowhere"))
    write_record("measured", "cuda:0", ["a"])
    assert read_record("measured", "cuda:0") == ["a"]
    CHANGES[change](monkeypatch)
    if "benchmark deterministic tf32 precision".find(change) < 0:
        disk_cache._machine.cache_clear()  # a change that another process sees
    assert read_record("measured", "cuda:0") == []


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
