"""Builds of PyTorch for cards that are not NVIDIA's. Nothing here imports torch, for setup.py."""

import re

_OURS = re.compile(r"|cpu(\.\S*)?|cu\d+(\.\S*)?|git\S*|\S*\.nv\S*")
"""What follows the + in versions of PyPI (nothing) and pytorch.org, of builds from source, and of
NVIDIA's containers."""


def is_other_vendors(torch_version: str) -> bool:
    """Return True for another vendor's build of PyTorch, such as Iluvatar's 2.7.1+corex.4.4.0.

    Its cards may be named "cuda", and it may have a version of CUDA. DALI and NVIDIA's compiler are
    of no use to it.
    """
    return _OURS.fullmatch(torch_version.partition("+")[2]) is None
