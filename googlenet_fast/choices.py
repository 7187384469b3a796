"""Values that flags and arguments may have. Nothing here imports torch, so help is quick."""

from typing import Literal

PresetName = Literal["paper", "paddleclas", "torchvision"]
"""Whose GoogLeNet: a key of `model.presets.PRESETS`."""
Initialization = Literal["caffe", "he", "torchvision"]
"""Rule of the random initial weights; see `model.initialization.initialize_layer`."""
PARTS = ("stem", "3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "aux", "fc")
"""Parts of the network, from the images on: the stem, the Inception blocks, the heads."""
Split = Literal["train", "val", "all"]
"""Which images of a dataset: those to train on, those to validate on, or all."""
Part = Literal["train", "val", "test"]
"""Part of a dataset."""
BadImages = Literal["error", "skip"]
"""What to do about unreadable images."""
SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Suffix of a contact sheet -> format of Pillow."""
