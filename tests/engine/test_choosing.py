"""What a run and the commands compute with, on a CPU with times that are made up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.cli import ClassifierOptions
from googlenet_fast.engine import choosing
from googlenet_fast.engine.candidates import COMPILED_PLAIN, OURS, PLAIN
from googlenet_fast.engine.choosing import (
    Chosen,
    choose_for_run,
    compares_steps,
    compute_fastest,
    parts_line,
)
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trials import Batch, TrainingTrial
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import save_weights
from googlenet_fast.registry import use_impl
from googlenet_fast.selfcheck.autotune import LONG_RUN

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ALONE = Process(0, 1, 0, 1, CPU)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))


def made_up(*seconds: float) -> Callable[[Callable[[], object], torch.device], float]:
    """A clock that tells these times, one after the other."""
    left = list(seconds)

    def clock(call: Callable[[], object], device: torch.device) -> float:
        call()
        return left.pop(0)

    return clock


def test_a_run_takes_the_fastest_in_training_and_in_evaluation() -> None:
    config = load_config(
        ["--model.preset", "paddleclas", "--model.aux", "false", "--data.image_size", "64",
         "--data.batch_size", "2", "--accumulate", "2", "--ema_decay", "0.9"]
    )  # fmt: skip
    torch.manual_seed(0)
    model = GoogLeNet("paddleclas", 10, aux=False)
    lines: list[str] = []
    clock = made_up(0.003, 0.002, 0.001, 0.004)
    found = choose_for_run(config, model, LONG_RUN, ALONE, lines.append, clock=clock)
    assert found == Chosen(PLAIN, OURS)
    assert lines == [
        "whole steps: ours 3.00 ms, plain 2.00 ms: plain",
        "evaluation: ours 1.00 ms, plain 4.00 ms: ours",
    ]
    never = made_up()  # all is known now
    assert choose_for_run(config, model, LONG_RUN, ALONE, lines.append, clock=never) == found
    assert lines[2:] == lines[:2]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_the_times_of_a_step_depend_on() -> None:
    def question(*flags: str, classes: int = 10) -> dict[str, Any]:
        config = load_config(list(flags))
        batch = Batch(config.data.batch_size, 64, None, CPU, "auto")
        return choosing._question(config, classes, batch)

    same = ("--epochs", "7", "--optimizer.lr", "3", "--output", "elsewhere", "--seed", "3")
    assert question() == question(*same)
    assert question(classes=11) != question()
    json.dumps(question())
    for flags in [
        ("--data.batch_size", "7"), ("--model.preset", "paper"), ("--model.aux", "true"),
        ("--model.lrn", "true"), ("--accumulate", "2"), ("--ema_decay", "0.9"),
        ("--optimizer.nesterov", "true"), ("--label_smoothing", "0.1"),
    ]:  # fmt: skip
        assert question(*flags) != question(), flags
    asked = question()
    with use_impl("reference"):
        assert question() != asked


@pytest.mark.parametrize(
    ("arguments", "steps", "device", "expected"),
    [
        ([], LONG_RUN, GPU, True),
        ([], LONG_RUN - 1, GPU, False),
        (["--autotune", "on"], 1, GPU, True),
        (["--autotune", "off"], LONG_RUN, GPU, False),
        (["--compile", "true"], LONG_RUN, GPU, False),
        (["--autotune", "on"], LONG_RUN, CPU, False),
    ],
)
def test_long_runs_on_a_gpu_compare(
    arguments: list[str], steps: int, device: torch.device, expected: bool
) -> None:
    assert compares_steps(load_config(arguments), steps, device) is expected


class FixedRest(TrainingTrial):
    def __init__(self) -> None:
        pass

    def rest(self) -> float:
        return 0.001


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        (0.0055, "91% of the measured step of 5.50 ms"),
        (0.0040, "125% of the measured step of 4.00 ms; more than 10 % apart, so the choice"),
        (0.0100, "50% of the measured step of 10.00 ms; more than 10 % apart, so the choice"),
    ],
)
def test_the_parts_of_a_step_are_compared_with_it(whole: float, expected: str) -> None:
    with torch.device("meta"):
        model = GoogLeNet("paddleclas", 10, aux=False)
    batch = Batch(2, 64, None, GPU, "auto")

    def seconds_of(counts: Any, device: str) -> float:
        assert device == "cuda:0"
        assert sum(n for (op, _), n in counts.items() if op == "inception") == 9
        return 0.002

    line = parts_line(FixedRest(), model, batch, 2, whole, seconds_of)
    assert line is not None
    assert line.startswith("kernel search: ops 4.00 ms and the rest 1.00 ms are " + expected)
    assert parts_line(FixedRest(), model, batch, 2, whole, lambda *_: None) is None


def test_what_a_checkpoint_keeps() -> None:
    chosen = Chosen(COMPILED_PLAIN, PLAIN)
    saved = chosen.state(GPU)
    assert saved == {"training": "compiled plain", "evaluation": "plain", "device": "cuda"}
    assert Chosen.of(saved, GPU) == chosen
    assert Chosen.of(saved, CPU) is None
    assert Chosen.of(Chosen().state(GPU), CPU) == Chosen()


def test_commands_compare_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    save_weights(GoogLeNet("paddleclas", 10, aux=False), tmp_path / "w.pth")
    classifier = Classifier(tmp_path / "w.pth", CPU, batch_size=2, image_size=64)
    caplog.set_level("INFO", "googlenet_fast")
    caplog.clear()
    ours = classifier.compute

    def compute(mode: Any, images: int) -> Any:
        options = ClassifierOptions(batch_size=2, autotune=mode, graph="auto")
        return compute_fastest(options, classifier, images, ALONE)

    assert compute("on", 10**9) is ours  # on a CPU there is nothing to compare
    on_gpu = choosing.is_search_wanted
    monkeypatch.setattr(choosing, "is_search_wanted", lambda m, steps, _: on_gpu(m, steps, GPU))
    timed = choosing.choose_for_inference
    monkeypatch.setattr(
        choosing, "choose_for_inference", lambda *args: timed(*args, clock=made_up(2.0, 1.0))
    )
    assert compute("auto", 2 * LONG_RUN - 1) is ours
    assert compute("off", 10**9) is ours
    assert not caplog.messages
    images = Batch(2, 64, None, CPU, "auto").make(classifier.network.preset.normalization)
    before = classifier.probabilities(images)
    classifier.compute = plain = compute("auto", 2 * LONG_RUN)
    assert caplog.messages == ["evaluation: ours 2000.00 ms, plain 1000.00 ms: plain"]
    assert plain is not ours
    torch.testing.assert_close(classifier.probabilities(images), before, rtol=1e-3, atol=1e-4)
