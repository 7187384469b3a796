"""FlopCounterMode counts the fused ops as it counts the convolutions that they replace."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import googlenet_fast.ops  # noqa: F401  registers the ops
from googlenet_fast import extension
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import use_impl
from googlenet_fast.registry import OPS, Backend, Call, Kernels, Op
from googlenet_fast.selfcheck.cases import OpCall, make_arguments

CASES = [(op.name, i) for op in OPS.values() for i, _ in enumerate(op.samples())]


def count(op: Op, backend: Backend, call: Call) -> int:
    op_call = OpCall.of(op, call, "cpu")
    with FlopCounterMode(display=False) as counter:
        op_call.run(backend)
    return counter.get_total_flops()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "index"), CASES)
def test_every_backend_counts_the_work(name: str, index: int, training: bool) -> None:
    op = OPS[name]
    call = (training, *list(op.samples())[index][1:])
    expected = op.work(call).operations
    able = [
        backend
        for backend in op.on("cpu")
        if backend.name != "triton" and backend.supports(*make_arguments(call, "cpu")) is None
    ]
    if name != "local_response_norm":  # whose reference is a product with a band matrix
        able.append(op.fallback)
    for backend in able:
        assert count(op, backend, call) == expected, backend.name


@pytest.mark.parametrize("name", ["inception", "conv_bias_relu"])
def test_triton_kernels_count_the_work(name: str) -> None:
    """On fake tensors."""
    op = OPS[name]
    (triton,) = (backend for backend in op.on("cuda") if backend.name == "triton")
    assert isinstance(triton.kernels, Kernels)
    call = next(iter(op.samples()))
    for training in (True, False):
        arguments = OpCall.of(op, (training, *call[1:]), "cpu").arguments
        with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
            y = triton.run(*arguments)
            if training:
                y.sum().backward()
        assert counter.get_total_flops() == op.work((training, *call[1:])).operations


@pytest.mark.parametrize("wanted", ["input", "parameters"])
@pytest.mark.parametrize("name", ["inception", "conv_bias_relu"])
@pytest.mark.skipif(extension.missing_part("cpu") is not None, reason="no CPU part")
def test_gradients_that_are_not_wanted_are_not_counted(name: str, wanted: str) -> None:
    op = OPS[name]
    counts = []
    for backend in (op.fallback, *(b for b in op.on("cpu") if b.name == "native")):
        op_call = OpCall.of(op, next(iter(op.samples())), "cpu")
        x, *parameters = op_call.leaves
        for leaf in parameters if wanted == "input" else [x]:
            leaf.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            backend.run(*op_call.arguments).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("preset", ["paper", "paddleclas", "torchvision"])
def test_a_network_counts_as_plain_pytorch_does(preset: str, training: bool) -> None:
    torch.manual_seed(0)
    lrn = False if preset == "paper" else None  # the reference's is a product of matrices
    model = GoogLeNet(preset, 10, lrn=lrn).train(training)
    images, labels = torch.randn(2, 3, 224, 224), torch.tensor([1, 2])

    def flops(backend: str) -> int:
        with (
            use_impl(backend),
            torch.set_grad_enabled(training),
            FlopCounterMode(display=False) as counter,
        ):
            if training:
                losses = [F.cross_entropy(y, labels) for y in model(images) if y is not None]
                torch.stack(losses).sum().backward()
            else:
                model(images)
        return counter.get_total_flops()

    plain = flops("reference")
    assert plain > sum(p.numel() for p in model.parameters())
    assert flops("auto") == pytest.approx(plain, rel=0.01)
