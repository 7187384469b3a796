"""The contact sheet, looked at pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from googlenet_fast.classifier.contact_sheet import (
    MARGIN,
    PHOTO_HEIGHT,
    WIDTH,
    draw_contact_sheet,
    save_contact_sheet,
)
from googlenet_fast.classifier.prediction import FilePrediction
from googlenet_fast.classifier.scores import ClassScore
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import GoogLeNetError


def prediction(path: Path, probability: float = 0.7, name: str = "barn") -> FilePrediction:
    scores = [ClassScore(3, name, probability), ClassScore(0, "ape", 1 - probability)]
    return FilePrediction(scores, Location(str(path), str(path)))


def photo(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (400, 300)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def blue(sheet: Image.Image) -> int:
    """Length of the first bar, in pixels."""
    pixels = np.asarray(sheet).astype(int)
    return int(np.all(pixels == [0x2F, 0x6F, 0xD0], axis=2).sum(1).max())


def test_photos_stand_in_order(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0), (0, 90, 90)]
    paths = [photo(tmp_path / f"{i}.png", colour) for i, colour in enumerate(colours)]
    sheet = draw_contact_sheet([prediction(path) for path in paths])
    found = {sheet.getpixel((x, y)): (y, x) for y in range(sheet.height) for x in (182, 502, 822)}
    places = [found[colour] for colour in colours]
    assert places == sorted(places)
    assert len({y for y, _ in places}) == 2  # three and two


def test_bar_is_as_long_as_the_probability(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", (9, 9, 9))
    full = blue(draw_contact_sheet([prediction(path, 1.0)]))
    assert blue(draw_contact_sheet([prediction(path, 0.25)])) == pytest.approx(full / 4, abs=3)
    assert blue(draw_contact_sheet([prediction(path, 0.0)])) == 0


def test_a_rotated_photo_stands_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (80, 40), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 20, 80, 40))  # blue below
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    sheet = draw_contact_sheet([prediction(tmp_path / "a.png")])
    middle = MARGIN + WIDTH // 2, MARGIN + PHOTO_HEIGHT // 2
    above, below = (sheet.getpixel((middle[0], middle[1] + dy)) for dy in (-40, 40))
    assert (above, below) == ((255, 0, 0), (0, 0, 255))


def test_a_photo_of_16_bits_is_not_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 80), 0x4000, np.uint16)).save(tmp_path / "a.png")
    sheet = draw_contact_sheet([prediction(tmp_path / "a.png")])
    assert sheet.getpixel((MARGIN + WIDTH // 2, MARGIN + PHOTO_HEIGHT // 2)) == (64, 64, 64)


@pytest.mark.parametrize("name", ["x" * 500, "ü 山 \udcff", "a, b, " * 50, ""])
def test_any_name_fits(name: str, tmp_path: Path) -> None:
    """Long and odd names change nothing outside their own lines."""
    path = photo(tmp_path / "a.png", (9, 9, 9))
    plain = np.asarray(draw_contact_sheet([prediction(path)]))
    odd = np.asarray(draw_contact_sheet([prediction(path, name=name.replace("\udcff", "?"))]))
    changed = np.argwhere((plain != odd).any(2))
    assert plain.shape == odd.shape
    assert np.ptp(changed[:, 0]) < 20
    draw_contact_sheet([prediction(tmp_path / f"{name[:80]}.jpg")])  # no such photo: a bare mat


@pytest.mark.parametrize("suffix", ["png", "JPG"])
def test_saved(suffix: str, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", (9, 9, 9))
    save_contact_sheet([prediction(path)], tmp_path / f"sheet.{suffix}")
    with Image.open(tmp_path / f"sheet.{suffix}") as sheet:
        assert sheet.format == {"png": "PNG", "JPG": "JPEG"}[suffix]
        assert sheet.size == draw_contact_sheet([prediction(path)]).size
    with pytest.raises(GoogLeNetError, match="cannot save"):
        save_contact_sheet([prediction(path)], tmp_path / "no folder" / "sheet.png")
