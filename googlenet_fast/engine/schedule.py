"""The learning rate as a pure function of the step."""

import math
from bisect import bisect_right

from googlenet_fast.engine.config import ScheduleConfig


def learning_rate(
    schedule: ScheduleConfig, lr: float, step: float, steps_per_epoch: int, epochs: int
) -> float:
    """Return the learning rate of a step.

    The formulas are Paddle's (paddle.optimizer.lr: LinearWarmup, CosineAnnealingDecay,
    PolynomialDecay, PiecewiseDecay, StepDecay), composed as in PaddleClas
    (ppcls/optimizer/learning_rate.py): warm-up takes whole steps, and decay counts from its end.

    Args:
        schedule: the shape of warm-up and decay.
        lr: learning rate after warm-up; piecewise uses its first value instead.
        step: steps so far; a fraction if the run had another batch size before.
        steps_per_epoch: steps per epoch.
        epochs: number of epochs.
    """
    if schedule.by_epoch:
        step, steps_per_epoch = step // steps_per_epoch, 1
    if schedule.name == "piecewise":
        lr = schedule.values[0]
    warmup = round(min(schedule.warmup_epochs, epochs) * steps_per_epoch)
    if step < warmup:
        return schedule.warmup_lr + (lr - schedule.warmup_lr) * step / warmup
    return _decayed(schedule, lr, step - warmup, epochs * steps_per_epoch - warmup, steps_per_epoch)


def _decayed(
    schedule: ScheduleConfig, lr: float, step: float, total: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of a step counted from the end of warm-up, of `total` steps."""
    if schedule.name == "constant":
        return lr
    if schedule.name == "step":
        return lr * schedule.gamma ** (step // max(int(schedule.step_epochs * steps_per_epoch), 1))
    if schedule.name == "piecewise":
        boundaries = [epoch * steps_per_epoch for epoch in schedule.boundaries]
        return schedule.values[bisect_right(boundaries, step)]
    progress = min(step / max(total, 1), 1.0)
    if schedule.name == "cosine":
        decay = (1 + math.cos(math.pi * progress)) / 2
    else:
        decay = (1 - progress) ** schedule.power
    return schedule.final_lr + (lr - schedule.final_lr) * decay
