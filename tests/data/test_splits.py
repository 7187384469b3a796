import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from googlenet_fast.data import Splits, find_splits, open_dataset, open_splits
from googlenet_fast.errors import GoogLeNetError


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def write_lists(root: Path, train: Sequence[str], val: Sequence[str] | None) -> None:
    for name, lines in (("train_list.txt", train), ("val_list.txt", val)):
        if lines is not None:
            touch(root, *(line.split()[0] for line in lines))
            (root / name).write_text("\n".join(lines))


class TestFolders:
    def test_train_and_val(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg", "val/c/4.jpg")
        train, val = find_splits(tmp_path)
        assert train.labels.tolist() == [0, 1, 2]
        assert val.labels.tolist() == [2]
        assert val.class_names == train.class_names == ("a", "b", "c")

    @pytest.mark.parametrize(
        ("train", "val"),
        [("Train", "Val"), ("training", "validation"), ("TRAINING", "valid"), ("train", "Valid")],
    )
    def test_other_names_of_the_splits(self, train: str, val: str, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in (train, val) for name in "ab"))
        splits = find_splits(tmp_path)
        assert [part.root.name for part in splits] == [train, val]
        assert splits.train.class_names == splits.val.class_names == ("a", "b")
        assert open_dataset(tmp_path).root.name == val

    def test_a_test_split_is_no_class_and_left_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(
            tmp_path, *(f"{p}/{c}/{i}.jpg" for p in ("Train", "Test") for c in "ab" for i in "12")
        )
        with caplog.at_level(logging.INFO, "googlenet_fast"):
            train, val = find_splits(tmp_path)
        assert train.class_names == ("a", "b")
        assert (len(train), len(val)) == (2, 2)
        assert val.root.name == "Train"
        assert f"{tmp_path}/Test: neither trained nor validated on" in caplog.messages

    def test_a_test_split_alone_is_evaluated_on(self, tmp_path: Path) -> None:
        touch(tmp_path, "test/a/1.jpg", "test/b/1.jpg")
        assert open_dataset(tmp_path).root.name == "test"
        with pytest.raises(GoogLeNetError, match="holds test images, but none to train on"):
            find_splits(tmp_path)

    @pytest.mark.parametrize(
        "names", [("training_set", "test_set"), ("seg_train", "seg_test"), ("train2017", "val2017")]
    )
    def test_folders_that_look_like_splits_are_refused(
        self, names: tuple[str, str], tmp_path: Path
    ) -> None:
        touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in names for name in "ab"))
        for opened in (find_splits, open_dataset):
            with pytest.raises(GoogLeNetError, match="look like splits, not like classes"):
                opened(tmp_path)

    def test_splits_without_class_folders_and_two_of_one_kind_are_refused(
        self, tmp_path: Path
    ) -> None:
        touch(tmp_path, "x/train/1.jpg", "x/val/1.jpg", "y/train/a/1.jpg", "y/Train/a/1.jpg")
        with pytest.raises(GoogLeNetError, match="train: holds images, but no class folders"):
            find_splits(tmp_path / "x")
        with pytest.raises(GoogLeNetError, match="both Train and train; keep one of them"):
            find_splits(tmp_path / "y")

    def test_a_train_is_a_vehicle_among_others(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{name}/{i}.jpg" for name in ("car", "test", "train") for i in "12"))
        assert find_splits(tmp_path).train.class_names == ("car", "test", "train")

    def test_class_unknown_to_train(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/d/4.jpg")
        with pytest.raises(GoogLeNetError, match="val/d: a class that is not among the 2"):
            find_splits(tmp_path)

    @pytest.mark.parametrize("below", ["", "train/"])
    def test_class_folders_alone_hold_out_a_fixed_stratified_tenth(
        self, tmp_path: Path, below: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        files = [
            f"{below}{name}/{i}.jpg" for name in "ab" for i in range(40 if name == "a" else 12)
        ]
        touch(tmp_path, *files, f"{below}c/1.jpg", f"{below}d/1.jpg", f"{below}d/2.jpg")
        with caplog.at_level(logging.INFO, "googlenet_fast"):
            train, val = find_splits(tmp_path)
        assert np.bincount(val.labels, minlength=4).tolist() == [4, 1, 0, 1]
        assert np.bincount(train.labels).tolist() == [36, 11, 1, 1]
        assert set(train.files).isdisjoint(val.files)
        assert val.class_names == train.class_names == ("a", "b", "c", "d")
        assert find_splits(tmp_path).val.files == val.files
        assert len(caplog.records) == 1
        assert "6 of its 55 images are held out" in caplog.text

    @pytest.mark.parametrize("layout", ["train/a/1.jpg", "a/1.jpg"])
    def test_one_class_only(self, tmp_path: Path, layout: str) -> None:
        touch(tmp_path, layout)
        with pytest.raises(GoogLeNetError, match="one class only"):
            find_splits(tmp_path)

    def test_no_such_folder_and_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(GoogLeNetError, match="nowhere: no such dataset folder"):
            find_splits(tmp_path / "nowhere")
        with pytest.raises(GoogLeNetError, match="holds no class folders"):
            find_splits(tmp_path)


class TestLists:
    def test_the_reference_layout(self, tmp_path: Path) -> None:
        write_lists(
            tmp_path,
            ["train/n01440764/1.JPEG 0", "train/n01443537/2.JPEG 1"],
            ["val/ILSVRC2012_val_1.JPEG 1", "val/ILSVRC2012_val_2.JPEG 0"],
        )
        train, val = find_splits(tmp_path)
        assert val.labels.tolist() == [1, 0]
        assert val.class_names == train.class_names == ("n01440764", "n01443537")

    def test_val_is_relabelled_as_train_is(self, tmp_path: Path) -> None:
        write_lists(tmp_path, ["a/1 1", "b/1 5", "c/1 9"], ["c/2 9", "b/2 5"])
        train, val = open_splits(tmp_path, relabel=True)
        assert train.labels.tolist() == [0, 1, 2]
        assert val.labels.tolist() == [2, 1]
        assert val.class_names == train.class_names == ("a", "b", "c")

    @pytest.mark.parametrize("relabel", [False, True])
    def test_label_unknown_to_train(self, tmp_path: Path, relabel: bool) -> None:
        write_lists(tmp_path, ["a/1 0", "b/1 5"], ["a/2 0", "c/1 3"])
        with pytest.raises(
            GoogLeNetError, match=r"val_list.txt, line 2: c/1 has label 3, which no"
        ):
            open_splits(tmp_path, relabel=relabel)

    def test_without_val_list_a_tenth_is_held_out(self, tmp_path: Path) -> None:
        write_lists(tmp_path, [f"{i}.jpg {i % 2}" for i in range(40)], None)
        train, val = find_splits(tmp_path)
        assert np.bincount(train.labels).tolist() == [18, 18]
        assert np.bincount(val.labels).tolist() == [2, 2]

    def test_explicit_lists_root_and_names(self, tmp_path: Path) -> None:
        write_lists(tmp_path / "images", ["1 0", "2 1"], ["3 1"])
        lists = tmp_path / "lists"
        lists.mkdir()
        for name in ("train", "val"):
            (tmp_path / "images" / f"{name}_list.txt").rename(lists / f"{name}.txt")
        (lists / "names").write_text("zero\none\ntwo\n")
        train, val = open_splits(
            train_list=lists / "train.txt",
            val_list=lists / "val.txt",
            root=tmp_path / "images",
            class_names=lists / "names",
        )
        assert val.class_names == train.class_names == ("zero", "one", "two")
        assert Path(val.path(0)).is_file()

    def test_one_class_only(self, tmp_path: Path) -> None:
        write_lists(tmp_path, ["1 3", "2 3"], ["3 3"])
        with pytest.raises(GoogLeNetError, match="one class only"):
            find_splits(tmp_path)

    def test_arguments_that_do_not_go_together(self, tmp_path: Path) -> None:
        with pytest.raises(GoogLeNetError, match="needs a train_list"):
            open_splits(val_list=tmp_path / "v")
        with pytest.raises(GoogLeNetError, match="either"):
            open_splits(tmp_path, train_list=tmp_path / "t")


def test_without_arguments_the_embedded_digits() -> None:
    train, val = open_splits()
    assert len(train) + len(val) == 1797
    assert train.class_names == val.class_names == tuple("0123456789")


class TestOpenDataset:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> Path:
        touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/b/3.jpg")
        return tmp_path

    @pytest.fixture
    def lists(self, tmp_path: Path) -> Path:
        write_lists(tmp_path, ["a/1 3", "b/1 5"], ["b/2 5"])
        return tmp_path

    def test_dataset_folder(self, folders: Path) -> None:
        dataset = open_dataset(folders)
        assert (dataset.files, dataset.labels.tolist()) == (["b/3.jpg"], [1])
        assert dataset.class_names == ("a", "b")

    def test_classes_of_the_network(self, folders: Path) -> None:
        dataset = open_dataset(folders, class_names=["c", "b", "a"])
        assert dataset.labels.tolist() == [1]
        assert open_dataset(folders / "val", class_names=["c", "b", "a"]).labels.tolist() == [1]

    def test_class_folders(self, folders: Path) -> None:
        assert open_dataset(folders / "train").labels.tolist() == [0, 1]

    def test_list_file(self, lists: Path) -> None:
        dataset = open_dataset(lists / "train_list.txt")
        assert dataset.labels.tolist() == [3, 5]
        assert open_dataset(lists / "train_list.txt", relabel=True).labels.tolist() == [0, 1]

    @pytest.mark.parametrize("names", [None, ["x", "y"]])
    def test_lists_of_a_dataset_folder_relabelled(
        self, lists: Path, names: list[str] | None
    ) -> None:
        dataset = open_dataset(lists, relabel=True, class_names=names)
        assert (dataset.files, dataset.labels.tolist()) == (["b/2"], [1])
        assert dataset.class_names == (("a", "b") if names is None else ("x", "y"))

    def test_held_out_images_are_those_of_training(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"train/{name}/{i}.jpg" for name in "ab" for i in range(20)))
        splits: Splits = find_splits(tmp_path)
        assert open_dataset(tmp_path, class_names=["a", "b"]).files == splits.val.files

    def test_nowhere(self, tmp_path: Path) -> None:
        with pytest.raises(GoogLeNetError, match="nowhere: no such folder"):
            open_dataset(tmp_path / "nowhere")
