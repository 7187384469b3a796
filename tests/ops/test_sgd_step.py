"""The step of all parameters in one call, against the update written out."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from googlenet_fast.ops import use_impl
from googlenet_fast.ops.sgd_step import find_nonfinite, sgd_step


def dense(*shape: int) -> Tensor:
    """A parameter as convolutions have it."""
    x = torch.randn(shape)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


SHAPES = ((3, 8, 3, 3), (7,), (5, 9), (0, 4), (1,))


def step_in_double(
    parameter: Tensor,
    gradient: Tensor,
    momentum_buffer: Tensor,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Parameter and momentum after the step."""
    parameter = parameter.double()
    g = gradient.double() / scale + weight_decay * parameter
    momentum_buffer = momentum * momentum_buffer.double() + g
    g = g + momentum * momentum_buffer if nesterov else momentum_buffer
    return parameter - lr * g, momentum_buffer


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_parameters_momenta_copies_and_averages(dtype: torch.dtype, nesterov: bool) -> None:
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    parameters = [dense(*shape) for shape in SHAPES]
    gradients = [torch.randn_like(p).mul_(64).to(dtype) for p in parameters]
    gradients[1] = gradients[1].float()
    momenta, averages = ([torch.randn_like(p) for p in parameters] for _ in range(2))
    copies = [torch.full_like(p, math.nan, dtype=half) for p in parameters]
    copies[2] = torch.empty(0)
    lr = [torch.tensor(0.1 * (i + 1)) for i in range(len(parameters))]
    decay = [0.1, 0.0, 0.2, 0.0, 0.1]
    expected = [
        step_in_double(p, g, m, rate.item(), wd, 0.9, nesterov, 64.0)
        for p, g, m, rate, wd in zip(parameters, gradients, momenta, lr, decay, strict=True)
    ]
    moved = [a + 0.25 * (p - a) for a, (p, _) in zip(averages, expected, strict=True)]
    versions = [p._version for p in parameters]
    sgd_step(
        parameters,
        gradients,
        momenta,
        copies,
        averages,
        lr,
        decay,
        momentum=0.9,
        nesterov=nesterov,
        grad_scale=torch.tensor(64.0),
        found_inf=torch.tensor(0.0),
        average_weight=torch.tensor(0.25),
    )
    for i, (p, m) in enumerate(expected):
        torch.testing.assert_close(parameters[i].double(), p, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(momenta[i].double(), m, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(averages[i].double(), moved[i], rtol=1e-5, atol=1e-6)
        assert not copies[i].numel() or torch.equal(copies[i], parameters[i].to(half))
    assert all(p._version > before for p, before in zip(parameters, versions, strict=True))


def test_a_parameter_without_gradient_stays() -> None:
    parameters = [torch.randn(5), torch.randn(5)]
    before = [p.clone() for p in parameters]
    averages = [torch.zeros(5), torch.zeros(5)]
    gradients = [torch.ones(5), torch.empty(0)]
    lr = [torch.tensor(1.0)] * 2
    weight = torch.tensor(1.0)
    sgd_step(
        parameters, gradients, [], [], averages, lr, [0.5] * 2, momentum=0, average_weight=weight
    )
    torch.testing.assert_close(parameters[0], before[0] / 2 - 1)
    assert torch.equal(parameters[1], before[1])
    assert torch.equal(averages[0], parameters[0])
    assert torch.equal(averages[1], before[1])


def test_a_step_with_overflow_moves_the_averages_alone() -> None:
    parameter, momentum, average = torch.randn(9), torch.randn(9), torch.randn(9)
    copy = torch.zeros(9, dtype=torch.float16)
    before = parameter.clone(), momentum.clone()
    expected = average.lerp(parameter, 0.75)
    sgd_step(
        [parameter],
        [torch.full((9,), math.inf)],
        [momentum],
        [copy],
        [average],
        [torch.tensor(0.1)],
        [0.1],
        momentum=0.9,
        found_inf=torch.tensor(1.0),
        average_weight=torch.tensor(0.75),
    )
    assert torch.equal(parameter, before[0])
    assert torch.equal(momentum, before[1])
    torch.testing.assert_close(average, expected)


def unaligned(x: Tensor) -> Tensor:
    """The same values and strides, one element further in memory."""
    wide = x.new_full((x.numel() + 1,), math.nan)
    return wide[1:].as_strided(x.shape, x.stride(), 1).copy_(x)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_any_number_of_tensors_of_any_size_and_alignment(dtype: torch.dtype, skip: bool) -> None:
    sizes = [*range(20), 4095, 4096, 4097, *(1 + i % 3 for i in range(160))]
    place = [(lambda x: x) if i % 3 else unaligned for i in range(len(sizes))]
    given = [[f(torch.randn(n)) for n, f in zip(sizes, place, strict=True)] for _ in range(3)]
    gradients = [unaligned(torch.randn(n)) if n % 2 else torch.randn(n).to(dtype) for n in sizes]
    half = torch.float16 if dtype == torch.float32 else dtype
    copies = [torch.zeros(n if n % 5 else 0).to(half) for n in sizes]
    rest = [torch.tensor(0.1)] * len(sizes), [0.01 * (n % 2) for n in sizes]
    scalars = torch.tensor(3.0), torch.tensor(float(skip)), torch.tensor(0.9)
    results = []
    for implementation in ("reference", "auto"):
        lists = [[x.clone() if x.storage_offset() == 0 else unaligned(x) for x in g] for g in given]
        parameters, momenta, averages = lists
        own = [copy.clone() for copy in copies]
        with use_impl(implementation):
            sgd_step(
                *(parameters, gradients, momenta, own, averages, *rest),
                momentum=0.9,
                grad_scale=scalars[0],
                found_inf=scalars[1],
                average_weight=scalars[2],
            )
        results.append((lists, own))
    (expected, expected_copies), (actual, actual_copies) = results
    for theirs, ours in zip(expected, actual, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-7)
    if skip:
        assert all(torch.equal(a, b) for a, b in zip(actual[0], given[0], strict=True))
        return
    for parameter, copy in zip(actual[0], actual_copies, strict=True):
        assert not copy.numel() or torch.equal(copy, parameter.to(half))
    torch.testing.assert_close(actual_copies, expected_copies)


def test_weights_beyond_the_range_of_half_precision_are_infinite_in_the_copy() -> None:
    parameter, copy = torch.tensor([1e5, -1e5, 1.0]), torch.zeros(3, dtype=torch.float16)
    lr = torch.tensor(1.0)
    sgd_step([parameter], [torch.zeros(3)], [], [copy], [], [lr], [0.0], momentum=0)
    assert copy.tolist() == [math.inf, -math.inf, 1.0]


def gradients(*dtypes: torch.dtype) -> Sequence[Tensor]:
    return [torch.full((n,), 60000.0).to(d) for n, d in zip((1, 7, 5000, 0), dtypes, strict=True)]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_any_value_that_is_not_finite_is_found(value: float) -> None:
    dtypes = (torch.float16, torch.float32, torch.float16, torch.float16)
    found = torch.tensor(math.nan)
    find_nonfinite(gradients(*dtypes), found)
    assert found == 0
    for tensor, place in ((0, 0), (1, 3), (2, 0), (2, 4095), (2, 4096), (2, 4999)):
        tensors = gradients(*dtypes)
        tensors[tensor][place] = value
        find_nonfinite(tensors, found)
        assert found == 1
    find_nonfinite([], found)
    assert found == 0
