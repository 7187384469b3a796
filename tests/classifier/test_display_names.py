"""Names of classes for people."""

from googlenet_fast.classifier.display_names import display_names
from googlenet_fast.data.imagenet import imagenet_classes


def test_imagenet() -> None:
    names = display_names(tuple(imagenet_classes()))
    assert len(set(names)) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert (names[134], names[517]) == ("crane (134)", "crane (517)")
    assert names[999] == "toilet tissue, toilet paper, bathroom tissue"


def test_names_of_others_stay() -> None:
    assert display_names(["n0", "b"]) == ("n0", "b")
