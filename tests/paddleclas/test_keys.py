"""What becomes of each key of a PaddleClas configuration, and of hostile values and files."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.paddleclas import read_document, translate

GOOGLENET = Path(__file__).with_name("GoogLeNet.yaml")


def leaves(node: Any, path: str = "") -> list[str]:
    if isinstance(node, dict) and node:
        return [leaf for k, v in node.items() for leaf in leaves(v, f"{path}.{k}".strip("."))]
    if isinstance(node, list) and node and isinstance(node[0], dict):
        return [leaf for i, v in enumerate(node) for leaf in leaves(v, f"{path}.{i}")]
    return [path]


LEAVES = leaves(yaml.safe_load(GOOGLENET.read_text()))


def translated(*overrides: str, file: Path = GOOGLENET) -> dict[str, Any]:
    """What our commands take, by command and name. Any file does for the weights."""
    document = read_document(
        file, [f"Global.pretrained_model={GOOGLENET}", "AMP.use_amp=True", *overrides]
    )
    assert document is not None
    config = translate(document)
    values = {
        "train": config.train_values(),
        "evaluate": config.evaluate_options() | config.evaluate_data(),
        "predict": config.predict_options(),
    }
    return flat(values)


@cache
def unchanged() -> dict[str, Any]:
    return translated()


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return found


IGNORED = "ignored"
TRAIN, EVAL = "DataLoader.Train", "DataLoader.Eval"
TRANSFORMS = (
    f"{TRAIN}.dataset.transform_ops", f"{EVAL}.dataset.transform_ops", "Infer.transforms",
)  # fmt: skip
CHANNELS_LAST = "the other transforms take channels last"
FATES: dict[str, tuple[Any, dict[str, Any] | str]] = {
    "Global.checkpoints": (GOOGLENET, {"train.resume": str(GOOGLENET)}),
    "Global.pretrained_model": (
        __file__,
        {
            "train.model.weights": __file__,
            "evaluate.weights": Path(__file__),
            "predict.weights": Path(__file__),
        },
    ),
    "Global.output_dir": ("here", {"train.output": "here/GoogLeNet"}),
    "Global.device": (
        "cpu", {"train.device": "cpu", "evaluate.device": "cpu", "predict.device": "cpu"}
    ),
    "Global.save_interval": (5, {"train.save_interval": 5}),
    "Global.eval_during_train": (False, {"train.eval_interval": 200}),
    "Global.eval_interval": (3, {"train.eval_interval": 3}),
    "Global.epochs": (120, {"train.epochs": 120}),
    "Global.print_batch_step": (7, {"train.log_interval": 7}),
    "Global.use_visualdl": (True, IGNORED),
    "Global.image_shape": ([3, 192, 192], IGNORED),
    "Global.save_inference_dir": ("there", IGNORED),
    "AMP.use_amp": (False, {"train.amp": "off"}),
    "AMP.use_fp16_test": (True, {"evaluate.amp": "auto", "predict.amp": "auto"}),
    "AMP.scale_loss": (1024.0, {"train.loss_scale": 1024.0}),
    "AMP.use_dynamic_loss_scaling": (False, {"train.dynamic_loss_scale": False}),
    "AMP.use_promote": (True, IGNORED),
    "AMP.level": ("O2", IGNORED),
    "Arch.name": ("ResNet50", "this trains GoogLeNet"),
    "Arch.class_num": (102, {"train.model.num_classes": 102}),
    "Loss.Train.0.GoogLeNetLoss.weight": (0.5, IGNORED),
    "Loss.Eval.0.GoogLeNetLoss.weight": (0.5, IGNORED),
    "Optimizer.name": ("AdamW", "the optimizer is Momentum"),
    "Optimizer.momentum": (0.8, {"train.optimizer.momentum": 0.8}),
    "Optimizer.lr.name": (
        "Linear", {"train.schedule.name": "polynomial", "train.schedule.power": 1.0}
    ),
    "Optimizer.lr.learning_rate": (0.1, {"train.optimizer.lr": 0.1}),
    "Optimizer.lr.warmup_epoch": (2, {"train.schedule.warmup_epochs": 2.0}),
    "Optimizer.regularizer.name": ("L1", "the penalty is L2"),
    "Optimizer.regularizer.coeff": (5e-5, {"train.optimizer.weight_decay": 5e-5}),
    f"{TRAIN}.dataset.name": ("CIFAR10", "images come from a list"),
    f"{TRAIN}.dataset.image_root": ("photos", {"train.data.root": "photos"}),
    f"{TRAIN}.dataset.cls_label_path": ("a.txt", {"train.data.train_list": "a.txt"}),
    f"{TRAIN}.dataset.transform_ops.1.RandCropImage.size": (192, {"train.data.image_size": 192}),
    f"{TRAIN}.dataset.transform_ops.2.RandFlipImage.flip_code": (0, "flipped horizontally"),
    f"{TRAIN}.sampler.name": ("PKSampler", "the sampler is the distributed one"),
    f"{TRAIN}.sampler.batch_size": (32, {"train.data.batch_size": 32}),
    f"{TRAIN}.sampler.drop_last": (True, {"train.data.drop_last": True}),
    f"{TRAIN}.sampler.shuffle": (False, {"train.data.shuffle": False}),
    f"{TRAIN}.loader.num_workers": (8, {"train.data.num_workers": 8}),
    f"{TRAIN}.loader.use_shared_memory": (True, IGNORED),
    f"{EVAL}.dataset.name": ("CIFAR10", "images come from a list"),
    f"{EVAL}.dataset.image_root": (
        "photos", {"train.data.val_root": "photos", "evaluate.root": Path("photos")}
    ),
    f"{EVAL}.dataset.cls_label_path": (
        "b.txt", {"train.data.val_list": "b.txt", "evaluate.list": Path("b.txt")}
    ),
    f"{EVAL}.dataset.transform_ops.1.ResizeImage.resize_short": (
        300, {"train.data.resize_size": 300, "evaluate.resize_size": 300}
    ),
    f"{EVAL}.dataset.transform_ops.2.CropImage.size": (
        192, {"train.data.eval_size": 192, "evaluate.image_size": 192}
    ),
    f"{EVAL}.sampler.name": ("PKSampler", "the sampler is the distributed one"),
    f"{EVAL}.sampler.batch_size": (32, {"evaluate.batch_size": 32}),
    f"{EVAL}.sampler.drop_last": (True, IGNORED),
    f"{EVAL}.sampler.shuffle": (True, IGNORED),
    f"{EVAL}.loader.num_workers": (8, {"evaluate.num_workers": 8}),
    f"{EVAL}.loader.use_shared_memory": (True, IGNORED),
    "Infer.infer_imgs": ("photos", {"predict.images": [Path("photos")]}),
    "Infer.batch_size": (2, {"predict.batch_size": 2}),
    "Infer.transforms.1.ResizeImage.resize_short": (300, {"predict.resize_size": 300}),
    "Infer.transforms.2.CropImage.size": (192, {"predict.image_size": 192}),
    "Infer.transforms.4.ToCHWImage": ("{'x': 1}", "is not supported"),
    "Infer.PostProcess.name": ("ThreshOutput", "only the most likely classes are printed"),
    "Infer.PostProcess.topk": (3, {"predict.top": 3}),
    "Infer.PostProcess.class_id_map_file": (__file__, {"predict.class_names": Path(__file__)}),
    "Metric.Train.0.GoogLeNetTopkAcc.topk": ([1, 5], IGNORED),
    "Metric.Eval.0.GoogLeNetTopkAcc.topk": ([1, 10], IGNORED),
}  # fmt: skip
for transforms in TRANSFORMS:
    FATES |= {
        f"{transforms}.0.DecodeImage.to_rgb": (False, "preset paddleclas takes RGB"),
        f"{transforms}.0.DecodeImage.channel_first": (True, CHANNELS_LAST),
        f"{transforms}.3.NormalizeImage.scale": ("1.0/128.0", "must be 1.0/255.0"),
        f"{transforms}.3.NormalizeImage.mean": ([0.5, 0.5, 0.5], "preset paddleclas has"),
        f"{transforms}.3.NormalizeImage.std": ([0.5, 0.5, 0.5], "preset paddleclas has"),
        f"{transforms}.3.NormalizeImage.order": ("chw", CHANNELS_LAST),
    }  # fmt: skip


def test_each_key_has_a_fate() -> None:
    assert sorted(FATES) == sorted(LEAVES)


@pytest.mark.parametrize("key", FATES)
def test_each_key_is_honoured_or_named_or_refused(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    value, fate = FATES[key]
    before = unchanged()
    caplog.set_level(logging.INFO, "googlenet_fast")
    if isinstance(fate, dict):
        after = translated(f"{key}={value}")
        assert {k: v for k, v in after.items() if k not in before or v != before[k]} == fate
    elif fate == IGNORED:
        assert translated(f"{key}={value}") == before
        named = key.partition(".0.")[0] if key.startswith("Loss.Eval") else key
        assert f"  {named}: ignored because " in caplog.text
    else:
        with pytest.raises(GoogLeNetError) as error:
            translated(f"{key}={value}")
        assert str(error.value).startswith(f"{GOOGLENET}: {key}")
        assert fate in str(error.value)


def test_weights_may_be_a_url() -> None:
    url = "https://paddle.invalid/GoogLeNet_pretrained.pdparams"
    values = translated(f"Global.pretrained_model={url}")
    commands = ("train.model", "evaluate", "predict")
    assert [values[f"{command}.weights"] for command in commands] == [url] * 3


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("Global.device=cpu", "AMP.use_amp: ignored because CPUs compute in fp32"),
        ("Global.update_freq=2", f"{TRAIN}.sampler.drop_last: ignored because with Global.upd"),
        ("Optimizer.lr={'name': 'Piecewise', 'learning_rate': 1, 'values': [1]}", "lr.values: ig"),
        ("Global.use_dali=True", "Global.use_dali: ignored because DALI reads the images"),
    ],
)
def test_what_one_key_makes_of_another_is_named(
    override: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "googlenet_fast")
    translated(override)
    assert named in caplog.text


@pytest.mark.parametrize("empty", ["", "None"])
def test_what_is_empty_is_as_good_as_absent(empty: str) -> None:
    keys = ("Global.checkpoints", "AMP.level", "Infer.infer_imgs", f"{TRAIN}.dataset.image_root")
    after = translated(*(f"{key}={empty}" for key in keys))
    assert after == unchanged() | {"train.data.root": ".", "predict.images": []}


def test_a_metric_may_name_one_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "googlenet_fast")
    translated("Metric.Eval.0.GoogLeNetTopkAcc.topk=5")
    assert "Metric.Eval" not in caplog.text


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if not leaf.endswith("ToCHWImage")])
def test_a_misspelt_key_is_refused_anywhere(leaf: str) -> None:
    parent, _, key = leaf.rpartition(".")
    with pytest.raises(GoogLeNetError, match="is not supported") as error:
        translated(f"{parent}.{key}_x=1")
    assert f"{parent}.{key}_x: " in str(error.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("Global.epoch=3", "did you mean epochs?"),
        ("Global.epochs=0", "Global.epochs: 0 is not a whole number of 1 or more"),
        ("Global.epochs=True", "Global.epochs: True is not a whole number"),
        ("Global.epochs=" + "9" * 400, "is not less than 2**31"),
        ("Global.epochs=__import__('os').abort()", "is not a whole number"),
        ("Global.epochs.x=1", "Global.epochs has nothing below it"),
        ("Global.epochs", "expected key=value"),
        ("Global.output_dir=[1]", "Global.output_dir: [1] is not a path"),
        ("Global.device=npu", "choose one of gpu, cpu"),
        ("Global.checkpoints=no/such", "looked for no/such, no/such.pt"),
        ("Global.checkpoints=https://a/b.pdparams", "runs continue from files"),
        ("AMP.scale_loss=" + "9" * 400, "AMP.scale_loss: "),
        ("AMP.scale_loss=nan", "AMP.scale_loss: 'nan' is not a number"),
        ("AMP.level=O3", "'O3' is not O1 or O2"),
        ("Optimizer=None", "Optimizer: is missing"),
        ("Optimizer=[]", "Optimizer: [] is not a section"),
        ("Optimizer.clip_norm=1", "Optimizer.clip_norm: is not supported"),
        ("Optimizer.lr.name=OneCycleLR", "choose one of Cosine"),
        ("Optimizer.lr.warmup_epoch=2.5", "must be a whole number"),
        (f"{TRAIN}.dataset.transform_ops.1.RandCropImage.ratio=[0.5, 1]", "RandCropImage.ratio"),
        (f"{TRAIN}.dataset.transform_ops.1.RandCropImage.size=[224, 192]", "side of a square"),
        (f"{TRAIN}.dataset.transform_ops.2={{'AutoAugment': None}}", "2.AutoAugment: is not"),
        (f"{TRAIN}.dataset.transform_ops=[]", "transform_ops: needs DecodeImage"),
        (f"{TRAIN}.dataset.batch_transform_ops=[]", "is not supported"),
        (f"{TRAIN}.dataset.transform_ops.9.X=1", "9 is not an index of that list of 4"),
        (f"{TRAIN}.dataset.transform_ops.3.NormalizeImage.scale=1/0", "is not a number"),
        (f"{TRAIN}.sampler.drop_last=1", "drop_last: 1 is not True or False"),
        ("Loss.Train=[{'CELoss': {'weight': 1}}]", "Train.0.CELoss: is not supported"),
        ("Slim.x=1", "Slim: is not supported"),
        ("a\nb.c=1", r"'a\nb': is not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_its_path(override: str, expected: str) -> None:
    with pytest.raises(GoogLeNetError) as error:
        translated(override)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


LAUGHS = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Global: !!python/object/apply:os.abort []", "could not determine a constructor"),
        ("Global: {epochs: 1, device: cpu, epochs: 2}", "duplicate key 'epochs'"),
        ("Global: {epochs: 2026-99-99}", "'2026-99-99' is not a whole number"),
        ("Global: " + 5000 * "[", "cannot be read as YAML"),
        ("Global: {epochs: 1", "expected ',' or '}'"),
        (f"l0: &l0 [x]\n{LAUGHS}\nGlobal: {{epochs: *l39}}", "its aliases stand for more than"),
        ("Global: &g {epochs: *g}", "its aliases stand for more than"),
        ("Global:", "Global.epochs: is missing"),
        (
            "mode: train\nARCHITECTURE: {name: GoogLeNet}",
            "before 2.2; use the file of 2.2.1 or later",
        ),
    ],
)
def test_hostile_yaml_is_refused_in_a_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "évil name.yaml"
    file.write_text(f"{text}\n", encoding="utf-8")
    with pytest.raises(GoogLeNetError) as error:
        translated(file=file)
    assert str(error.value).startswith(f"{file}: ")
    assert expected in str(error.value)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_merged_mappings_are_no_duplicates(tmp_path: Path) -> None:
    file = tmp_path / "merged.yaml"
    file.write_text("Global: {}\nA: &a {x: 3, y: 5}\nB: {<<: *a, x: 4}\n")
    document = read_document(file)
    assert document is not None
    section = document.top.section("B")
    assert (section.need("x", int), section.need("y", int)) == (4, 5)
