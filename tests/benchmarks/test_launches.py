import json
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.network import Convolution, fused_call, stages
from benchmarks.tools import launches
from benchmarks.tools.launch_prediction import LAUNCH, MULTIPROCESSORS, Prediction, predict
from benchmarks.tools.step_launches import STEPS, _multi_tensor_launches, launches_of, totals
from googlenet_fast.kernels.launch import INTERPRETED, Launch, observe

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETED, reason="runs on CPU tensors"),
]

ACCEPT = "run `python -m benchmarks.tools.launches` to accept it"
aten = torch.ops.aten


def accepted() -> dict[str, float]:
    return json.loads(launches.ACCEPTED.read_text())


def test_the_third_convolution_is_predicted_as_measured() -> None:
    # 183 us on an H100 (docs/gpu-runs.md).
    conv3 = next(stage for stage in stages() if stage.name == "conv3")
    assert isinstance(conv3, Convolution)
    seen: list[Launch] = []
    with observe(lambda launch, run: seen.append(launch)):
        fused_call(conv3, 64, conv3.side_in, torch.float16, training=False).run(training=False)
    found = predict(seen[0])
    programs, steps, tile = 4704, 9 * 2, 2 * 32 * (128 + 64)
    assert found.programs == programs / MULTIPROCESSORS
    assert found.l2_bytes == programs * steps * tile + 64 * 56 * 56 * 192 * 2
    assert found.exposed_steps == 0
    assert 183 <= found.microseconds <= 1.15 * 183


def test_latency_counts_where_few_programs_share_a_multiprocessor() -> None:
    assert Prediction("", 0, 0, 0, 1.0, 20).microseconds == pytest.approx(15 + 1e6 * LAUNCH)
    block = launches.triton_launches(training=False)["5a 3 conv_spatial"]
    assert block.programs < 1
    assert block.exposed_steps == 25


@pytest.mark.parametrize("mode", launches.MODES)
def test_no_launch_is_predicted_to_be_worse_than_accepted(mode: str) -> None:
    found = launches.triton_launches(training=mode == "training")
    now = launches.numbers({mode: found}, {})
    assert not list(launches.worsened(accepted(), now)), ACCEPT


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.filterwarnings("ignore")
def test_no_step_is_predicted_to_be_worse_than_accepted(name: str) -> None:
    rows = STEPS[name]()
    assert not list(launches.worsened(accepted(), launches.numbers({}, {name: rows}))), ACCEPT
    assert name in launches.REPORT.read_text()
    assert f"| {name} | {totals(rows)['launches']:.0f} |" in launches.REPORT.read_text(), ACCEPT


def test_a_larger_number_and_a_new_one_are_worse() -> None:
    before = {"a": 10.0, "b": 5.0}
    assert not list(launches.worsened(before, {"a": 10.0, "b": 4.0}))
    assert list(launches.worsened(before, {"a": 10.1, "c": 1.0})) == [
        "a: 10.1, accepted 10.0",
        "c: 1.0, not accepted yet",
    ]


@pytest.mark.parametrize(
    ("op", "arguments", "count"),
    [
        (aten.view.default, (), 0),
        (aten.empty_like.default, (), 0),
        (aten.add.Tensor, (), 1),
        (aten.convolution_backward.default, ([True, True, False],), 2),
        (aten.convolution_backward.default, ([False, True, True],), 2),
        (aten._foreach_add_.List, ([torch.ones(1)] * 65, [torch.ones(1)] * 65), 2),
    ],
)
def test_operations_count_with_their_kernels(op: Any, arguments: Any, count: int) -> None:
    assert launches_of(op, arguments) == count


def test_multi_tensor_launches_are_full_of_tensors_or_of_chunks() -> None:
    assert _multi_tensor_launches([[10] * 110]) == 1
    assert _multi_tensor_launches([[10] * 111]) == 2
    assert _multi_tensor_launches([[65536 * 321]]) == 2
    assert _multi_tensor_launches([[10] * 49] * 3) == 2
