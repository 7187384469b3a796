"""Runs of several processes: they equal one, change in number, and notice one that is lost."""

from pathlib import Path

import pytest

from googlenet_fast.engine import trainer
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.model import GoogLeNet
from tests.engine.runs import Prepare, Run, arguments

EXACT = ("--model.preset", "paper", "--model.dropout", "0", "--optimizer.lr", "3e-4")
"""Without batch norm and dropout, whose outcome depends on how a batch is divided."""


def in_double() -> None:
    """Let the network compute in float64, where rounding hides nothing."""
    build, forward = trainer.build_model, GoogLeNet.forward
    trainer.build_model = lambda *args: build(*args).double()
    GoogLeNet.forward = lambda model, images: forward(model, images.double())  # type: ignore[method-assign]


@pytest.mark.parametrize("prepare", [None, in_double])
def test_two_processes_equal_one(prepare: Prepare | None, few_digits: Path, tmp_path: Path) -> None:
    """20 steps of the same global batch. In float32 rounding flips a few ReLUs, from where on the
    weights differ by more than rounding; in float64 it does not."""
    options = (*EXACT, "--log_interval", "1")
    two = arguments(few_digits, tmp_path / "two", *options, "--data.batch_size", "2")
    one = arguments(few_digits, tmp_path / "one", *options)
    Run(tmp_path / "two.log", two, 2, prepare).finish()
    Run(tmp_path / "one.log", one, 1, prepare).finish()
    metrics = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert metrics[0][-1]["step"] == 20
    loss, weight = (1e-2, 5e-3) if prepare is None else (1e-7, 1e-13)  # evaluated in float32
    for ours, theirs in zip(*metrics, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=loss if ours["step"] > 5 else 1e-5)
    expected, weights = (load_checkpoint(tmp_path / n / "last.pt")["model"] for n in ("one", "two"))
    for key, tensor in expected.items():
        assert (weights[key] - tensor).norm() <= weight * tensor.norm()
