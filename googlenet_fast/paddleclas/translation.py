"""Translate a PaddleClas configuration into the options of this package's commands."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.paddleclas.document import Document, Section
from googlenet_fast.paddleclas.optimizer import read_optimizer
from googlenet_fast.paddleclas.reading import read_document
from googlenet_fast.paddleclas.sections import (
    Fields,
    Inference,
    Split,
    read_amp,
    read_arch,
    read_global,
    read_infer,
    read_loss,
    read_metric,
    read_split,
)
from googlenet_fast.paddleclas.values import number, positive_integer, shape

T = TypeVar("T")

_log = logging.getLogger("googlenet_fast")


@dataclass(frozen=True)
class PaddleClasConfig:
    """A checked configuration; missing parts are None."""

    file: Path
    run: Fields
    """Fields of `TrainConfig`."""
    num_classes: int
    weights: Path | str | None
    eval_amp: str
    optimizer: tuple[Fields, Fields] | None
    """Fields of `OptimizerConfig` and `ScheduleConfig`."""
    train: Split | None
    eval: Split | None
    infer: Inference | None

    def train_values(self) -> dict[str, Any]:
        """Return a `TrainConfig` as nested plain values."""
        optimizer, schedule = self._need(self.optimizer, "Optimizer")
        train = self._need(self.train, "DataLoader.Train")
        val = self._need(self.eval, "DataLoader.Eval")
        for key in ("delimiter", "relabel"):
            if getattr(train, key) != getattr(val, key):
                raise GoogLeNetError(
                    f"{self.file}: DataLoader.Eval.dataset.{key}: must be the same as in "
                    "DataLoader.Train"
                )
        return {
            **self.run,
            "model": {
                "preset": "paddleclas",
                "num_classes": self.num_classes,
                "weights": None if self.weights is None else str(self.weights),
            },
            "data": {
                **train.transforms,
                "train_list": str(train.list),
                "root": str(train.root),
                "val_list": str(val.list),
                "val_root": str(val.root),
                "delimiter": train.delimiter,
                "relabel": train.relabel,
                "batch_size": train.batch_size,
                "shuffle": train.shuffle,
                "drop_last": train.drop_last or self.run["accumulate"] > 1,
                "num_workers": train.num_workers,
                "eval_size": val.transforms["image_size"],
                "resize_size": val.transforms["resize_size"],
                "resize": val.transforms["resize"],
            },
            "optimizer": optimizer,
            "schedule": schedule,
        }

    def evaluate_options(self) -> dict[str, Any]:
        """Return the options of evaluation by name, except those of `evaluate_data`."""
        val = self._need(self.eval, "DataLoader.Eval")
        options = {"batch_size": val.batch_size, "num_workers": val.num_workers}
        return self._network_options() | val.transforms | options

    def evaluate_data(self) -> dict[str, Any]:
        """Return the options for the images to evaluate on."""
        val = self._need(self.eval, "DataLoader.Eval")
        return {key: getattr(val, key) for key in ("list", "root", "delimiter", "relabel")}

    def predict_options(self) -> dict[str, Any]:
        """Return the options of prediction by name."""
        infer = self._need(self.infer, "Infer")
        options = {
            "images": infer.images,
            "batch_size": infer.batch_size,
            "top": infer.top,
            "class_names": infer.class_names,
        }
        return self._network_options() | infer.transforms | options

    def _network_options(self) -> dict[str, Any]:
        weights = self._need(self.weights, "Global.pretrained_model")
        return {"weights": weights, "device": self.run["device"], "amp": self.eval_amp}

    def _need(self, part: T | None, path: str) -> T:
        if part is None:
            raise GoogLeNetError(f"{self.file}: {path}: is missing; this command needs it")
        return part


def read_config(file: Path | None, overrides: Sequence[str]) -> PaddleClasConfig | None:
    """Read and translate the configuration in a file, if one is given.

    Raises:
        GoogLeNetError: it is not a PaddleClas configuration, cannot be used, or overrides come
            alone.
    """
    if file is None:
        if overrides:
            raise GoogLeNetError(
                f"-o {overrides[0]}: overrides a PaddleClas configuration; give -c"
            )
        return None
    document = read_document(file, overrides)
    if document is None:
        raise GoogLeNetError(f"{file}: is not a PaddleClas configuration; name the weights instead")
    return translate(document)


def translate(document: Document) -> PaddleClasConfig:
    """Translate the whole document, and log which keys have no effect.

    Raises:
        GoogLeNetError: names the path of a key or value that is not supported.
    """
    top = document.top
    overall = top.section("Global")
    class_num = overall.take("class_num", positive_integer, None)
    run, weights = read_global(overall)
    amp, eval_amp = read_amp(top.section("AMP") if "AMP" in top else None, run["device"])
    ema = {}
    if "EMA" in top:
        ema = {"ema_decay": top.section("EMA").take("decay", number, 0.9999)}
    num_classes = read_arch(top.section("Arch"), class_num)
    read_loss(top.section("Loss"))
    read_metric(top.section("Metric"))
    loader = top.section("DataLoader")
    config = PaddleClasConfig(
        file=document.file,
        run=run | amp | ema,
        num_classes=num_classes,
        weights=weights,
        eval_amp=eval_amp,
        optimizer=(
            read_optimizer(top.section("Optimizer"), run["epochs"]) if "Optimizer" in top else None
        ),
        train=read_split(loader, "Train") if "Train" in loader else None,
        eval=read_split(loader, "Eval") if "Eval" in loader else None,
        infer=read_infer(top.section("Infer")) if "Infer" in top else None,
    )
    _note_differences(overall, loader, config)
    document.finish()
    _log_ignored(document)
    return config


def _note_differences(overall: Section, loader: Section, config: PaddleClasConfig) -> None:
    """Note settings that PaddleClas has twice with different values, but this package once."""
    given = overall.take("image_shape", shape, None)
    if config.eval is not None:
        size = config.eval.transforms["image_size"]
        if given not in (None, [3, size, size]):
            overall.note("image_shape", f"images are cropped to {size} pixels by DataLoader.Eval")
    if config.train is not None and not config.train.drop_last and config.run["accumulate"] > 1:
        because = "with Global.update_freq, images that do not fill the last step are dropped"
        loader.note("Train.sampler.drop_last", because)
    if config.train is not None and config.eval is not None:
        for key, place in (("batch_size", "sampler"), ("num_workers", "loader")):
            if getattr(config.train, key) != getattr(config.eval, key):
                because = "evaluation during training uses that of DataLoader.Train"
                loader.note(f"Eval.{place}.{key}", because)
        if config.train.transforms["resize"] != config.eval.transforms["resize"]:
            because = "training crops are resized as the images of DataLoader.Eval"
            loader.note("Train.dataset.transform_ops.RandCropImage.backend", because)


def _log_ignored(document: Document) -> None:
    if document.ignored and os.environ.get("RANK", "0") == "0":
        lines = "\n  %s: ignored because %s" * len(document.ignored)
        ignored = [part for item in document.ignored.items() for part in item]
        _log.info("%s: settings without effect:" + lines, document.file, *ignored)
