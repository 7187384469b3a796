import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from googlenet_fast.data import folders
from googlenet_fast.data.folders import list_class_folders


def settle(root: Path) -> None:
    """Date all folders back, as if nothing had changed for an hour."""
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        earlier = folder.stat().st_mtime - 3600
        os.utime(folder, (earlier, earlier))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "CACHED_FROM", 4)
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "tree"
    for file in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/deep/2.jpg", "b/\udcff.jpg"):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settle(root)
    return root


def cache_files(tree: Path) -> list[Path]:
    return list((tree.parent / "cache").rglob("*.json*"))


@pytest.fixture
def no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Path) -> None:
        raise AssertionError("listed although the cache is valid")

    monkeypatch.setattr(folders, "_scan", fail)


def test_a_second_listing_reads_the_cache(tree: Path, request: pytest.FixtureRequest) -> None:
    first = list_class_folders(tree)
    assert len(cache_files(tree)) == 1
    request.getfixturevalue("no_scan")
    assert list_class_folders(tree) == first
    assert first == {"a": ["1.jpg", "2.jpg"], "b": ["1.jpg", "deep/2.jpg", "\udcff.jpg"]}


@pytest.mark.parametrize("new", ["a/3.jpg", "b/deep/3.jpg", "c/1.jpg", "b/other/1.jpg"])
def test_any_new_file_is_seen(tree: Path, new: str) -> None:
    before = list_class_folders(tree)
    (tree / new).parent.mkdir(exist_ok=True)
    (tree / new).touch()
    after = list_class_folders(tree)
    assert sum(map(len, after.values())) == sum(map(len, before.values())) + 1


def test_a_removed_folder_is_seen(tree: Path) -> None:
    list_class_folders(tree)
    (tree / "b" / "deep" / "2.jpg").unlink()
    (tree / "b" / "deep").rmdir()
    assert list_class_folders(tree)["b"] == ["1.jpg", "\udcff.jpg"]


def test_small_trees_and_trees_just_changed_are_not_cached(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "a" / "3.jpg").touch()
    list_class_folders(tree)
    assert not cache_files(tree)
    settle(tree)
    monkeypatch.setattr(folders, "CACHED_FROM", 100)
    list_class_folders(tree)
    assert not cache_files(tree)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"images": {}, "changed": {}}', '{"images": 1, "changed": {}}', "\0"],
)
def test_a_damaged_cache_is_ignored_with_one_line(
    tree: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = list_class_folders(tree)
    (cache,) = cache_files(tree)
    cache.write_text(content)
    with caplog.at_level(logging.WARNING, "googlenet_fast"):
        assert list_class_folders(tree) == first
    assert len(caplog.records) == 1
    assert json.loads(cache.read_text())["images"] == first


def test_without_a_cache_folder_the_listing_still_works(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tree.parent / "file").touch()
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tree.parent / "file"))
    with caplog.at_level(logging.WARNING, "googlenet_fast"):
        assert len(list_class_folders(tree)) == 2
    assert "not cached" in caplog.text


def test_concurrent_writers_leave_one_whole_cache_file(tree: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        listings = list(pool.map(list_class_folders, [tree] * 32))
    assert all(listing == listings[0] for listing in listings)
    (cache,) = (tree.parent / "cache" / "listings").iterdir()
    assert json.loads(cache.read_text())["images"] == listings[0]
