"""Limits that flags and their help name. Nothing here imports torch, so help is quick."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded; Pillow's own limit, 512 MB in RGB."""
MAX_TILES = 200
"""Images of a contact sheet."""
