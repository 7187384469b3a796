"""The average of the weights against PyTorch's."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from googlenet_fast.engine.fused_sgd import FusedSGD
from googlenet_fast.engine.weight_average import WeightAverage
from googlenet_fast.model import GoogLeNet


def test_equals_pytorchs_average() -> None:
    """Copied in the first update, then moved; the tensors stay where they are."""
    model = GoogLeNet("torchvision", 3, aux=False)

    def move(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return current
        t = int(updates)
        return average.lerp(current, 1 - min(0.4, (1 + t) / (10 + t)))

    theirs = AveragedModel(model, avg_fn=move, use_buffers=True)
    ours = WeightAverage(model, 0.4)  # reached in update 5
    places = [tensor.data_ptr() for tensor in ours.module.state_dict().values()]
    for update in range(8):
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 1)
        theirs.update_parameters(model)
        assert ours.updates == update
        ours.update()
        ours.updates += 1
    for (name, expected), found in zip(
        theirs.module.state_dict().items(), ours.module.state_dict().values(), strict=True
    ):
        if found.is_floating_point():
            assert torch.equal(found, expected), name
        else:
            assert torch.equal(found, model.state_dict()[name]), name
    assert [tensor.data_ptr() for tensor in ours.module.state_dict().values()] == places
    assert not any(p.requires_grad for p in ours.module.parameters())


def test_an_optimizer_can_move_the_averages_of_the_parameters() -> None:
    model = GoogLeNet("torchvision", 3, aux=False)
    other = copy.deepcopy(model)
    averages = [WeightAverage(network, 0.9) for network in (model, other)]
    ours = FusedSGD(model.parameters(), 0.1)
    theirs = FusedSGD(other.parameters(), 0.1)
    averages[0].leave_parameters_to(ours)
    for update in range(4):
        for average, network, optimizer in zip(
            averages, (model, other), (ours, theirs), strict=True
        ):
            torch.manual_seed(update)
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
            for buffer in network.buffers():
                buffer.copy_(torch.randn(buffer.shape))
            optimizer.step()
            average.update()
            average.updates += 1
        if update == 2:  # as when a run is resumed
            averages[0].updates, averages[1].updates = 0, 0
    for found, expected in zip(
        averages[0].module.state_dict().values(),
        averages[1].module.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_a_short_runs_average_follows_it() -> None:
    """With a constant decay it would stay at 0.3 % of the way."""
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.9999)
    for t in range(101):
        with torch.no_grad():
            model.weight.fill_(t / 100)
        average.update()
        average.updates += 1
    assert 0.85 < average.module.weight.item() < 0.95


def test_the_network_goes_on_alone() -> None:
    model = GoogLeNet("paper", 3, aux=False)
    before = copy.deepcopy(model.state_dict())
    average = WeightAverage(model, 0.5)
    for tensor in average.module.state_dict().values():
        tensor.zero_()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
