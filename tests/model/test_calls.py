from collections import Counter

import pytest
import torch
from torch import nn

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of, count_calls, one_process
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


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_a_compiled_network_has_the_same_calls() -> None:
    model = GoogLeNet("paper", 10, aux=False)
    expected = calls_of(model, 2, 64, None, GPU)
    model.compile(backend="eager")
    assert calls_of(model, 2, 64, None, GPU) == expected


def test_calls_are_counted_without_those_that_ops_make() -> None:
    with torch.device("meta"):
        model = GoogLeNet("torchvision", 10)
    counts = count_calls(model, 4, 64, None, GPU, training=True)
    ops = Counter({op: 0 for op, _ in counts})
    for (op, _), count in counts.items():
        ops[op] += count
    # The stem and the heads; the pool after block 3b (that after 4e is PyTorch's, of 2x2).
    assert ops == {
        "conv_bias_relu": 3 + 2, "bn_relu_concat": 1 + 2, "bn_relu_pool": 2, "inception_bn": 9,
        "bias_relu_pool": 1,
    }  # fmt: skip
    inference = count_calls(model, 4, 64, None, GPU, training=False)
    assert "concat_bias_relu" not in {op for op, _ in inference}
    assert sum(n for (op, _), n in inference.items() if op == "inception") == 9
    assert model.training


def test_synchronised_norms_wait_for_no_other_process() -> None:
    model = GoogLeNet("torchvision", 10, aux=False)
    expected = count_calls(model, 2, 64, None, GPU, training=True)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with one_process(model):
        assert type(model.conv1.bn) is nn.BatchNorm2d
    assert type(model.conv1.bn) is nn.SyncBatchNorm
    assert count_calls(model, 2, 64, None, GPU, training=True) == expected
