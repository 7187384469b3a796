import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from googlenet_fast.data import folders
from googlenet_fast.data.folders import list_class_folders, list_images
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import read_checked_json


def settle(root: Path) -> None:
    """Date all folders back, as if nothing had changed for an hour."""
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        earlier = folder.stat().st_mtime - 3600
        os.utime(folder, (earlier, earlier))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


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

    monkeypatch.setattr(folders, "scan_class_folders", fail)


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


def test_a_tree_remade_with_the_same_times_is_seen(tree: Path) -> None:
    list_class_folders(tree)
    before = (tree / "a").stat()
    (tree / "a" / "1.jpg").rename(tree / "a" / "3.jpg")
    os.utime(tree / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list_class_folders(tree)["a"] == ["2.jpg", "3.jpg"]


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
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"{}",
        lambda whole: whole[:-20],
        lambda whole: whole.replace(b"1.jpg", b"7.jpg"),
        lambda whole: whole.replace(b'"a"', b'"A"'),
    ],
)
def test_a_damaged_cache_is_ignored_with_one_line(
    tree: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = list_class_folders(tree)
    (cache,) = cache_files(tree)
    cache.write_bytes(damage(cache.read_bytes()))
    with caplog.at_level(logging.WARNING, "googlenet_fast"):
        assert list_class_folders(tree) == first
    assert len(caplog.records) == 1
    assert read_checked_json(cache)["images"] == first


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
    assert read_checked_json(cache)["images"] == listings[0]


class TestPassedOver:
    def test_files_of_other_kinds_are_counted_by_suffix(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a/1.jpg", "a/2.JFIF", "a/3.heic", "b/4.HEIC", "b/5.gif", "b/LICENSE"):
            touch(tmp_path / name)
        assert list_class_folders(tmp_path) == {"a": ["1.jpg", "2.JFIF"], "b": []}
        (line,) = caplog.messages
        assert line == f"{tmp_path}: 4 files passed over: 2 .heic, 1 .gif, 1 without suffix"

    def test_the_count_is_told_again_with_a_cached_listing(
        self, tree: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
    ) -> None:
        (tree / "a" / "3.avif").touch()
        settle(tree)
        list_class_folders(tree)
        request.getfixturevalue("no_scan")
        list_class_folders(tree)
        assert caplog.messages == [f"{tree}: 1 files passed over: 1 .avif"] * 2

    def test_thumbnails_of_tools_are_no_images(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("1.jpg", "._1.jpg", "@eaDir/1.jpg/THUMB.jpg", ".thumbnails/1.png"):
            touch(tmp_path / "a" / name)
        for name in ("a/Thumbs.db", "a/desktop.ini", "__MACOSX/a/._1.jpg", "@eaDir/a.jpg"):
            touch(tmp_path / name)
        assert list_class_folders(tmp_path) == {"a": ["1.jpg"]}
        assert list_images(tmp_path) == ([tmp_path / "a" / "1.jpg"], [])
        assert not caplog.messages

    def test_images_beside_the_class_folders(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a/1.jpg", "stray.jpg", "README.md"):
            touch(tmp_path / name)
        list_class_folders(tmp_path)
        assert caplog.messages == [f"{tmp_path}: 1 images beside the class folders; passed over"]

    def test_a_pipe_is_named_and_a_folder_named_like_an_image_is_a_folder(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(tmp_path / "a" / "x.jpg" / "1.jpg")
        os.mkfifo(tmp_path / "a" / "pipe.jpg")
        (tmp_path / "a" / "linked.jpg").symlink_to(tmp_path / "a" / "pipe.jpg")
        (tmp_path / "a" / "zero.jpg").symlink_to("/dev/zero")
        assert list_class_folders(tmp_path) == {"a": ["x.jpg/1.jpg"]}
        assert sorted(caplog.messages) == [
            f"{tmp_path}/a/{name}.jpg: not a regular file; passed over"
            for name in ("linked", "pipe", "zero")
        ]

    def test_unreadable_folders_are_returned(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path / "a" / "1.jpg")
        touch(tmp_path / "b" / "1.jpg")
        real = os.scandir

        def scandir(path: Path) -> object:  # the tests may run as root, who may read everything
            if Path(path).name == "b":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        line = f"{tmp_path}/b: cannot be listed (Permission denied)"
        assert list_images(tmp_path) == ([tmp_path / "a" / "1.jpg"], [line])
        with pytest.raises(GoogLeNetError) as error:
            list_class_folders(tmp_path)
        assert str(error.value) == line


class TestLinks:
    def test_linked_folders_are_listed(self, tmp_path: Path) -> None:
        touch(tmp_path / "elsewhere" / "more" / "2.jpg")
        touch(tmp_path / "root" / "a" / "1.jpg")
        (tmp_path / "root" / "a" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
        assert list_class_folders(tmp_path / "root") == {
            "a": ["1.jpg", "more/more/2.jpg"],
            "b": ["more/2.jpg"],
        }

    def test_links_that_lead_back_cost_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folders, "NAMED", 4)
        root = tmp_path / "root"
        touch(root / "a" / "1.jpg")
        touch(root / "a" / "deep" / "2.jpg")
        (root / "a" / "up").symlink_to(root)
        (root / "a" / "again").symlink_to(root / "a" / "deep")
        (root / "loop").symlink_to("loop")
        (root / "parent").symlink_to("..")
        (root / "self").symlink_to(".")
        assert list_class_folders(root) == {"a": ["1.jpg", "deep/2.jpg"]}
        assert caplog.messages[:4] == [
            f"{root}/loop: Too many levels of symbolic links; passed over",
            f"{root}/a/again: a link to a folder that is listed already; passed over",
            f"{root}/a/up: a link to a folder that is listed already; passed over",
            f"{root}/parent: a link to a folder above it is no class; passed over",
        ]
        assert caplog.messages[4] == f"{root}: 1 more links or special files passed over"

    def test_two_folders_linked_to_each_other_end(self, tmp_path: Path) -> None:
        for name in "ab":
            touch(tmp_path / name / "1.jpg")
        (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
        (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
        assert list_class_folders(tmp_path) == {
            "a": ["1.jpg", "b/1.jpg"],
            "b": ["1.jpg", "a/1.jpg"],
        }
