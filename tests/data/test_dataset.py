import os
from pathlib import Path

import numpy as np
import pytest

from googlenet_fast.data import ImageDataset, open_splits, read_class_names
from googlenet_fast.errors import GoogLeNetError


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def write_list(root: Path, content: str, *, create: bool = True) -> Path:
    """A list file; `create` makes the files that its lines name."""
    path = root / "list.txt"
    path.write_bytes(content.encode())
    if create:
        for line in content.lstrip("\ufeff").splitlines():
            touch(root, line.rpartition(" ")[0] or "empty line")
    return path


class TestLists:
    def test_paths_and_labels(self, tmp_path: Path) -> None:
        path = write_list(tmp_path, "cats/one.jpg 0\n./dogs/two.JPEG 1\nthree.png 1\n")
        dataset = ImageDataset.from_list(path)
        assert dataset.files == ["cats/one.jpg", "dogs/two.JPEG", "three.png"]
        assert dataset.labels.tolist() == [0, 1, 1]
        assert dataset.labels.dtype == np.int64
        assert Path(dataset.path(0)).is_file()
        assert dataset.source == path

    def test_names_with_spaces_windows_line_ends_byte_order_mark_blank_lines(
        self, tmp_path: Path
    ) -> None:
        path = write_list(tmp_path, "\ufeffa b/one two.jpg 3\r\n\r\nc/ü.jpg 4\r\n")
        dataset = ImageDataset.from_list(path)
        assert dataset.files == ["a b/one two.jpg", "c/ü.jpg"]
        assert dataset.labels.tolist() == [3, 4]

    def test_absolute_paths_below_the_root(self, tmp_path: Path) -> None:
        touch(tmp_path, "é x/a.jpg", "é x/b.jpg", "y/c.jpg")
        path = tmp_path / "list.txt"
        path.write_text(f"{tmp_path}/é x/a.jpg 0\n{tmp_path}//é x/./b.jpg 0\ny/c.jpg 7\n")
        dataset = ImageDataset.from_list(path)
        assert dataset.files == ["é x/a.jpg", "é x/b.jpg", "y/c.jpg"]
        assert dataset.class_names[::7] == ("é x", "y")
        with pytest.raises(GoogLeNetError, match=r"line 3: y/c.jpg has label 7"):
            dataset.check_labels(2)
        path.write_text(f"{tmp_path}/y/c.jpg 0\n")
        assert ImageDataset.from_list(path, "/").path(0) == f"/{tmp_path}/y/c.jpg"

    def test_other_delimiter_and_root(self, tmp_path: Path) -> None:
        touch(tmp_path / "images", "a b.jpg")
        path = write_list(tmp_path, "a b.jpg\t2\n", create=False)
        dataset = ImageDataset.from_list(path, tmp_path / "images", delimiter="\t")
        assert dataset.files == ["a b.jpg"]

    def test_relabel_numbers_sorted_labels_from_zero(self, tmp_path: Path) -> None:
        path = write_list(tmp_path, "x/a 30\nx/b 7\nx/c 30\nx/d 1000000000000\n")
        dataset = ImageDataset.from_list(path, relabel=True)
        assert dataset.labels.tolist() == [1, 0, 1, 2]
        assert dataset.class_names == ("7", "30", "1000000000000")

    def test_classes_are_named_by_their_folders(self, tmp_path: Path) -> None:
        path = write_list(tmp_path, "train/tench/a 0\ntrain/shark/b 2\ntrain/tench/c 0\n")
        assert ImageDataset.from_list(path).class_names == ("tench", "1", "shark")

    @pytest.mark.parametrize("other", ["x/b 1", "y/b 0\nx/c 1", "a/x/b 1", "b 1"])
    def test_classes_are_numbered_where_folders_are_ambiguous(
        self, tmp_path: Path, other: str
    ) -> None:
        path = write_list(tmp_path, f"x/a 0\n{other}\n")
        names = ImageDataset.from_list(path).class_names
        assert names == (("x", "1") if other == "b 1" else ("0", "1"))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("a.jpg", "expected"),
            ("a.jpg ", "expected"),
            ("a.jpg one", "expected"),
            ("a.jpg -1", "expected"),
            ("a.jpg 1.0", "expected"),
            ("a.jpg ²", "expected"),
            ("a.jpg 99999999999999999999", "expected"),
            ("/etc/passwd 0", "below the root"),
            ("/a.jpg 0", "below the root"),
            ("a\0b/c.jpg 0", "there is no"),
            ("fine.jpg 1", "fine.jpg has label 1, but label 0 in line 1"),
            ("../a.jpg 0", "below the root"),
            ("x/../../a.jpg 0", "below the root"),
            ("x/../a.jpg 0", "without '..'"),
            ("gone.jpg 0", "gone.jpg; remove"),
            ("x 0", "x: is not a regular file"),
            ("./fine.jpg 1", "fine.jpg has label 1, but label 0 in line 1"),
            ("no folder/gone.jpg 0", "gone.jpg; remove"),
            ("a.jpg,1", "set the delimiter to ','"),
            ("a.jpg;1", "set the delimiter to ';'"),
            ("C:\\x\\a.jpg 0", "a path of another computer; write it relative to"),
            ("\\\\server\\a.jpg 0", "a path of another computer"),
            ("pipe.jpg 0", "pipe.jpg: is not a regular file"),
            ("loop.jpg 0", "there is no file"),
        ],
    )
    def test_errors_name_file_and_line(self, tmp_path: Path, line: str, message: str) -> None:
        touch(tmp_path, "fine.jpg", "a.jpg", "x/fine.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "loop.jpg").symlink_to("loop.jpg")
        path = write_list(tmp_path, f"fine.jpg 0\n\n{line}\n", create=False)
        with pytest.raises(GoogLeNetError, match=message) as error:
            ImageDataset.from_list(path)
        assert f"{path}, line 3: " in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "line",
        ["a b/c.jpg\t1", "a b/c.jpg  1", "a b/c.jpg \t 1 ", "a b\\c.jpg 1", ".\\a b\\c.jpg 1"],
    )
    def test_tabs_blanks_and_backslashes(self, tmp_path: Path, line: str) -> None:
        touch(tmp_path, "x.jpg", "a b/c.jpg")
        dataset = ImageDataset.from_list(write_list(tmp_path, f"x.jpg 0\n{line}\n", create=False))
        assert dataset.files == ["x.jpg", "a b/c.jpg"]
        assert dataset.labels.tolist() == [0, 1]

    def test_a_backslash_may_be_part_of_a_name(self, tmp_path: Path) -> None:
        assert ImageDataset.from_list(write_list(tmp_path, "a\\b.jpg 0\n")).files == ["a\\b.jpg"]

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
    def test_encodings_with_a_byte_order_mark(self, tmp_path: Path, encoding: str) -> None:
        touch(tmp_path, "ü/é.jpg", "b.jpg")
        mark = "\ufeff" if encoding == "utf-16-le" else ""
        path = tmp_path / "list.txt"
        path.write_bytes(f"{mark}ü/é.jpg 0\r\nb.jpg 1\r\n".encode(encoding))
        assert ImageDataset.from_list(path).files == ["ü/é.jpg", "b.jpg"]

    def test_old_line_ends(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "b.jpg")
        path = write_list(tmp_path, "a.jpg 0\rb.jpg 1\r", create=False)
        assert ImageDataset.from_list(path).files == ["a.jpg", "b.jpg"]

    def test_other_encodings_are_read_or_named(self, tmp_path: Path) -> None:
        path = tmp_path / "list.txt"
        path.write_bytes("a.jpg 0\né.jpg 1\n".encode("latin-1"))
        touch(tmp_path, "a.jpg", "\udce9.jpg")
        assert ImageDataset.from_list(path).files == ["a.jpg", "\udce9.jpg"]
        (tmp_path / "\udce9.jpg").rename(tmp_path / "é.jpg")
        with pytest.raises(GoogLeNetError, match=r"list.txt, line 2: .*the list is not in UTF-8"):
            ImageDataset.from_list(path)
        path.write_bytes("a.jpg 0\n".encode("utf-16-le"))
        with pytest.raises(GoogLeNetError, match=r"list.txt: is not a text file in UTF-8"):
            ImageDataset.from_list(path)

    @pytest.mark.parametrize(
        ("labels", "said"),
        [("123", "no image has label 0: 1 of the 4"), ("0259", "label 1, 3, 4, ..")],
    )
    def test_empty_classes_get_a_hint_at_relabel(
        self, tmp_path: Path, labels: str, said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_list(tmp_path, "".join(f"{i}.jpg {i}\n{i}b.jpg {i}\n" for i in labels))
        open_splits(train_list=path)
        assert said in caplog.text
        assert "--data.relabel true (evaluate: --relabel)" in caplog.text
        caplog.clear()
        assert open_splits(train_list=path, relabel=True).train.num_classes == len(labels)
        assert not caplog.messages

    def test_missing_files_are_counted(self, tmp_path: Path) -> None:
        touch(tmp_path, "x/a.jpg")
        path = write_list(tmp_path, "x/a.jpg 0\nz/b.jpg 1\ny/c.jpg 1\nx/d.jpg 1\n", create=False)
        with pytest.raises(
            GoogLeNetError, match=r"line 2: .*z/b.jpg \(nor those of 2 other lines\)"
        ):
            ImageDataset.from_list(path)

    def test_other_errors(self, tmp_path: Path) -> None:
        with pytest.raises(GoogLeNetError, match=r"none.txt: cannot be read"):
            ImageDataset.from_list(tmp_path / "none.txt")
        with pytest.raises(GoogLeNetError, match="holds no image"):
            ImageDataset.from_list(write_list(tmp_path, "\n"))
        with pytest.raises(GoogLeNetError, match="nowhere: the image root"):
            ImageDataset.from_list(write_list(tmp_path, "a 0\n"), tmp_path / "nowhere")
        (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(GoogLeNetError, match="not a text file"):
            ImageDataset.from_list(tmp_path / "binary.txt")

    def test_label_out_of_range(self, tmp_path: Path) -> None:
        path = write_list(tmp_path, "a.jpg 0\nb.jpg 5\n")
        dataset = ImageDataset.from_list(path)
        dataset.check_labels(6)
        with pytest.raises(
            GoogLeNetError, match=r"list.txt, line 2: b.jpg has label 5, but there are 5 classes"
        ):
            dataset.check_labels(5)
        with pytest.raises(GoogLeNetError, match=r"b.jpg has label 5, but there are 2 classes"):
            ImageDataset.from_list(path, class_names=["one", "two"])

    def test_a_label_too_large_to_count_up_to(self, tmp_path: Path) -> None:
        path = write_list(tmp_path, "a.jpg 0\nb.jpg 999999999999\n")
        with pytest.raises(GoogLeNetError, match=r"b.jpg has label 999999999999.*relabel"):
            ImageDataset.from_list(path)


def test_a_repeated_line_counts_twice_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_list(tmp_path, "a.jpg 0\nb.jpg 1\na.jpg 0\n")
    assert len(ImageDataset.from_list(path)) == 3
    assert "1 lines repeat an earlier one" in caplog.text


def test_class_names_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("tench, Tinca tinca\ngoldfish\n")
    assert read_class_names(path) == ("tench, Tinca tinca", "goldfish")
    path.write_text("0 tench, Tinca tinca\n1 goldfish\n")
    assert read_class_names(path) == ("tench, Tinca tinca", "goldfish")
    path.write_text("0\n1\n")
    assert read_class_names(path) == ("0", "1")
    path.write_bytes("tench\n\nMönch\n".encode("latin-1"))
    with pytest.raises(GoogLeNetError, match="line 3: is not in UTF-8"):
        read_class_names(path)
    path.write_text("\n")
    with pytest.raises(GoogLeNetError, match="holds no class name"):
        read_class_names(path)


class TestFolders:
    def test_sorted_classes_and_images(self, tmp_path: Path) -> None:
        touch(tmp_path, "b/2.JPEG", "b/1.png", "a/x.jpg", "a/deep/er/y.jpg", "a/notes.txt")
        touch(tmp_path, ".hidden/z.jpg", "stray.jpg", "b/._1.png")
        dataset = ImageDataset.from_folder(tmp_path)
        assert dataset.class_names == ("a", "b")
        assert dataset.files == ["a/deep/er/y.jpg", "a/x.jpg", "b/1.png", "b/2.JPEG"]
        assert dataset.labels.tolist() == [0, 0, 1, 1]
        assert dataset.num_classes == 2
        assert len(dataset) == 4

    def test_labels_follow_given_classes(self, tmp_path: Path) -> None:
        touch(tmp_path, "b/1.jpg", "d/2.jpg")
        dataset = ImageDataset.from_folder(tmp_path, class_names=["d", "c", "b"])
        assert dataset.labels.tolist() == [2, 0]
        assert dataset.num_classes == 3
        with pytest.raises(GoogLeNetError, match="d: a class that is not among the 2"):
            ImageDataset.from_folder(tmp_path, class_names=["a", "b"])

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(GoogLeNetError, match="missing: no such folder"):
            ImageDataset.from_folder(tmp_path / "missing")
        with pytest.raises(GoogLeNetError, match="holds no class folders"):
            ImageDataset.from_folder(tmp_path)
        touch(tmp_path, "a/1.jpg", "b/notes.txt")
        with pytest.raises(GoogLeNetError, match="b: this class folder holds no image"):
            ImageDataset.from_folder(tmp_path)

    def test_a_link_to_a_parent_does_not_loop(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a" / "up").symlink_to(tmp_path)
        assert len(ImageDataset.from_folder(tmp_path)) == 2
