"""Gradients averaged over processes, against PyTorch's DistributedDataParallel."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from googlenet_fast.capture import WARMUP
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.gradient_buckets import GradientBuckets, _parts
from googlenet_fast.engine.optimizer import build_optimizer
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.model import GoogLeNet
from tests.capture_lint import Lint
from tests.capturers import CallsAgain
from tests.engine.runs import finish, free_port, in_environment, warm_process

BYTES = 2000
"""Of a bucket: several of the network below."""


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)
    )
    return network.to(memory_format=torch.channels_last)


def losses(network: Callable[[Tensor], Tensor], rank: int, batches: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    shape = (4, 3, 8, 8)
    images = [torch.randn(shape, generator=generator) for _ in range(batches)]
    return [network(batch).square().mean() for batch in images]


def average_like_ddp(results: Path) -> None:
    """Compare gradients of two rounds, of two batches of which the first does not synchronise."""
    with distributed("cpu") as process:
        ours = small_network()
        theirs = DistributedDataParallel(copy.deepcopy(ours))
        buckets = GradientBuckets(list(ours.parameters()), process.world_size, BYTES)
        assert len(buckets._buckets) > 1
        for batches in (1, 2):
            with theirs.no_sync(), buckets.no_sync():
                for network in (ours, theirs):
                    for loss in losses(network, process.rank, batches)[:-1]:
                        loss.backward()
            for network in (ours, theirs):
                losses(network, process.rank, batches)[-1].backward()
            buckets.join()
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert a.grad is not None
                assert a.grad.stride() == a.stride()
                assert b.grad is not None
                assert torch.equal(a.grad, b.grad)
                a.grad = b.grad = None
    (results / str(process.rank)).touch()


def average_halves(results: Path) -> None:
    """Leaves of two dtypes, with gradients that stay where they are."""
    with distributed("cpu") as process:
        leaves = [torch.ones(3, dtype=torch.float16), torch.ones(5), torch.ones(4)]
        for leaf in leaves:
            leaf.requires_grad_()
        buckets = GradientBuckets(leaves, process.world_size)
        places = [leaf.grad.data_ptr() for leaf in leaves if leaf.grad is not None]
        for _ in range(2):
            loss = torch.stack([leaf.float().sum() for leaf in leaves]).sum()
            (loss * (process.rank + 1)).backward()
            buckets.join()
            for leaf, place in zip(leaves, places, strict=True):
                assert leaf.grad is not None
                assert leaf.grad.data_ptr() == place
                assert leaf.grad.dtype == leaf.dtype
                assert torch.equal(leaf.grad, torch.full_like(leaf, 1.5))
                leaf.grad.zero_()
    (results / str(process.rank)).touch()


def train_in_two_ways(results: Path) -> None:
    """With batch norm over both processes: launched steps, and recorded ones that are called."""
    states = []
    with distributed("cpu") as process:
        for capturer in (None, CallsAgain()):
            torch.manual_seed(0)
            model = GoogLeNet("torchvision", 5, aux=False)
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
            buckets = GradientBuckets(list(model.parameters()), process.world_size)
            optimizer = build_optimizer(model, OptimizerConfig())
            step = TrainStep(model, optimizer, accumulate=2, buckets=buckets, capturer=capturer)
            for number in range(WARMUP + 2):
                torch.manual_seed(10 * number + process.rank)
                for update in (False, True):
                    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
                    labels = torch.randint(5, (2,))
                    step(images, labels, update=update)
            states.append(model.state_dict())
            lint = Lint(step, images, labels)
            problems = lint.check(partial(step._step, images, labels, update=True))
            assert problems == [], problems
            assert capturer is None or capturer.replays == 2 * 2
        for name, tensor in states[0].items():
            assert torch.equal(tensor, states[1][name]), name
            same = process.sum(tensor.double().clone()) / process.world_size
            assert torch.equal(same, tensor.double()), name
    (results / str(process.rank)).touch()


@pytest.mark.parametrize(
    "work",
    [
        average_like_ddp,
        average_halves,
        pytest.param(train_in_two_ways, marks=pytest.mark.slow),
    ],
)
def test_two_processes(work: Callable[[Path], None], tmp_path: Path) -> None:
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        warm_process(in_environment, {**environment, "RANK": str(rank)}, work, tmp_path)
        for rank in range(2)
    ]
    finish(*processes)
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1"}


def test_parts_are_filled_from_the_last_leaf() -> None:
    a, b, c, d = (torch.zeros(n) for n in (1, 2, 3, 4))
    half = torch.zeros(2, dtype=torch.float16)
    parts = _parts([a, b, half, c, d], 24)
    assert [[len(leaf) for leaf in part] for part in parts] == [[4, 3], [2], [2, 1]]
    assert parts[1][0] is half


@pytest.mark.parametrize("backwards", [False, True])
def test_buckets_start_during_the_backward_pass(
    backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as their gradients are there, and in one order whatever that of the gradients."""
    started: list[int] = []

    class Started:
        def wait(self) -> None:
            pass

    def all_reduce(tensor: Tensor, *_: object, async_op: bool) -> Started:
        assert async_op
        started.append(tensor.numel())
        return Started()

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    a, b, c = (torch.ones(n, requires_grad=True) for n in (3, 2, 1))
    buckets = GradientBuckets([c, b, a] if backwards else [a, b, c], 2, bucket_bytes=1)
    first = a.sum()
    first.register_hook(lambda _: started.append(0))  # the gradient that comes last
    (c.sum() * (b.sum() * first)).backward()
    buckets.join()
    assert started == ([0, 3, 2, 1] if backwards else [1, 2, 0, 3])
    for leaf in (a, b, c):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32


def test_a_leaf_without_a_gradient_is_noticed() -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    buckets = GradientBuckets([a, b], 2)
    a.sum().backward()
    with pytest.raises(AssertionError, match="a leaf got no gradient"):
        buckets.join()
    buckets.reset()
    assert buckets._buckets[0].missing == 2
