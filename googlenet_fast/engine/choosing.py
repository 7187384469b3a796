"""Which candidate a run or a command computes with: decided by whole steps on this device."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.capture import capturer_for
from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.cli import ClassifierOptions
from googlenet_fast.engine.build import build_train_step
from googlenet_fast.engine.candidates import CANDIDATES, OURS, Candidate, Compile
from googlenet_fast.engine.config import TrainConfig
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trials import (
    Batch,
    Clock,
    InferenceTrial,
    TrainingTrial,
    seconds_per_call,
)
from googlenet_fast.engine.whole_steps import Choice, choose, wanted
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import count_calls
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.graphed import GraphedNetwork
from googlenet_fast.model.precision import amp_dtype
from googlenet_fast.model.presets import Preset
from googlenet_fast.registry import requested
from googlenet_fast.selfcheck.autotune import is_search_wanted, seconds_of

APART = 0.1
"""Share of the measured step by which the sum of its parts may differ without a remark."""

UNTIMED = {
    *("data", "schedule", "epochs", "seed", "device", "amp", "loss_scale", "compile", "autotune"),
    *("eval_interval", "save_interval", "log_interval", "checkpoint_interval"),
    *("max_nonfinite_steps", "timeout", "output", "resume"),
}
"""Settings on which the time of a step does not depend, or which `Batch` has."""


@dataclass(frozen=True)
class Chosen:
    """What a training run computes with."""

    training: Candidate = OURS
    evaluation: Candidate = OURS

    def state(self, device: torch.device) -> dict[str, str]:
        """Return what a checkpoint keeps of it."""
        names = {"training": self.training.name, "evaluation": self.evaluation.name}
        return {**names, "device": device.type}

    @classmethod
    def of(cls, saved: Mapping[str, str], device: torch.device) -> "Chosen | None":
        """Return what a checkpoint keeps; None if it was chosen on another type of device."""
        names = saved["training"], saved["evaluation"]
        if set(names) != {OURS.name} and saved["device"] != device.type:
            return None
        training, evaluation = (CANDIDATES[name] for name in names)
        return cls(training, evaluation)


def compares_steps(config: TrainConfig, steps: int, device: torch.device) -> bool:
    """Return True if a run of so many steps starts with a comparison of whole steps.

    `--compile` has made the choice already.
    """
    return not config.compile and is_search_wanted(config.autotune, steps, device)


def choose_for_run(
    config: TrainConfig,
    model: GoogLeNet,
    steps: int,
    process: Process,
    log: Callable[[str], None],
    *,
    clock: Clock = seconds_per_call,
    compile: Compile = torch.compile,
) -> Chosen:
    """Time whole steps of a run and its evaluation; return the fastest candidates that are right.

    Args:
        config: of the run.
        model: its network, which stays as it is.
        steps: of the run.
        process: this one; all of them call this function.
        log: gets a line for each comparison.
        clock: times a call.
        compile: compiles a network.
    """
    amp = amp_dtype(config.amp, process.device)
    data = config.data
    batch = Batch(data.batch_size, data.image_size, amp, process.device, config.graph)
    trial = TrainingTrial(
        model,
        lambda switch: build_train_step(
            config, switch, process, capturer_for(config.graph, process.device), alone=True
        ),
        batch,
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
        loss_scale=config.loss_scale,
        clock=clock,
        compile=compile,
    )
    candidates = wanted(steps, always=config.autotune == "on")
    training = choose(
        "whole steps", _question(config, model.num_classes, batch), candidates, trial, process
    )
    log(training.line)
    on_gpu = process.device.type == "cuda"
    if on_gpu and process.is_main and training.timed and OURS.name in training.seconds:
        line = parts_line(trial, model, batch, config.accumulate, training.seconds[OURS.name])
        if line is not None:
            log(line)
    # A network is frozen anew for each evaluation: compiling it would take longer than it does.
    evaluation = choose_for_inference(
        freeze(model, amp),
        model.preset,
        batch._replace(image_size=data.eval_size or data.image_size),
        [candidate for candidate in candidates if not candidate.compiled],
        process,
        clock=clock,
        compile=compile,
    )
    log(evaluation.line)
    return Chosen(training.candidate, evaluation.candidate)


def choose_for_inference(
    network: Callable[[Tensor], Tensor],
    preset: Preset,
    batch: Batch,
    candidates: list[Candidate],
    process: Process,
    *,
    clock: Clock = seconds_per_call,
    compile: Compile = torch.compile,
) -> Choice:
    """Time the logits of a frozen network; return the `Choice` among the candidates."""
    trial = InferenceTrial(network, preset.normalization, batch, clock=clock, compile=compile)
    question = {"mode": "inference", "preset": repr(preset), **_described(batch)}
    return choose("evaluation", question, candidates, trial, process)


def compute_fastest(
    options: ClassifierOptions, classifier: Classifier, images: int, process: Process
) -> Callable[[Tensor], Tensor]:
    """Return what computes the logits of so many images; long commands compare candidates.

    Args:
        options: of the command.
        classifier: its network.
        images: of all processes.
        process: this one; all of them call this function.
    """
    preprocessing = classifier.preprocessing
    amp, device = classifier.amp_dtype, classifier.device
    batch = Batch(options.batch_size, preprocessing.image_size, amp, device, options.graph)
    steps = images // (batch.size * process.world_size)
    if not is_search_wanted(options.autotune, steps, device):
        return classifier.compute
    network = classifier.network
    candidates = wanted(steps, always=options.autotune == "on")
    choice = choose_for_inference(network, network.preset, batch, candidates, process)
    if process.is_main:
        logging.getLogger("googlenet_fast").info(choice.line)
    compute = choice.candidate.for_inference(network)
    return GraphedNetwork(compute, capturer_for(options.graph, device), batch.size)


def parts_line(
    trial: TrainingTrial,
    model: GoogLeNet,
    batch: Batch,
    accumulate: int,
    whole: float,
    seconds_of: Callable[..., float | None] = seconds_of,
) -> str | None:
    """Compare the times of a step's parts, as the kernel search has them, with the step's.

    None where a part cannot be measured.
    """
    size, amp, device = batch.image_size, batch.amp, batch.device
    counts = count_calls(model, batch.size, size, amp, device, training=True)
    try:
        ops = seconds_of(counts, str(device))
        rest = trial.rest()
    except RuntimeError:  # of memory: the comparison is for information
        return None
    if ops is None:
        return None
    total = accumulate * ops + rest
    line = (
        f"kernel search: ops {1000 * accumulate * ops:.2f} ms and the rest {1000 * rest:.2f} ms "
        f"are {total / whole:.0%} of the measured step of {1000 * whole:.2f} ms"
    )
    if abs(total / whole - 1) > APART:
        line += "; more than 10 % apart, so the choice per op may not be the best"
    return line


def _question(config: TrainConfig, num_classes: int, batch: Batch) -> dict[str, Any]:
    """Return all settings that the time of a step depends on."""
    settings = dataclasses.asdict(config)
    settings["model"] |= {"weights": None, "num_classes": num_classes}
    settings["optimizer"] |= {"lr": None}
    settings["ema_decay"] = config.ema_decay is not None
    kept = {name: value for name, value in settings.items() if name not in UNTIMED}
    return {"mode": "training", **kept, **_described(batch)}


def _described(batch: Batch) -> dict[str, Any]:
    described = {"batch": batch.size, "image_size": batch.image_size, "graph": batch.graph}
    return {**described, "amp": str(batch.amp), "impl": requested()}
