"""A plain module is right after any write to its weights, by any means and from any thread."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from googlenet_fast import extension
from googlenet_fast.model import GoogLeNet, inception, layers
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.layers import Conv
from googlenet_fast.model.presets import PRESETS
from googlenet_fast.ops import pack_weight, use_impl

pytestmark = pytest.mark.skipif(
    extension.missing_part("cpu") is not None, reason="the extension has no CPU part"
)

AMX = extension.instruction_set() == "amx"
"""The only instruction set whose packed weights serve images of any size."""


@pytest.fixture(params=["conv", "conv with batch norm", "block", "block with batch norm"])
def module(request: pytest.FixtureRequest) -> nn.Module:
    preset = PRESETS["torchvision" if request.param.endswith("norm") else "paper"]
    if request.param.startswith("conv"):
        return Conv(preset, 24, 9, 3).eval()
    return Inception(preset, 24, Widths(8, 6, 10, 4, 5, 7)).eval()


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the packing functions called so far."""
    called: list[str] = []

    def spy(holder: ModuleType, name: str) -> None:
        pack = getattr(holder, name)

        def counted(*arguments: Any) -> object:
            called.append(name)
            return pack(*arguments)

        monkeypatch.setattr(holder, name, counted)

    spy(layers, "pack_weight")
    spy(inception, "pack_inception")
    return called


def check(module: nn.Module, height: int = 9, width: int = 9) -> None:
    x = torch.randn(2, 24, height, width)
    with torch.no_grad():
        found = module(x)
        with use_impl("reference"):
            expected = module(x)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def weight_of(module: nn.Module) -> nn.Parameter:
    return next(p for p in module.parameters() if p.ndim == 4)


def data_mul(module: nn.Module) -> None:
    for p in module.parameters():
        p.data.mul_(1.3)


def data_copy(module: nn.Module) -> None:
    """As EMA, SWA and SAM scripts write."""
    for p in module.parameters():
        p.data.copy_(torch.randn_like(p))


def init_data(module: nn.Module) -> None:
    nn.init.normal_(weight_of(module).data)


def one_bit(module: nn.Module) -> None:
    """The smallest change that shows: the sign of the last weight, which is large."""
    weight = weight_of(module).data
    weight[-1, -1, -1, -1] = 5
    check(module)
    weight[-1, -1, -1, -1].neg_()


def numpy_write(module: nn.Module) -> None:
    weight_of(module).detach().numpy()[...] += 1


def dlpack_write(module: nn.Module) -> None:
    torch.from_dlpack(weight_of(module).detach()).data.add_(1)


def other_strides(module: nn.Module) -> None:
    """The same storage, read in another order."""
    weight = weight_of(module)
    weight.data = weight.data.contiguous(memory_format=torch.contiguous_format).flip(0)


def fused_step(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=True)
    for p in module.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()


def from_vector_twice(module: nn.Module) -> None:
    """Both times from one buffer, whose address the parameters then have."""
    buffer = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    vector_to_parameters(buffer, module.parameters())
    check(module)
    buffer.mul_(1.7)
    vector_to_parameters(buffer, module.parameters())


def shared_memory(module: nn.Module) -> None:
    weight = weight_of(module)
    weight.data = torch.randn_like(weight)
    weight.share_memory_()
    check(module)
    storage = weight.untyped_storage()
    torch.tensor([]).set_(storage, 0, weight.shape, weight.stride()).mul_(2)


