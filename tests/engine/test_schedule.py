"""Learning-rate schedules against their closed forms and torch's own schedulers."""

import pytest
import torch

from googlenet_fast.engine.config import ScheduleConfig
from googlenet_fast.engine.schedule import learning_rate


def torch_factors(make_scheduler: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer)  # type: ignore[operator]
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_cosine_equals_torch() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_epochs=0)
    ours = [learning_rate(schedule, 1.0, step, 7, 10) for step in range(70)]
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 70), 70)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_polynomial_equals_torch() -> None:
    schedule = ScheduleConfig(name="polynomial", warmup_epochs=0, power=0.5)
    ours = [learning_rate(schedule, 1.0, step, 5, 6) for step in range(30)]
    theirs = torch_factors(
        lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=30, power=0.5), 30
    )
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_step_equals_torch() -> None:
    schedule = ScheduleConfig(name="step", warmup_epochs=0, step_epochs=3, gamma=0.1)
    ours = [learning_rate(schedule, 1.0, step, 4, 12) for step in range(48)]
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.StepLR(o, 12, gamma=0.1), 48)
    assert ours == pytest.approx(theirs)


def test_piecewise_equals_torch() -> None:
    schedule = ScheduleConfig(
        name="piecewise", warmup_epochs=0, boundaries=[2, 5], values=[1.0, 0.1, 0.01]
    )
    ours = [learning_rate(schedule, 7.0, step, 4, 8) for step in range(32)]
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [8, 20], 0.1), 32)
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("name", ["cosine", "step", "polynomial", "constant"])
def test_warm_up_rises_linearly_from_zero(name: str) -> None:
    schedule = ScheduleConfig(name=name, warmup_epochs=2)  # type: ignore[arg-type]
    assert [learning_rate(schedule, 1.0, step, 2, 10) for step in (0, 1, 2, 4)] == [0, 0.25, 0.5, 1]


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_decay_ends_at_final_lr(name: str) -> None:
    schedule = ScheduleConfig(name=name, warmup_epochs=1, final_lr=0.002)  # type: ignore[arg-type]
    assert learning_rate(schedule, 0.1, 20, 2, 10) == pytest.approx(0.002)
    assert learning_rate(schedule, 0.1, 11, 2, 10) > 0.002


def test_warm_up_longer_than_the_run() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_epochs=5)
    rates = [learning_rate(schedule, 0.1, step, 10, 1) for step in range(11)]
    assert rates == pytest.approx([step / 100 for step in range(11)])
