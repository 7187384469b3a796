"""What the launchers choose by the device, also where torch does not tell the size of its warps."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from googlenet_fast import environment
from googlenet_fast.kernels import configs, launch

GPU = torch.device("cuda", 0)


@pytest.fixture(params=[32, 64, None])
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The lanes of a pretended GPU; None: a torch that does not say."""
    card = SimpleNamespace(name="a card", major=8, minor=0, total_memory=2**30)
    if request.param is not None:
        card.warp_size = request.param
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(launch, "INTERPRETED", False)
    return request.param


def test_options_and_pipelines_of_nvidia_need_warps_of_32(lanes: int | None) -> None:
    options = launch.compiler_options.__wrapped__(GPU)
    assert options == ({"maxnreg": 255} if lanes == 32 else {})
    assert configs.pipeline_depth.__wrapped__(GPU) == (3 if lanes == 32 else 2)


def test_devices_are_described(lanes: int | None) -> None:
    size = lanes or "unknown size"
    line = f"a card; compute capability 8.0; 1 GiB; warps of {size}"
    assert environment.devices()["cuda:0"] == line
