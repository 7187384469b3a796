"""Translate the sections of a PaddleClas configuration, except Optimizer and transforms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from googlenet_fast.paddleclas.document import Section
from googlenet_fast.paddleclas.files import find_checkpoint, find_weights
from googlenet_fast.paddleclas.transforms import evaluation_options, training_options
from googlenet_fast.paddleclas.values import (
    boolean,
    count,
    integer,
    number,
    one_or_more,
    path,
    positive,
    positive_integer,
    text,
)

Fields = dict[str, Any]
"""Fields of `TrainConfig` and its sections."""

DEVICES = {"gpu": "cuda", "cpu": "cpu"}

_IGNORED_GLOBAL = {
    "use_dali": "DALI reads the images if it is installed (--data.loader)",
    "use_visualdl": "TensorBoard files are always written",
    "save_inference_dir": "python -m googlenet_fast.export writes the weights for inference",
    "start_eval_epoch": "the first evaluation is after epoch eval_interval",
    "log_ranks": "rank 0 logs",
    "print_mem_info": "every step line has the memory",
    "to_static": "it is for Paddle's graphs; see --compile",
    "export_for_fd": "it is for Paddle's inference models",
    "uniform_output_enabled": "it is for Paddle's inference models",
    "pdx_model_name": "it is for Paddle's inference models",
    "hpi_config_path": "it is for Paddle's inference models",
}


def read_global(section: Section) -> tuple[Fields, Path | str | None]:
    """Return fields of `TrainConfig`, and the weights to start from or to evaluate."""
    section.fixed("eval_mode", ["classification"], "this trains classifiers")
    section.fixed("train_mode", [], "this trains classifiers")
    section.fixed("use_multilabel", [False], "an image has one label")
    device = section.take("device", text, "gpu")
    if device not in DEVICES:
        section.refuse("device", f"{device!r} is not supported; choose one of {', '.join(DEVICES)}")
    epochs = section.need("epochs", positive_integer)
    eval_interval = section.take("eval_interval", positive_integer, 1)
    if not section.take("eval_during_train", boolean, True):
        section.note("eval_during_train", "only the last epoch is evaluated")
        eval_interval = epochs
    checkpoint = find_checkpoint(section, "checkpoints")
    output = section.take("output_dir", path, Path("output")) / "GoogLeNet"
    fields = {
        "epochs": epochs,
        "device": DEVICES[device],
        "output": str(output),
        "resume": None if checkpoint is None else str(checkpoint),
        "eval_interval": eval_interval,
        "save_interval": max(section.take("save_interval", integer, 1), 0) or None,
        "log_interval": section.take("print_batch_step", positive_integer, 10),
        "accumulate": section.take("update_freq", positive_integer, 1),
        "seed": section.take("seed", count, 0),
    }
    section.ignore(_IGNORED_GLOBAL)
    return fields, find_weights(section, "pretrained_model")


def read_amp(section: Section | None, device: str) -> tuple[Fields, str]:
    """Return fields of `TrainConfig`, and the precision of evaluation and prediction.

    "auto" is fp16 only on a GPU, like Paddle's O1. Loss scaling is the same in both: the scale
    doubles after 2000 steps without overflow and halves after an overflow.
    """
    if section is None:
        return {"amp": "off"}, "off"
    use_amp = section.take("use_amp", boolean, True)
    test = section.take("use_fp16_test", boolean, False)
    level = section.take("level", text, "O1")
    if level not in ("O1", "O2"):
        section.refuse("level", f"{level!r} is not O1 or O2")
    if use_amp and device == "cpu":
        section.note("use_amp", "CPUs compute in fp32, as in Paddle")
    if use_amp and level == "O2":
        section.note("level", "O2 is treated as O1: fp16 computation with fp32 weights")
    if use_amp and not test:
        section.note("use_fp16_test", "evaluation during training has the precision of training")
    section.ignore({"use_promote": "casts are those of torch.autocast"})
    fields = {
        "amp": "auto" if use_amp else "off",
        "loss_scale": section.take("scale_loss", positive, 1.0),
        "dynamic_loss_scale": section.take("use_dynamic_loss_scaling", boolean, False),
    }
    return fields, "auto" if use_amp and test else "off"


def read_arch(section: Section, class_num: int | None) -> int:
    """Return the number of classes; `class_num` of Global is the default of Arch's."""
    section.fixed("name", ["GoogLeNet"], "this trains GoogLeNet")
    section.fixed("pretrained", [False], "name weights with Global.pretrained_model")
    section.fixed("use_ml_decoder", [False], "GoogLeNet has its own head")
    section.fixed("use_ssld", [False], "nothing is downloaded")
    section.ignore({
        "use_sync_bn": "this network has no batch norm",
        "data_format": "images and activations are always channels_last",
        "infer_add_softmax": "predictions always come with softmax",
    })  # fmt: skip
    return section.take("class_num", positive_integer, class_num or 1000)


