"""Data that takes no time to train on."""

from pathlib import Path

import pytest

from googlenet_fast.data import sample_dataset


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 40 training and 10 validation digits."""
    digits = sample_dataset()
    folder = tmp_path_factory.mktemp("few digits")
    for split, count in (("train", 4), ("val", 1)):
        lines = (digits / f"{split}_list.txt").read_text().splitlines()
        by_class = [[line for line in lines if line.endswith(f" {c}")] for c in range(10)]
        chosen = [line for members in by_class for line in members[:count]]
        (folder / f"{split}_list.txt").write_text("\n".join(chosen))
    return folder
