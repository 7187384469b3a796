"""docs/ops.md: its code blocks compute what the ops do, its table names their backends."""

import inspect
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast import ops
from googlenet_fast.registry import OPS

PAGE = (Path(__file__).parents[1] / "docs" / "ops.md").read_text()
CODE = re.compile(r"```python\n# equivalent to:\n(.*?)```", re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \| ([\w, ]+) \|$", re.MULTILINE)


def equivalents() -> dict[str, Callable[..., Tensor]]:
    """The functions in the code blocks, by the op of their section."""
    found = {}
    for section in PAGE.split("\n### ")[1:]:
        op = section.partition("\n")[0]
        (code,) = CODE.findall(section)
        namespace: dict[str, Any] = {"torch": torch, "F": F}
        exec(code, namespace)
        found[op] = namespace[op]
    return found


EQUIVALENTS = equivalents()


def tensor(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def norms(*channels: int) -> list[nn.BatchNorm2d]:
    return [nn.BatchNorm2d(count, eps=1e-3).double() for count in channels]


def block(taps: int) -> list[Tensor]:
    """An Inception block's input, weights and biases."""
    shapes = [(14, 7, 1), (5, 4, 3), (3, 2, taps), (6, 7, 1)]
    weights = [(tensor(k, c, t, t), tensor(k)) for k, c, t in shapes]
    return [tensor(2, 7, 6, 9), *(value for pair in weights for value in pair)]


def samples(op: str) -> list[tuple[Any, ...]]:
    """Arguments of calls of an op."""
    x = tensor(2, 7, 6, 9)
    branches = [tensor(2, count, 6, 5) for count in (3, 8, 1)]
    biases = [tensor(count) for count in (3, 8, 1)]
    cases: dict[str, list[tuple[Any, ...]]] = {
        "inception": [
            tuple(block(5)),
            (*block(3), False),
            (*(None if value.ndim == 1 else value for value in block(5)),),
        ],
        "inception_bn": [
            (
                *(x, tensor(14, 7, 1, 1), tensor(5, 4, 3, 3), tensor(3, 2, 5, 5)),
                *(tensor(6, 7, 1, 1), norms(14, 5, 3, 6)),
            )
        ],
        "conv_bias_relu": [
            (x, tensor(5, 7, 3, 3), tensor(5)),
            (x, tensor(5, 7, 1, 1), None, False),
            (tensor(2, 3, 15, 18), tensor(8, 3, 7, 7), tensor(8), True, 2),
        ],
        "bias_relu_pool": [(x,), (x, tensor(7), True, True), (x, tensor(7), False, False)],
        "max_pool": [(x,)],
        "concat_bias_relu": [(branches,), (branches, biases), (branches, biases, False)],
        "bn_relu_concat": [(branches, norms(3, 8, 1))],
        "bn_relu_pool": [(x, norms(7)[0]), (x, norms(7)[0], True)],
        "local_response_norm": [(x,), (x, 3, 1.0, 0.5, 2.0)],
    }
    return cases[op]


def leaves(arguments: tuple[Any, ...]) -> list[Tensor]:
    """Everything that gets a gradient."""
    found: list[Tensor] = []
    for value in arguments:
        for each in value if isinstance(value, list) else [value]:
            found += each.parameters() if isinstance(each, nn.Module) else [each]
    return [value for value in found if isinstance(value, Tensor)]


def buffers(arguments: tuple[Any, ...]) -> list[Tensor]:
    """Running statistics of batch norms."""
    values = [
        each for value in arguments for each in (value if isinstance(value, list) else [value])
    ]
    modules = [value for value in values if isinstance(value, nn.Module)]
    return [buffer for module in modules for buffer in module.buffers()]


def test_every_op_has_a_section_and_a_row() -> None:
    assert set(EQUIVALENTS) == set(OPS)
    assert {op for op, _, _ in ROW.findall(PAGE)} == set(OPS)


@pytest.mark.parametrize("op", EQUIVALENTS)
def test_signatures_are_those_of_the_ops(op: str) -> None:
    documented = inspect.signature(EQUIVALENTS[op])
    described = [(p.name, p.default) for p in documented.parameters.values()]
    actual = [(p.name, p.default) for p in inspect.signature(getattr(ops, op)).parameters.values()]
    assert described == [each for each in actual if each[0] != "packed"]
    assert f"\n`{op}{documented} -> y`\n" in PAGE


@pytest.mark.filterwarnings("ignore:.* skips backend:RuntimeWarning")
@pytest.mark.parametrize("op", EQUIVALENTS)
def test_code_blocks_compute_what_the_ops_do(op: str) -> None:
    """In fp64: rounding does not decide where ReLU clips."""
    torch.manual_seed(0)
    for arguments in samples(op):
        copy = deepcopy(arguments)
        y, expected = getattr(ops, op)(*arguments), EQUIVALENTS[op](*copy)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        grad = torch.randn_like(y)
        grads = torch.autograd.grad(y, leaves(arguments), grad)
        exact = torch.autograd.grad(expected, leaves(copy), grad)
        torch.testing.assert_close(grads, exact, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(buffers(arguments), buffers(copy))


@pytest.mark.parametrize(("op", "cpu", "gpu"), ROW.findall(PAGE))
def test_the_table_names_the_backends_in_order(op: str, cpu: str, gpu: str) -> None:
    """On CPUs Triton's interpreter serves tests alone."""
    assert cpu.split(", ") == [b.name for b in OPS[op].on("cpu") if b.name != "triton"]
    assert gpu.split(", ") == [b.name for b in OPS[op].on("cuda")]
