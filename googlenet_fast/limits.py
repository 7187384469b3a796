"""Limits on what is read from other people's files."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded; Pillow's own limit, 512 MB in RGB."""