def eps(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.5


def running_statistics(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for buffer in norm.buffers():
                buffer.data.mul_(3)


def load_state_dict(module: nn.Module) -> None:
    module.load_state_dict({k: torch.rand_like(v.float()) for k, v in module.state_dict().items()})


WRITES: tuple[Callable[[nn.Module], None], ...] = (
    *(data_mul, data_copy, init_data, one_bit, numpy_write, dlpack_write, other_strides),
    *(fused_step, from_vector_twice, shared_memory, eps, running_statistics, load_state_dict),
)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_any_write_shows(module: nn.Module, write: Callable[[nn.Module], None]) -> None:
    for _ in range(2):
        check(module)
        write(module)
        check(module)


def test_the_network_after_writes_to_data() -> None:
    model = GoogLeNet("paper", 10, aux=False).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
        for p in model.parameters():
            p.data.mul_(1.3)
        before = model(x)
        model.eval()
        assert torch.equal(model(x), before)


def test_unchanged_weights_are_packed_once(module: nn.Module, packings: list[str]) -> None:
    for _ in range(3):
        check(module)
    assert len(packings) == 1
    module.train()
    module.eval()
    check(module)
    assert len(packings) == 1
    with torch.no_grad():
        weight_of(module).mul_(2)
    check(module)
    assert len(packings) == 2


def test_images_of_the_same_tile_share_packed_weights(
    module: nn.Module, packings: list[str]
) -> None:
    for size in (14, 14, 28, 24, 18, 14):
        check(module, size, size)
    assert len(packings) == 1 if AMX else len(packings) < 6


@pytest.mark.filterwarnings("ignore")  # jit.trace warns of constants
def test_gradients_and_tracing_use_no_packed_weights(
    module: nn.Module, packings: list[str]
) -> None:
    x = torch.randn(2, 24, 9, 9)
    module(x).sum().backward()
    with torch.no_grad():
        traced = torch.jit.trace(module, x, check_trace=False)
        assert not packings
        weight_of(module).data.mul_(2)
        torch.testing.assert_close(traced(x), module(x), rtol=1e-3, atol=1e-4)


def test_copies_and_pickles_carry_no_packed_weights(module: nn.Module) -> None:
    check(module)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    parameters = sum(p.nbytes for p in (*module.parameters(), *module.buffers()))
    assert buffer.tell() < parameters + 30_000
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert vars(other)["_packed"]._snapshot is None
        data_mul(other)
        check(other)


def test_weights_made_in_inference_mode(module: nn.Module, packings: list[str]) -> None:
    with torch.inference_mode():
        module = copy.deepcopy(module)
        for _ in range(2):
            check(module)
        weight_of(module).mul_(2)
        check(module)
    assert len(packings) == 2


def test_threads_that_infer_while_weights_change() -> None:
    """After each write, the thread that wrote sees its own weights, whatever others have packed."""
    block = Inception(PRESETS["paper"], 24, Widths(8, 6, 10, 4, 5, 7)).eval()
    x = torch.randn(1, 24, 9, 9)
    weights = [{k: torch.randn_like(p) for k, p in block.named_parameters()} for _ in range(2)]
    expected = []
    for values in weights:
        fresh = copy.deepcopy(block)
        with torch.no_grad():
            for name, p in fresh.named_parameters():
                p.copy_(values[name])
            expected.append(fresh(x))
    errors: list[BaseException] = []
    stop = threading.Event()

    def infer() -> None:
        try:
            while not stop.is_set():
                with torch.no_grad():
                    block.eval()
                    block(x)
        except BaseException as error:  # shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=infer) for _ in range(4)]
    for thread in threads:
        thread.start()
    with torch.no_grad():
        for i in range(100):
            for name, p in block.named_parameters():
                p.data.copy_(weights[i % 2][name])
            assert torch.equal(block(x), expected[i % 2]), i
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_weights_that_do_not_fit_are_refused() -> None:
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    op = torch.ops.googlenet_fast.conv_bias_relu
    with torch.no_grad(), pytest.raises(RuntimeError, match="packed"):
        op(x, weight, None, True, 1, [torch.zeros(7)])
    with torch.no_grad(), pytest.raises(RuntimeError, match="packed"):
        op(x, weight, None, True, 1, [torch.zeros(7), torch.zeros(7)])


@pytest.mark.skipif(AMX, reason="packed weights do not depend on the size with AMX")
def test_weights_for_images_of_another_size_are_refused() -> None:
    x, weight = torch.randn(1, 3, 14, 14), torch.randn(4, 3, 3, 3)
    packed: Tensor = pack_weight(weight, 24, 24)
    with torch.no_grad(), pytest.raises(RuntimeError, match="14x14"):
        torch.ops.googlenet_fast.conv_bias_relu(x, weight, None, True, 1, [packed])


def test_gradients_after_a_call_in_inference_mode(module: nn.Module) -> None:
    """Autograd saves the folded weights, which must not be inference tensors."""
    module.requires_grad_(False)
    x = torch.randn(2, 24, 9, 9)
    with torch.inference_mode():
        module(x)
    module(x.requires_grad_()).sum().backward()
    assert x.grad is not None
