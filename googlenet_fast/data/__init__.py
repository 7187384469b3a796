"""Datasets of labelled images, and loaders that turn them into batches.

Names are imported on first use (PEP 562), so the command line of `data` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from googlenet_fast.data.dataset import ImageDataset
    from googlenet_fast.data.lists import read_class_names
    from googlenet_fast.data.loader import Loader, LoaderOptions, build_loader
    from googlenet_fast.data.sample import sample_dataset
    from googlenet_fast.data.sampling import Augmentation
    from googlenet_fast.data.splits import Splits, find_splits, open_dataset, open_splits

__all__ = [
    "Augmentation",
    "ImageDataset",
    "Loader",
    "LoaderOptions",
    "Splits",
    "build_loader",
    "find_splits",
    "open_dataset",
    "open_splits",
    "read_class_names",
    "sample_dataset",
]

_MODULES = {
    "Augmentation": "sampling",
    "ImageDataset": "dataset",
    "Loader": "loader",
    "LoaderOptions": "loader",
    "Splits": "splits",
    "build_loader": "loader",
    "find_splits": "splits",
    "open_dataset": "splits",
    "open_splits": "splits",
    "read_class_names": "lists",
    "sample_dataset": "sample",
}
"""Public name -> the module that defines it."""

if not TYPE_CHECKING:  # for type checkers, a name that is not defined above is an error

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
