"""PaddleClas configurations: every key honoured, named as ignored, or refused with its path."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from googlenet_fast import evaluate, predict, train
from googlenet_fast.engine.config import ScheduleConfig, TrainConfig, load_config
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.engine.schedule import learning_rate
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.paddleclas.document import Document
from googlenet_fast.paddleclas.optimizer import read_optimizer
from tests.engine.runs import start_torchrun

GOOGLENET = Path(__file__).with_name("GoogLeNet.yaml")
GOLDEN = Path(__file__).parents[1] / "golden" / "paddle_learning_rates.json"
CASES = json.loads(GOLDEN.read_text())["cases"]


def load(*overrides: str) -> TrainConfig:
    return load_config(["-c", str(GOOGLENET), *(a for o in overrides for a in ("-o", o))])


def test_the_reference_configuration_is_our_imagenet_recipe() -> None:
    config = load()
    recipe = load_config(["-c", "imagenet"])
    assert config.optimizer == recipe.optimizer
    assert config.schedule == recipe.schedule
    assert (config.epochs, config.save_interval, config.log_interval) == (200, 1, 10)
    assert (config.amp, config.loss_scale, config.dynamic_loss_scale) == ("off", 128.0, True)
    assert (config.device, config.output) == ("cuda", Path("output/GoogLeNet"))
    assert (config.model.preset, config.model.num_classes) == ("paddleclas", 1000)
    data = config.data
    assert (data.image_size, data.eval_size, data.resize_size) == (224, 224, 256)
    assert data.resize == recipe.data.resize == "cv2"
    assert (data.batch_size, data.num_workers, data.flip) == (64, 4, 0.5)
    assert (data.shuffle, data.drop_last) == (True, False)
    assert data.train_list == Path("dataset/ILSVRC2012/train_list.txt")
    assert data.val_list == Path("dataset/ILSVRC2012/val_list.txt")


CROP = "DataLoader.Train.dataset.transform_ops.1.RandCropImage"


def test_overrides_reach_what_they_name() -> None:
    config = load(
        "Global.epochs=120", "AMP.use_amp=True", f"{CROP}.size=192", f"{CROP}.scale=[0.2, 1]",
        "AMP.use_dynamic_loss_scaling=False", "EMA.decay=0.99", "Global.update_freq=2",
        "DataLoader.Eval.dataset.image_root=elsewhere", "Optimizer.lr.learning_rate=1e-3",
        "Optimizer.use_nesterov=true", "Global.eval_during_train=False", "Global.save_interval=-1",
    )  # fmt: skip
    assert (config.epochs, config.amp, config.dynamic_loss_scale) == (120, "auto", False)
    assert (config.data.image_size, config.data.eval_size) == (192, 224)
    assert config.data.min_area == 0.2
    assert (config.ema_decay, config.accumulate, config.data.drop_last) == (0.99, 2, True)
    assert (config.data.root, config.data.val_root) == (
        Path("dataset/ILSVRC2012"),
        Path("elsewhere"),
    )
    assert (config.optimizer.lr, config.optimizer.nesterov) == (0.001, True)
    assert (config.eval_interval, config.save_interval) == (120, None)


def test_older_files_name_the_classes_elsewhere_and_have_no_amp(tmp_path: Path) -> None:
    values = yaml.safe_load(GOOGLENET.read_text())
    del values["AMP"], values["Arch"]["class_num"]
    values["Global"]["class_num"] = 100
    values["Metric"] = {"Eval": [{"TopkAcc": {"topk": [1, 5]}}]}
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump(values))
    config = load_config(["-c", str(file)])
    assert (config.model.num_classes, config.amp) == (100, "off")
    assert config.data == load().data
    assert load_config(["-c", str(file), "-o", "AMP.use_amp=True"]).amp == "auto"


EVAL_RESIZE = "DataLoader.Eval.dataset.transform_ops.1.ResizeImage"


@pytest.mark.parametrize(
    ("overrides", "resize", "noted"),
    [
        ([f"{EVAL_RESIZE}.interpolation=bilinear", f"{EVAL_RESIZE}.backend=cv2"], "cv2", None),
        ([f"{EVAL_RESIZE}.interpolation=bicubic"], "cv2", "interpolation: ignored because images"),
        (
            [
                *(f"{key}.backend=pil" for key in (EVAL_RESIZE, CROP)),
                *(f"{key}.interpolation=bilinear" for key in (EVAL_RESIZE, CROP)),
            ],
            "pillow",
            None,
        ),
        ([f"{EVAL_RESIZE}.backend=pil"], "pillow", "interpolation: ignored because images are"),
        ([f"{CROP}.backend=pil"], "cv2", "backend: ignored because training crops are resized"),
    ],
)
def test_the_filter_is_that_of_the_backend(
    overrides: list[str], resize: str, noted: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "googlenet_fast")
    before = load()
    assert before.data.resize == "cv2"
    caplog.clear()
    assert load(*overrides).data.resize == resize
    if noted is None:
        assert "interpolation" not in caplog.text
        assert "backend" not in caplog.text
    else:
        assert noted in caplog.text
    with pytest.raises(GoogLeNetError, match=r"ResizeImage\.backend: 'dali' is not supported"):
        load(f"{EVAL_RESIZE}.backend=dali")


def test_own_flags_override_the_translation() -> None:
    assert load_config(["-c", str(GOOGLENET), "--device", "cpu", "--epochs=3"]).epochs == 3


def test_what_has_no_effect_is_told_once_by_the_first_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "googlenet_fast")
    load("Global.use_visualdl=True")
    (record,) = caplog.records
    named = [line.split(":")[0].strip() for line in record.message.splitlines()[1:]]
    assert named == [
        "Global.use_visualdl", "Global.save_inference_dir", "Loss.Eval",
        "Metric.Train.0.GoogLeNetTopkAcc.topk",
        "DataLoader.Train.loader.use_shared_memory",
        "DataLoader.Eval.loader.use_shared_memory", "Infer.PostProcess.class_id_map_file",
    ]  # fmt: skip
    assert all(": ignored because " in line for line in record.message.splitlines()[1:])
    monkeypatch.setenv("RANK", "1")
    load()
    assert len(caplog.records) == 1


def test_a_checkpoint_of_paddle_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "latest.pdparams").touch()
    with pytest.raises(GoogLeNetError, match="start from its weights with Global"):
        load(f"Global.checkpoints={tmp_path / 'latest'}")
    (tmp_path / "last.pt").touch()
    (tmp_path / "latest.pdparams").unlink()
    assert load(f"Global.checkpoints={tmp_path / 'latest'}").resume == str(tmp_path / "last.pt")


def test_overrides_need_a_configuration_of_paddleclas() -> None:
    with pytest.raises(GoogLeNetError, match=r"-o a=1: .*is not a PaddleClas configuration"):
        load_config(["-c", "digits", "-o", "a=1"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_learning_rates_equal_paddles(case: dict[str, Any]) -> None:
    document = Document(GOOGLENET, {"momentum": 0.9, "lr": case["lr"]})
    optimizer, fields = read_optimizer(document.top, case["epochs"])
    document.finish()
    schedule = ScheduleConfig(**fields)
    steps, epochs = case["steps_per_epoch"], case["epochs"]
    rates = [
        learning_rate(schedule, optimizer["lr"], step, steps, epochs)
        for step in range(steps * epochs)
    ]
    assert rates == pytest.approx(case["learning_rates"], rel=1e-9, abs=1e-15)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A file beside 13 training and five validation photos of two classes, in PaddleClas's layout.

    Its paths are relative to the working directory, its folder.
    """
    values = yaml.safe_load(GOOGLENET.read_text())
    root = Path("ILSVRC 2012 é")
    for split, name, count in (("Train", "train", 13), ("Eval", "val", 5)):
        lines = []
        for i in range(count):
            image = root / name / f"{i % 2}" / f"{i}.jpg"
            (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
            color = (250 * (i % 2), 99, 20 * i)
            Image.new("RGB", (70 + i, 80), color).save(tmp_path / image)
            lines.append(f"{image.relative_to(root)} {i % 2}\n")
        (tmp_path / root / f"{name}_list.txt").write_text("".join(lines))
        values["DataLoader"][split]["dataset"] |= {
            "image_root": str(root), "cls_label_path": str(root / f"{name}_list.txt"),
        }  # fmt: skip
    (tmp_path / root / "names.txt").write_text("0 dull\n1 bright red\n")
    values["Infer"]["PostProcess"]["class_id_map_file"] = str(root / "names.txt")
    values["Infer"]["infer_imgs"] = str(root / "val")
    file = tmp_path / "my net.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


SMALL = (
    "-o", "Global.device=cpu", "-o", "Arch.class_num=2", "-o", f"{CROP}.size=192",
    "-o", "DataLoader.Train.sampler.batch_size=4", "-o", "Optimizer.lr.learning_rate=1e-5",
)  # fmt: skip


@pytest.mark.slow
def test_one_file_trains_evaluates_and_predicts(
    configuration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: Any, *more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", "-c", configuration.name, *SMALL, *more])
        command.main()
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    out = run(train, "-o", "Global.epochs=1")
    assert "1 epochs of 4 steps, batch 4 x 1 x 1 processes on cpu" in out
    result = json.loads(out.rpartition("RESULT ")[2])
    assert sorted(p.name for p in (tmp_path / "output/GoogLeNet").glob("*.pt")) == [
        "best.pt", "epoch_1.pt", "last.pt",
    ]  # fmt: skip
    weights = ("-o", "Global.pretrained_model=output/GoogLeNet/best_model")
    evaluation = json.loads(run(evaluate, *weights, "--json"))
    assert evaluation["images"] == 5
    assert evaluation["top1"] == result["top1"]
    assert math.isclose(evaluation["loss"], result["loss"], rel_tol=1e-4)
    predictions = json.loads(run(predict, *weights, "--json"))["predictions"]
    assert len(predictions) == 5
    assert {c["class"] for c in predictions[0]["classes"]} == {"dull", "bright red"}
    one = json.loads(run(predict, *weights, "--json", "ILSVRC 2012 é/val/0/0.jpg"))
    assert len(one["predictions"]) == 1


WORKER = """
import os
from pathlib import Path
from googlenet_fast import train

os.chdir(Path(__file__).parent)
train.main()
"""


@pytest.mark.slow
def test_torchrun_takes_the_file_with_batches_per_process(
    configuration: Path, tmp_path: Path
) -> None:
    script, log = tmp_path / "worker.py", tmp_path / "log"
    script.write_text(WORKER)
    agent = start_torchrun(
        log, "--standalone", "--nproc-per-node=2", "--run-path", "--start-method=fork",
        str(script), "-c", configuration.name, *SMALL, "-o", "Global.epochs=3",
        "-o", "Global.print_batch_step=1", "-o", "Optimizer.lr.warmup_epoch=1",
    )  # fmt: skip
    agent.join(240)
    text = log.read_text()
    assert agent.exitcode == 0, text
    assert "3 epochs of 2 steps, batch 4 x 1 x 2 processes on cpu" in text
    assert text.count("settings without effect:") == 1
    logged = read_metrics(tmp_path / "output/GoogLeNet/metrics.jsonl")
    rates = [line["lr"] for line in logged if line["kind"] == "train"]
    warmup, cosine = [0, 0.5], [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert rates == pytest.approx([1e-5 * share for share in warmup + cosine])
