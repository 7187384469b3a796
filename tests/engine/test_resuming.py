"""What a run that goes on must have in common with its checkpoint."""

from pathlib import Path
from typing import Any

import pytest

from googlenet_fast.engine.resuming import changed_images, check_same_classes, check_same_network
from googlenet_fast.errors import GoogLeNetError

PATH = Path("last.pt")
META: dict[str, Any] = {"preset": "paper", "num_classes": 3, "aux": True, "lrn": None}


@pytest.mark.parametrize(
    ("key", "value"), [("preset", "paddleclas"), ("aux", False), ("lrn", True)]
)
def test_other_networks_are_refused(key: str, value: object) -> None:
    check_same_network(PATH, META, {**META, "resize": "cv2"})
    with pytest.raises(
        GoogLeNetError, match=f"last.pt: that run has {key} {META[key]}, this one {value}"
    ):
        check_same_network(PATH, META, {**META, key: value})


def test_the_first_other_class_is_named() -> None:
    check_same_classes(PATH, ["a", "b"], ["a", "b"])
    with pytest.raises(GoogLeNetError, match="class 1 of that run is b, of this one c; give"):
        check_same_classes(PATH, ["a", "b", "d"], ["a", "c", "e"])


def test_a_network_with_more_classes_than_images_has_no_names() -> None:
    check_same_classes(PATH, None, ["a", "b"])


@pytest.mark.parametrize(
    ("saved", "own", "said"),
    [
        ([0, 9, "ab"], [0, 9, "ab"], None),
        ([0, 9], [0, 9, "ab"], None),
        ([0, 9, "ab"], [1, 9, "ab"], "the order"),
        ([0, 9, "ab"], [0, 8, "cd"], "9 before, 8 now"),
        ([0, 9, "ab"], [1, 9, "cd"], "the names or labels of the 9"),
    ],
)
def test_changed_images(saved: list[int | str], own: list[int | str], said: str | None) -> None:
    change = changed_images(saved, own)
    assert change == said if said is None else said in str(change)
