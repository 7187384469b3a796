"""The sample dataset: handwritten digits, which come with the package, as JPEG files."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import cache_dir

SIZE = 64
"""Side of the written images in pixels; the originals have 8 x 8 pixels of 17 grey levels."""
VALIDATION = 0.2
"""Share of each digit's images used for validation."""
DIGITS = Path(__file__).with_name("digits.npz")
"""`images`, (1797, 8, 8) from 0 to 16, and `labels`, (1797,), both uint8: the test set of UCI's
"Optical Recognition of Handwritten Digits" in the order of scikit-learn's load_digits. NOTICE names
its authors and licence."""


def sample_dataset() -> Path:
    """Return the folder of 1,797 handwritten digits; the first call writes it to the cache.

    The folder holds train/DIGIT/*.jpg and val/DIGIT/*.jpg with train_list.txt and val_list.txt.
    Several processes may call this at once.

    Raises:
        GoogLeNetError: the cache cannot be written.
    """
    folder = cache_dir() / f"digits-{SIZE}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="digits-", dir=folder.parent))
        try:
            _write(temporary)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise GoogLeNetError(
            f"{folder}: cannot write the sample dataset ({error.strerror}); set "
            "GOOGLENET_FAST_CACHE to a writable folder with free space"
        ) from None
    return folder


def _publish(temporary: Path, folder: Path) -> None:
    """Rename the folder, unless another process was faster."""
    temporary.chmod(0o755)  # mkdtemp's is private
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write(folder: Path) -> None:
    with np.load(DIGITS) as digits:
        images, labels = digits["images"], digits["labels"]
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for digit in range(10):
        indices = np.random.default_rng(digit).permutation(np.flatnonzero(labels == digit))
        num_val = round(VALIDATION * len(indices))
        for i, index in enumerate(indices):
            split = "val" if i < num_val else "train"
            file = f"{split}/{digit}/{index:04d}.jpg"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            pixels = (images[index] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            image.convert("RGB").save(folder / file, quality=95)
            lists[split].append(f"{file} {digit}\n")
    for split, lines in lists.items():
        (folder / f"{split}_list.txt").write_text("".join(sorted(lines)))
