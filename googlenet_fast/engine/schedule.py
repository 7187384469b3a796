"""The learning rate as a pure function of the step."""

import math

from googlenet_fast.engine.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, lr: float, epoch: float, epochs: int) -> float:
    """What to multiply the base learning rate by.

    Args:
        schedule: the shape of warm-up and decay.
        lr: base learning rate, which `final_lr` is relative to.
        epoch: epochs trained so far, with their fraction.
        epochs: epochs in all.
    """
    warmup = min(schedule.warmup_epochs, epochs)
    if epoch < warmup:
        return epoch / warmup
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        return schedule.gamma ** math.floor(epoch / schedule.step_epochs)
    progress = min((epoch - warmup) / max(epochs - warmup, 1e-9), 1.0)
    if schedule.name == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay = (1 - progress) ** schedule.power
    floor = schedule.final_lr / lr
    return floor + (1 - floor) * decay