def read_loss(section: Section) -> None:
    """Check that the losses are those of GoogLeNet, with their fixed weights."""
    for key, names in (("Train", ["GoogLeNetLoss"]), ("Eval", ["GoogLeNetLoss", "CELoss"])):
        operators = section.operators(key)
        for index, (name, arguments) in enumerate(operators):
            if name not in names or len(operators) > 1:
                section.refuse(f"{key}.{index}.{name}", f"is not supported; use {names[0]} alone")
            if arguments.take("weight", number, 1.0) != 1:
                arguments.note("weight", "a single loss has weight 1, as in PaddleClas")
            if key == "Eval":
                section.note(key, "the loss of evaluation is the main classifier's cross-entropy")


def read_metric(section: Section) -> None:
    """Check that the metrics are top-k accuracies; only top-1 and top-5 are measured."""
    for key in ("Train", "Eval"):
        for index, (name, arguments) in enumerate(section.operators(key)):
            if name not in ("TopkAcc", "GoogLeNetTopkAcc"):
                section.refuse(f"{key}.{index}.{name}", "is not supported; use TopkAcc")
            measured = {1.0} if key == "Train" else {1.0, 5.0}
            if set(arguments.take("topk", one_or_more, [1.0, 5.0])) - measured:
                shown = "top-1 is" if key == "Train" else "top-1 and top-5 are"
                arguments.note("topk", f"only {shown} measured")


@dataclass(frozen=True)
class Split:
    """A split of DataLoader."""

    list: Path
    root: Path
    delimiter: str
    relabel: bool
    batch_size: int
    shuffle: bool
    drop_last: bool
    num_workers: int
    transforms: Fields


def read_split(loader: Section, key: str) -> Split:
    """Read DataLoader.Train or DataLoader.Eval."""
    train = key == "Train"
    split = loader.section(key)
    dataset, sampler = split.section("dataset"), split.section("sampler")
    dataset.fixed("name", ["ImageNetDataset", "ClsDataset"], "images come from a list")
    read_transforms = training_options if train else evaluation_options
    names = ["DistributedBatchSampler", "BatchSampler"]
    sampler.fixed("name", names, "the sampler is the distributed one")
    shuffle = sampler.take("shuffle", boolean, False)
    drop_last = sampler.take("drop_last", boolean, False)
    if shuffle and not train:
        sampler.note("shuffle", "the order of evaluation makes no difference")
    if drop_last and not train:
        sampler.note("drop_last", "evaluation counts every image once")
    workers = split.section("loader")
    workers.ignore({"use_shared_memory": "the loader decides how images reach the process"})
    return Split(
        list=dataset.need("cls_label_path", path),
        root=dataset.take("image_root", path, Path()),
        delimiter=dataset.take("delimiter", text, " "),
        relabel=dataset.take("relabel", boolean, False),
        batch_size=sampler.need("batch_size", positive_integer),
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=workers.take("num_workers", count, 4),
        transforms=read_transforms(dataset, "transform_ops"),
    )


@dataclass(frozen=True)
class Inference:
    """The Infer section."""

    images: list[Path]
    batch_size: int
    transforms: Fields
    top: int
    class_names: Path | None


def read_infer(section: Section) -> Inference:
    """Read the images to predict and the class names."""
    section.fixed("infer_list", [], "name images or folders")
    section.ignore({"save_dir": "predict --json prints what to save"})
    images = section.take("infer_imgs", path, None)
    post = section.section("PostProcess")
    post.fixed("name", ["Topk"], "only the most likely classes are printed")
    post.fixed("delimiter", [" "], "a line of the names is 'index name'")
    names = post.take("class_id_map_file", path, None)
    if names is not None and not names.is_file():
        post.note("class_id_map_file", f"there is no {names}; the weights name the classes")
        names = None
    return Inference(
        images=[] if images is None else [images],
        batch_size=section.take("batch_size", positive_integer, 10),
        transforms=evaluation_options(section, "transforms"),
        top=post.take("topk", positive_integer, 1),
        class_names=names,
    )
