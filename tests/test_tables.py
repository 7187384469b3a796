"""Tables on a terminal."""

import pytest
from wcwidth import wcswidth

from googlenet_fast.tables import shortened, table


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("black swan", "black swan"),
        ("black swan, Cygnus atratus", "black swan…"),
        ("Staffordshire bullterrier", "Staffordshire bu…"),
        ("黑天鹅", "黑天鹅"),
        ("斯塔福郡斗牛梗犬", "斯塔福郡斗牛梗犬"),  # 16 columns
        ("斯塔福郡斗牛梗犬类", "斯塔福郡斗牛梗犬…"),  # 18 columns
        ("x斯塔福郡斗牛梗犬类", "x斯塔福郡斗牛梗…"),
    ],
)
def test_shortened(name: str, expected: str) -> None:
    assert shortened(name, 17) == expected
    assert wcswidth(expected) <= 17


def test_columns_are_aligned_whatever_the_script() -> None:
    rows = [["金毛寻回犬", "97.5 %", "Hund"], ["dog", "3.0 %", "고양이"], ["ねこ", "100.0 %", ""]]
    shown = table(rows, ["class", "top-1", "confused with"], right=(1,)).splitlines()
    ends = [wcswidth(line[: line.index("%") + 1]) for line in shown[1:]]
    assert len(set(ends)) == 1
    assert ends[0] == wcswidth(shown[0][: shown[0].index("top-1") + 5])
    assert not any(line.endswith(" ") for line in shown)


def test_texts_stay_as_they_are() -> None:
    assert table([["1e5", "007"], ["2", "1.10"]]) == "1e5  007\n2    1.10"
    assert table([]) == ""
