import json
import warnings
from pathlib import Path

import pytest
import torch

from googlenet_fast.ops import records
from googlenet_fast.ops.records import environment, read_record, write_record


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "new"))
    environment.cache_clear()


def path_of(kind: str) -> Path:
    return records._path(kind, environment("cpu"))


@pytest.mark.filterwarnings("error")
def test_a_record_is_read_back_and_none_is_empty() -> None:
    assert read_record("checked", "cpu") == []
    write_record("checked", "cpu", ["a", {"b": 1}])
    assert read_record("checked", "cpu") == ["a", {"b": 1}]
    assert read_record("other", "cpu") == []
    assert [path_of("checked")] == list(path_of("checked").parent.iterdir())


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
def test_damaged_and_foreign_records_are_ignored_with_a_line(content: bytes, reason: str) -> None:
    write_record("checked", "cpu", ["a"])
    path_of("checked").write_bytes(content)
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert read_record("checked", "cpu") == []
    assert str(path_of("checked")) in str(caught[0].message)
    assert "\n" not in str(caught[0].message)


def test_a_folder_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        write_record("checked", "cpu", ["a"])
    with warnings.catch_warnings(record=True):
        assert read_record("checked", "cpu") == []
