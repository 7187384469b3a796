from collections import Counter

import pytest
import torch

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.registry import record_calls

GPU = torch.device("cuda", 0)


@pytest.mark.filterwarnings("ignore:.*skips backend")
def test_the_calls_of_a_network_are_found_without_running_it() -> None:
    with torch.device("meta"):
        model = GoogLeNet("paper", 10)
    seen = []
    with record_calls(lambda op, arguments: seen.append(op)):
        calls = calls_of(model, 4, 224, None, GPU)
    assert not seen
    assert model.training
    assert len(calls) == len(set(calls))
    counts = Counter((op, call[0]) for op, call in calls)
    assert (counts["inception", True], counts["inception", False]) == (9, 9)
    assert counts["conv_bias_relu", True] == 3 + 2  # the stem, and heads in training
    assert counts["conv_bias_relu", False] == 3
    assert counts["bias_relu_pool", True] == counts["bias_relu_pool", False] == 4
    training, (shape, dtype), *_ = next(call for op, call in calls if op == "inception")
    assert (training, dtype, shape) == (True, torch.float32, (4, 192, 28, 28))


@pytest.mark.filterwarnings("ignore:.*skips backend")
def test_batch_norm_is_folded_in_evaluation() -> None:
    model = GoogLeNet("torchvision", 10).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = calls_of(model, 4, 224, None, GPU)
    assert [call[0] for op, call in calls if op == "inception"] == [False] * 9
    assert [call[0] for op, call in calls if op == "inception_bn"] == [True] * 9
    assert not model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_frozen_norms_stay_frozen() -> None:
    model = GoogLeNet("torchvision", 10)
    model.conv1.eval()
    modes = [module.training for module in model.modules()]
    calls_of(model, 2, 224, None, GPU)
    assert modes == [module.training for module in model.modules()]


def test_a_compiled_network_has_the_same_calls() -> None:
    model = GoogLeNet("paper", 10, aux=False)
    expected = calls_of(model, 2, 64, None, GPU)
    model.compile(backend="eager")
    assert calls_of(model, 2, 64, None, GPU) == expected
