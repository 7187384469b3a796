"""Imports the modules that build.py builds. This process needs no torch."""

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType


def load(path: Path) -> ModuleType:
    """Import a module of kernels. Any number of them can be loaded at once."""
    loader = importlib.machinery.ExtensionFileLoader("raw_kernels", str(path))
    spec = importlib.util.spec_from_loader("raw_kernels", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
