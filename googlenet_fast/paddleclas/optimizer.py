"""Translate PaddleClas's Optimizer section into optimizer and schedule."""

from collections.abc import Callable
from typing import Any

from googlenet_fast.paddleclas.document import Section
from googlenet_fast.paddleclas.values import (
    boolean,
    not_negative,
    numbers,
    positive,
    text,
)

Fields = dict[str, Any]


def read_optimizer(section: Section, epochs: int) -> tuple[Fields, Fields]:
    """Return the fields of `OptimizerConfig` and `ScheduleConfig` for a run of `epochs`."""
    section.fixed("name", ["Momentum"], "the optimizer is Momentum")
    section.ignore({"multi_precision": "the weights are fp32 in mixed precision too"})
    for key in ("no_weight_decay_name", "one_dim_param_no_weight_decay"):
        section.fixed(key, [False], "the L2 penalty applies to all parameters")
    optimizer = {
        "momentum": section.need("momentum", not_negative),
        "nesterov": section.take("use_nesterov", boolean, False),
        "weight_decay": _weight_decay(section),
        "decay_bias_and_norm": True,
    }
    schedule = _read_schedule(section.section("lr"), epochs)
    return optimizer | {"lr": schedule.pop("lr")}, schedule


def _weight_decay(section: Section) -> float:
    """Return the L2 penalty; a regularizer overrides weight_decay, as in PaddleClas."""
    if "regularizer" not in section:
        return section.take("weight_decay", not_negative, 0.0)
    section.ignore({"weight_decay": "the regularizer overrides it"})
    regularizer = section.section("regularizer")
    regularizer.fixed("name", ["L2"], "the penalty is L2")
    return regularizer.need("coeff", not_negative)


def _read_schedule(lr: Section, epochs: int) -> Fields:
    name = lr.take("name", text, "Constant")
    if name not in _SCHEDULES:
        lr.refuse("name", f"{name!r} is not supported; choose one of {', '.join(_SCHEDULES)}")
    lr.fixed("last_epoch", [-1], "a run is continued with Global.checkpoints")
    lr.ignore({"verbose": "the learning rate is in every step line"})
    by_epoch = lr.take("by_epoch", boolean, False)
    warmup = lr.take("warmup_epoch", not_negative, 0.0)
    if warmup != int(warmup) and (by_epoch or name in ("Cosine", "Linear")):
        lr.refuse("warmup_epoch", f"{warmup} must be a whole number here, as in PaddleClas")
    if by_epoch and warmup and name == "Linear":
        lr.refuse("by_epoch", "PaddleClas's Linear then counts warm-up steps as epochs")
    if name == "Constant" and warmup:
        lr.refuse("warmup_epoch", "Constant has no warm-up; use ConstLR")
    start = lr.take("warmup_start_lr", not_negative, 0.0)
    fields = _SCHEDULES[name](lr, epochs)
    if warmup and start >= fields["lr"]:
        lr.refuse("warmup_start_lr", f"{start:g} must be less than the learning rate")
    return {"warmup_epochs": warmup, "warmup_lr": start, "by_epoch": by_epoch, **fields}


def _cosine(lr: Section, epochs: int) -> Fields:
    return {
        "name": "cosine",
        "lr": lr.need("learning_rate", positive),
        "final_lr": lr.take("eta_min", not_negative, 0.0),
    }


def _linear(lr: Section, epochs: int) -> Fields:
    lr.ignore({"cycle": "the run ends with the first cycle"})
    return {
        "name": "polynomial",
        "lr": lr.need("learning_rate", positive),
        "final_lr": lr.take("end_lr", not_negative, 0.0),
        "power": lr.take("power", positive, 1.0),
    }


def _step(lr: Section, epochs: int) -> Fields:
    return {
        "name": "step",
        "lr": lr.need("learning_rate", positive),
        "step_epochs": lr.need("step_size", positive),
        "gamma": lr.need("gamma", positive),
    }


def _multi_step(lr: Section, epochs: int) -> Fields:
    rate = lr.need("learning_rate", positive)
    gamma = lr.take("gamma", positive, 0.1)
    boundaries = _boundaries(lr, "milestones")
    return _steps(boundaries, [rate * gamma**i for i in range(len(boundaries) + 1)])


def _piecewise(lr: Section, epochs: int) -> Fields:
    """Return the given values; with a learning_rate, a tenth of it every 30 epochs."""
    if "learning_rate" in lr:
        rate = lr.need("learning_rate", positive)
        because = "learning_rate overrides it in PaddleClas: a tenth every 30 epochs"
        lr.ignore({"decay_epochs": because, "values": because})
        boundaries = [float(epoch) for epoch in range(30, epochs, 30)]
        return _steps(boundaries, [rate * 0.1**i for i in range(len(boundaries) + 1)])
    boundaries = _boundaries(lr, "decay_epochs")
    values = lr.need("values", numbers)
    if len(values) != len(boundaries) + 1 or min(values) <= 0:
        lr.refuse("values", f"{values} must be one more than decay_epochs, each more than 0")
    return _steps(boundaries, values)


def _constant(lr: Section, epochs: int) -> Fields:
    return {"name": "constant", "lr": lr.need("learning_rate", positive)}


def _steps(boundaries: list[float], values: list[float]) -> Fields:
    return {"name": "piecewise", "lr": values[0], "boundaries": boundaries, "values": values}


def _boundaries(lr: Section, key: str) -> list[float]:
    epochs = lr.need(key, numbers)
    if epochs != sorted(set(epochs)):
        lr.refuse(key, f"{epochs} must rise")
    return epochs


_SCHEDULES: dict[str, Callable[[Section, int], Fields]] = {
    "Cosine": _cosine, "Piecewise": _piecewise, "Linear": _linear, "Step": _step,
    "MultiStepDecay": _multi_step, "ConstLR": _constant, "Constant": _constant,
}  # fmt: skip
