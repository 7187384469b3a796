"""Labels of datasets that number the network's classes otherwise."""

from pathlib import Path

import numpy as np
import pytest

from googlenet_fast.data import ImageDataset
from googlenet_fast.data.imagenet import imagenet_classes
from googlenet_fast.engine.class_matching import match_classes
from googlenet_fast.errors import GoogLeNetError

ANIMALS = ("ape", "bee", "cat", "dog", "elk")
IMAGENET = tuple(imagenet_classes())


def dataset(source: Path, names: tuple[str, ...], labels: list[int]) -> ImageDataset:
    files = [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    return ImageDataset(Path(), files, np.array(labels, dtype=np.int64), names, source)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.touch()
    return path


def test_the_networks_own_classes(folder: Path) -> None:
    matched, note = match_classes(dataset(folder, ANIMALS, [4, 0, 2]), 5, ANIMALS)
    assert matched.labels.tolist() == [4, 0, 2]
    assert note is None


def test_some_class_folders_are_matched_by_name(folder: Path) -> None:
    some = dataset(folder, ("bee", "elk"), [0, 1, 1, 0])
    matched, note = match_classes(some, 5, ANIMALS)
    assert matched.labels.tolist() == [1, 4, 4, 1]
    assert matched.class_names == ANIMALS
    assert note is not None
    assert "by name (2 of their numbers change)" in note


def test_a_list_with_labels_from_1_is_matched_by_its_folders(listed: Path) -> None:
    matched, note = match_classes(dataset(listed, ("0", "ape", "bee"), [2, 1, 2]), 5, ANIMALS)
    assert matched.labels.tolist() == [1, 0, 1]
    assert note is not None


def test_labels_from_1_that_have_no_names_get_a_hint(listed: Path) -> None:
    """Without the last class they would all be one off, and within the network's numbers."""
    numbered = dataset(listed, tuple("01234"), [1, 2, 3, 4])
    matched, note = match_classes(numbered, 5, ANIMALS)
    assert matched.labels.tolist() == [1, 2, 3, 4]
    assert note is not None
    assert "renumber them with --relabel" in note
    assert match_classes(dataset(listed, tuple("01234"), [0, 2]), 5, ANIMALS)[1] is None


@pytest.mark.parametrize("spelled_out", [False, True])
def test_imagenets_folders_and_names(folder: Path, spelled_out: bool) -> None:
    chosen = [1, 207, 999]
    names = [imagenet_classes()[IMAGENET[i]] if spelled_out else IMAGENET[i] for i in chosen]
    some = dataset(folder, tuple(names), [0, 1, 2, 1])
    matched, _ = match_classes(some, 1000, IMAGENET)
    assert matched.labels.tolist() == [1, 207, 999, 207]


def test_a_name_that_two_classes_share_decides_nothing(folder: Path) -> None:
    """ImageNet has a bird and a machine called crane."""
    cranes = dataset(folder, ("crane", "goldfish, Carassius auratus"), [0, 1])
    with pytest.raises(GoogLeNetError, match="are not among them"):
        match_classes(cranes, 1000, IMAGENET)


def test_a_list_without_names_is_taken_as_it_is(listed: Path) -> None:
    names = tuple(str(i) for i in range(4))
    matched, note = match_classes(dataset(listed, names, [3, 1]), 5, ANIMALS)
    assert matched.labels.tolist() == [3, 1]
    assert note is None


def test_other_names_in_the_same_number_are_taken_in_order_and_told(folder: Path) -> None:
    singes = ("abeille", "cerf", "chat", "chien", "singe")
    matched, note = match_classes(dataset(folder, singes, [0, 4]), 5, ANIMALS)
    assert matched.labels.tolist() == [0, 4]
    assert note is not None
    assert "(abeille, singe) are not named as in the network" in note


def test_a_renamed_class_that_moves_others_is_refused(folder: Path) -> None:
    """Taken in order, images of bees would count as apes."""
    moved = (*ANIMALS[1:], "zebra")
    with pytest.raises(
        GoogLeNetError, match="class bee is number 0 here, 1 in the network, because ze"
    ):
        match_classes(dataset(folder, moved, [0, 4]), 5, ANIMALS)
    same = (*ANIMALS[:4], "zebra")
    assert match_classes(dataset(folder, same, [0, 4]), 5, ANIMALS)[0].labels.tolist() == [0, 4]


def test_other_names_in_another_number_are_refused(folder: Path, listed: Path) -> None:
    with pytest.raises(
        GoogLeNetError, match=r"5 classes and the 2 class folders \(fox, owl\) are not"
    ):
        match_classes(dataset(folder, ("fox", "owl"), [0, 1]), 5, ANIMALS)
    with pytest.raises(
        GoogLeNetError, match="the weights have no class names; give the network's names with"
    ):
        match_classes(dataset(folder, ("fox", "owl"), [0, 1]), 5, None)
    with pytest.raises(GoogLeNetError, match="has label 5, but there are 5 classes"):
        match_classes(dataset(listed, tuple("012345"), [0, 5]), 5, None)
