from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.errors import InterpreterError

from benchmarks.network import (
    Block,
    Classifier,
    Convolution,
    Normalization,
    Pool,
    Stage,
    fused_call,
    stages,
)
from benchmarks.tools import traffic
from benchmarks.tools.interpreter_traffic import count_traffic
from benchmarks.tools.roofline import compulsory, eager
from benchmarks.tools.saved_tensors import saved_rows
from googlenet_fast.kernels.launch import INTERPRETED, Launch, launch, observe
from googlenet_fast.model.inception import Widths
from googlenet_fast.ops import inception, use_impl

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter does"),
]

BLOCKS = [stage for stage in stages() if isinstance(stage, Block)]


@triton.jit
def _sum_of_neighbours_kernel(  # type: ignore[no-untyped-def]
    x,
    y,
    N,  # noqa: N803
    BEYOND: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for shift in tl.static_range(3):
        mask = (i + shift > 0) & (i + shift <= N + BEYOND)
        total += tl.load(x + i + (shift - 1), mask=mask, other=0).to(tl.float32)
    tl.store(y + i, total.to(y.dtype.element_ty), mask=i < N)


@triton.jit
def _histogram_kernel(  # type: ignore[no-untyped-def]
    x,
    counts,
    BLOCK: tl.constexpr,  # noqa: N803
):
    bins = tl.load(x + tl.arange(0, BLOCK))
    tl.atomic_add(counts + bins, 1)


def sum_of_neighbours(x: Tensor, y: Tensor, beyond: int = 0) -> None:
    arguments = {"x": x, "y": y, "N": x.numel()}
    launch(
        _sum_of_neighbours_kernel,
        (triton.cdiv(x.numel(), 16),),
        arguments,
        {"BEYOND": beyond, "BLOCK": 16},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8], ids=str)
def test_bytes_count_once_a_launch_and_only_in_active_lanes(dtype: torch.dtype) -> None:
    x = torch.arange(37).to(dtype)
    y = torch.zeros(37, dtype=torch.float32)
    with count_traffic() as counted:
        sum_of_neighbours(x, y)
        sum_of_neighbours(x, y)
    expected = x.float().clone()
    expected[1:] += x[:-1]
    expected[:-1] += x[1:]
    torch.testing.assert_close(y, expected)
    assert [(c.loaded, c.stored) for c in counted] == 2 * [(37 * x.element_size(), 37 * 4)]
    assert counted[0].kernel == "_sum_of_neighbours_kernel"


def test_a_slice_counts_only_what_is_touched_of_its_memory() -> None:
    memory = torch.zeros(100)
    with count_traffic() as counted:
        sum_of_neighbours(memory[10:30], memory[50:70])
    assert [(c.loaded, c.stored) for c in counted] == [(80, 80)]


def test_atomics_load_and_store() -> None:
    bins = torch.tensor([1, 5, 5, 1], dtype=torch.int32)
    counts = torch.zeros(8, dtype=torch.int32)
    with count_traffic() as counted:
        launch(_histogram_kernel, (1,), {"x": bins, "counts": counts}, {"BLOCK": 4})
    assert counts.tolist() == [0, 2, 0, 0, 0, 2, 0, 0]
    assert [(c.loaded, c.stored) for c in counted] == [(16 + 8, 8)]


def test_reaching_beyond_a_tensor_is_an_error() -> None:
    with count_traffic(), pytest.raises(InterpreterError, match="beyond"):
        sum_of_neighbours(torch.zeros(37), torch.zeros(37), beyond=1)


@pytest.mark.parametrize("found", [stages(), stages(lrn=True), stages("paddleclas")])
def test_stages_follow_one_another(found: list[Stage]) -> None:
    sides, channels = 224, 3
    for stage in found:
        assert (stage.side_in, stage.channels) == (sides, channels), stage
        match stage:
            case Convolution():
                sides, channels = stage.side, stage.outputs
            case Pool():
                sides = stage.side
            case Block():
                channels = stage.widths.out_channels
            case Normalization() | Classifier():
                pass
    assert sum(isinstance(stage, Block) for stage in found) == 9


