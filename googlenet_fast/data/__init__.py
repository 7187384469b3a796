"""Datasets of labelled images, and loaders that turn them into batches."""

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
