"""Listing a tree of class folders."""

import os
from pathlib import Path

from googlenet_fast.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff")
"""Of image files, in either case; other files in a class folder are passed over."""


def list_class_folders(root: Path) -> dict[str, list[str]]:
    """The images in each folder below root, sorted: class name -> paths relative to its folder.

    Raises:
        UserError: no such folder, or no folder in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise UserError(f"{root}: holds no class folders; expected {root}/CLASS/IMAGE.jpg")
    return {name: sorted(_images_below(root / name)) for name in names}


def _images_below(folder: Path, prefix: str = "") -> list[str]:
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                images += _images_below(Path(entry), f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(EXTENSIONS):
                images.append(prefix + entry.name)
    return images
