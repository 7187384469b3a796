import pytest
import torch
from torch import Tensor, nn

import googlenet_fast.ops  # noqa: F401  registers the ops
from googlenet_fast.registry import OPS, Call, Op, call_of
from googlenet_fast.selfcheck.cases import (
    OpCall,
    make_arguments,
    resized,
    tensors_in,
    with_dtype,
)

SAMPLES = [(name, i) for name, op in OPS.items() for i, _ in enumerate(op.samples())]
F16, F32 = torch.float16, torch.float32


def sample(name: str, index: int) -> tuple[Op, Call]:
    return OPS[name], list(OPS[name].samples())[index]


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_arguments_are_as_described_the_same_each_time_and_of_order_1(
    name: str, index: int
) -> None:
    op, call = sample(name, index)
    seed = torch.get_rng_state()
    arguments, again = make_arguments(call, "cpu"), make_arguments(call, "cpu")
    assert torch.equal(seed, torch.get_rng_state())
    assert call_of(arguments) == call
    for x, y in zip(tensors_in(arguments), tensors_in(again), strict=True):
        assert torch.equal(x, y)
        assert x.dim() != 4 or x.is_contiguous(memory_format=torch.channels_last)
    y = OpCall.of(op, call, "cpu").run(op.fallback)[0]
    assert 0.1 < y.square().mean().sqrt() < 3
    other = make_arguments(call, "cpu", seed=1)
    assert not torch.equal(tensors_in(other)[0], tensors_in(arguments)[0])


def test_types_become_none() -> None:
    call = (True, ((1, 2, 3, 3), F32), nn.Module, None, "text")
    assert make_arguments(call, "cpu")[1:] == [None, None, "text"]


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_a_run_gives_results_and_gradients(name: str, index: int) -> None:
    op, call = sample(name, index)
    op_call = OpCall.of(op, call, "cpu")
    leaves = tensors_in(op_call.arguments)
    found = op_call.run(op.fallback)
    y, *gradients = found[0], *found[-len(leaves) :]
    assert not any(tensor.requires_grad for tensor in found)
    assert [g.shape for g in gradients] == [leaf.shape for leaf in leaves]
    assert all(g.dtype == leaf.dtype for g, leaf in zip(gradients, leaves, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, op_call.run(op.fallback), strict=True))
    inferred = OpCall.of(op, (False, *call[1:]), "cpu").run(op.fallback)
    assert len(inferred) == len(found) - len(leaves)
    assert torch.equal(inferred[0], y)
    for exact, tensor in zip(op_call.double().run(op.fallback), found, strict=True):
        assert exact.dtype == torch.float64
        assert (exact - tensor).norm() <= 1e-3 * exact.norm()


def test_batch_statistics_are_results_without_gradients() -> None:
    op, call = sample("inception_bn", 0)
    op_call = OpCall.of(op, call, "cpu")
    results = op_call.run(op.fallback)[: -len(op_call.leaves)]
    assert [tuple(result.shape) for result in results[1:]] == [(2, 176), (2, 192)]


def test_autocast_is_on_where_weights_are_wider() -> None:
    seen: list[torch.dtype | None] = []

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        on = torch.is_autocast_enabled("cpu")
        seen.append(torch.get_autocast_dtype("cpu") if on else None)
        return torch.nn.functional.conv2d(x, weight.to(x.dtype))

    op = Op("unlisted", reference, (), samples=tuple, work=OPS["max_pool"].work)
    del OPS["unlisted"]
    call = (True, ((1, 2, 3, 3), torch.bfloat16), ((4, 2, 1, 1), F32))
    mixed = OpCall.of(op, call, "cpu")
    with torch.autocast("cpu", F16):
        mixed.run(op.fallback)
        OpCall.of(op, with_dtype(call, torch.bfloat16), "cpu").run(op.fallback)
        mixed.double().run(op.fallback)
    assert seen == [torch.bfloat16, None, None]


def test_calls_are_resized_and_converted() -> None:
    call = (True, ((2, 3, 9, 8), F32), ((4, 3, 1, 1), F32), ((4,), F32), None, (), 2)
    assert resized(call, 5) == (True, ((5, 3, 9, 8), F32), *call[2:])
    assert resized(call, 1, (7, 6)) == (True, ((1, 3, 7, 6), F32), *call[2:])
    layer = (True, ((3, 9, 8), F32), *call[2:])
    assert resized(layer, 5) == resized(call, 5)
    half = with_dtype(call, F16)
    assert half[1:3] == (((2, 3, 9, 8), F16), ((4, 3, 1, 1), F16))
    assert (half[0], *half[3:]) == (call[0], *call[3:])
    lists = (True, (((2, 3, 9, 8), F32), ((2, 1, 9, 8), F32)), (((3,), F32),))
    assert with_dtype(lists, F16)[1] == (((2, 3, 9, 8), F16), ((2, 1, 9, 8), F16))
    assert with_dtype(lists, F16)[2] == lists[2]
