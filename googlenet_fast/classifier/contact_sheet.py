"""Draw a contact sheet: photos in a grid, each with its most likely classes."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from googlenet_fast.choices import SHEET_FORMATS
from googlenet_fast.classifier.prediction import FilePrediction
from googlenet_fast.classifier.scores import ClassScore
from googlenet_fast.data.library_messages import caught
from googlenet_fast.data.reading import opened, upright
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import printable
from googlenet_fast.extras import require
from googlenet_fast.files import write_atomically
from googlenet_fast.limits import MAX_TILES

MAX_COLUMNS = 5
MAX_SCORES = 3
"""Classes shown per image."""

# Pixels
MARGIN, GAP, PADDING = 32, 20, 14
WIDTH, PHOTO_HEIGHT = 300, 216
BAR_HEIGHT, LINE = 6, 34
TILE_HEIGHT = PHOTO_HEIGHT + PADDING + 24 + MAX_SCORES * LINE + PADDING

PAPER, CARD, MAT, INK, FAINT = "#eef0f3", "#ffffff", "#dfe3e8", "#1c2430", "#76808e"
TRACK, BAR, FIRST_BAR = "#e6e9ee", "#a9c4ea", "#2f6fd0"


def save_contact_sheet(predictions: Sequence[FilePrediction], path: Path) -> None:
    """Save a sheet of the first `MAX_TILES` images with their predictions.

    Raises:
        GoogLeNetError: the file cannot be written, or matplotlib is not installed.
    """
    content = io.BytesIO()
    draw_contact_sheet(predictions[:MAX_TILES]).save(
        content, SHEET_FORMATS[path.suffix.lower()], quality=92
    )
    write_atomically(path, content.getbuffer())


def draw_contact_sheet(predictions: Sequence[FilePrediction]) -> Image.Image:
    """Return the sheet, filled from left to right and from top to bottom."""
    columns = min(MAX_COLUMNS, math.ceil(math.sqrt(len(predictions))))
    rows = math.ceil(len(predictions) / columns)
    sheet = Image.new(
        "RGB",
        (
            2 * MARGIN + columns * (WIDTH + GAP) - GAP,
            2 * MARGIN + rows * (TILE_HEIGHT + GAP) - GAP,
        ),
        PAPER,
    )
    fonts = _Fonts()
    for i, prediction in enumerate(predictions):
        row, column = divmod(i, columns)
        place = MARGIN + column * (WIDTH + GAP), MARGIN + row * (TILE_HEIGHT + GAP)
        sheet.paste(_tile(prediction, fonts), place)
    return sheet


class _Fonts:
    """The fonts that come with matplotlib: equal on every machine, with most scripts."""

    def __init__(self) -> None:
        require("a contact sheet", "matplotlib")
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self.small = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), 12)
        self.plain = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), 14)
        self.bold = ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), 14)


def _tile(prediction: FilePrediction, fonts: _Fonts) -> Image.Image:
    tile = Image.new("RGB", (WIDTH, TILE_HEIGHT), CARD)
    tile.paste(photo_on_mat(prediction.image), (0, 0))
    draw = ImageDraw.Draw(tile)
    y = PHOTO_HEIGHT + PADDING
    name = printable(prediction.image.name.rpartition("/")[2])
    draw.text((PADDING, y), _fitted(name, fonts.small, WIDTH - 2 * PADDING), FAINT, fonts.small)
    y += 24
    for rank, score in enumerate(prediction.scores[:MAX_SCORES]):
        _draw_score(draw, y + rank * LINE, score, fonts, first=rank == 0)
    return tile


def photo_on_mat(image: Location) -> Image.Image:
    """Return the whole photo, as the network sees it, on a mat of WIDTH x PHOTO_HEIGHT pixels.

    Only the mat is returned for a photo that Pillow cannot read.
    """
    mat = Image.new("RGB", (WIDTH, PHOTO_HEIGHT), MAT)
    try:
        with caught(), opened(image.read()) as file:
            file.draft("RGB", (2 * WIDTH, 2 * PHOTO_HEIGHT))  # JPEGs decode faster at half size
            photo = upright(file)
    except Exception:  # Pillow's plugins raise errors of any class
        return mat
    photo = ImageOps.contain(photo, mat.size, Image.Resampling.LANCZOS)
    mat.paste(photo, ((WIDTH - photo.width) // 2, (PHOTO_HEIGHT - photo.height) // 2))
    return mat


def _draw_score(
    draw: ImageDraw.ImageDraw, y: int, score: ClassScore, fonts: _Fonts, *, first: bool
) -> None:
    """Draw class and probability above a bar as long as the probability."""
    font = fonts.bold if first else fonts.plain
    percent = f"{100 * score.probability:.1f} %"
    right = WIDTH - PADDING
    space = right - PADDING - draw.textlength(percent, font) - PADDING
    draw.text((PADDING, y), _fitted(score.name, font, space), INK, font)
    draw.text((right, y), percent, INK, font, anchor="ra")
    box = PADDING, y + 20, right, y + 20 + BAR_HEIGHT
    draw.rounded_rectangle(box, BAR_HEIGHT / 2, TRACK)
    length = round((right - PADDING) * score.probability)
    if length >= BAR_HEIGHT:
        box = PADDING, y + 20, PADDING + length, y + 20 + BAR_HEIGHT
        draw.rounded_rectangle(box, BAR_HEIGHT / 2, FIRST_BAR if first else BAR)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return the text, cut with an ellipsis if it is longer than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{(text.rpartition(',')[0] or text).rstrip()}…"