@pytest.mark.parametrize(
    ("model", "training", "megabytes", "launches"),
    [
        (eager, True, 159.03, 462),
        (eager, False, 42.37, 137),
        (compulsory, True, 53.15, 135),
        (compulsory, False, 17.07, 44),
    ],
)
def test_models_of_a_step(model: Any, training: bool, megabytes: float, launches: int) -> None:
    moved = [launch for stage in stages() for launch in model(stage, training, 256)]
    assert round(sum(moved) / 1e6, 2) == megabytes
    assert len(moved) == launches


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_is_4_launches_forward_and_9_backward(block: Block) -> None:
    launches: list[Launch] = []
    with observe(lambda launch, run: launches.append(launch)):
        call = fused_call(block, 256, block.side, torch.float16, training=True)
        y = call.fused()
        assert len(launches) == 4
        y.backward(torch.empty_like(y))
        assert len(launches) <= 4 + 9


@pytest.mark.parametrize(
    "stage",
    [
        Convolution("3x3", 16, 24, 3, 40, 40),
        Convolution("1x1", 80, 24, 1, 40, 40, bias=False, relu=False),
        Pool("pool", 24, 40, 20, bias=True, relu=True),
        Normalization("lrn", 24, 40),
        pytest.param(Block("block", 24, 33, Widths(8, 16, 8, 8, 16, 8)), marks=pytest.mark.slow),
    ],
    ids=lambda stage: stage.name,
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_small_inputs_predict_the_traffic_of_a_larger_one(
    stage: Stage, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "BATCH", 1)
    call = fused_call(stage, 1, stage.side_in, torch.float16, training=training, make=torch.zeros)
    with count_traffic() as counted:
        call.run(training=training)
    predicted = traffic.fused_traffic(stage, training=training)
    assert predicted == [pytest.approx(count.loaded + count.stored) for count in counted]


@pytest.mark.slow
def test_prediction_does_not_depend_on_the_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = traffic.fused_traffic(BLOCKS[0], training=True)
    monkeypatch.setattr(traffic, "SIDES", (3, 5))
    assert traffic.fused_traffic(BLOCKS[0], training=True) == [pytest.approx(m) for m in predicted]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "megabytes", "launches"), [(True, 56, 140), (False, 17.5, 45)]
)
def test_a_step_moves_little_more_than_the_minimum(
    training: bool, megabytes: float, launches: int
) -> None:
    *rows, network = traffic.with_total(traffic.network_rows(training=training))
    for name, passes, ours, least in rows:
        assert passes is not None
        assert least.bytes <= 1.001 * ours.bytes <= 1.2 * least.bytes, name
        assert least.bytes <= passes.bytes
    assert network.ours.bytes <= 1e6 * megabytes
    assert network.ours.launches <= launches


def test_at_most_half_is_saved_for_the_backward_pass() -> None:
    rows = saved_rows()
    assert len(rows) == len(BLOCKS) + 1
    for name, plain, ours in rows:
        assert 0 < ours <= plain / 2, name


class _Operations(TorchDispatchMode):
    """Names of the operations that run, without kernels, views and empty tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "googlenet_fast":
            with self:
                return func._op_dk(torch._C.DispatchKey.CPU, *args, **(kwargs or {}))
        if not (func.is_view or "empty" in func.__name__):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_one_cast_a_pass_runs_beside_a_blocks_kernels() -> None:
    call = fused_call(BLOCKS[0], 1, 4, torch.float32, training=True, make=torch.zeros)
    x, *parameters = call.arguments
    x = x.detach().half().requires_grad_()
    operations = _Operations()
    with (
        use_impl("triton"),
        observe(lambda launch, run: None),
        torch.autocast("cpu", torch.float16),
        operations,
    ):
        y = inception(x, *parameters)
        assert operations.names == ["_foreach_copy_.default"]
        y.backward(torch.empty_like(y))
    assert operations.names == 2 * ["_foreach_copy_.default"]
