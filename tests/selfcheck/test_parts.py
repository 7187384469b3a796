"""Ops that compute nothing have the shapes and the gradients of those that do."""

import pytest
import torch

from googlenet_fast.registry import OPS, requested, use_impl
from googlenet_fast.selfcheck.cases import OpCall
from googlenet_fast.selfcheck.parts import without_ops


@pytest.mark.parametrize("op", list(OPS))
def test_zeros_of_the_right_shapes(op: str) -> None:
    call = OpCall.of(OPS[op], next(iter(OPS[op].samples())), "cpu")
    expected = call.run(OPS[op].fallback)
    with without_ops():
        found = call.run(OPS[op].choose(*call.arguments))
        again = call.run(OPS[op].choose(*call.arguments))
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert [t.stride() for t in found[:1]] == [t.stride() for t in expected[:1]]
    assert not any(t.any() for t in found)
    assert found[0].data_ptr() == again[0].data_ptr()
    with use_impl("reference"):
        after = call.run(OPS[op].choose(*call.arguments))
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))
    assert requested() == "auto"
