"""Limits that flags and their help name. Nothing here imports torch, so help is quick."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded; Pillow's own limit, 512 MB in RGB."""
MOST_WEIGHT_BYTES = 1 << 30
"""Bytes of the largest file of weights; a checkpoint for 22,000 classes takes less."""
MOST_IMAGE_BYTES = 100 << 20
"""Bytes of the largest image that is downloaded, or read from standard input."""
IMAGE_SECONDS = 60.0
"""The longest that the download of an image may take."""
MAX_TILES = 200
"""Images of a contact sheet."""
