"""What is known of some layers serves for others: the nearest one, then an order by mode."""

from typing import Any

import pytest
import torch

from benchmarks.tools.fastest import BATCH, SIZE, models
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.registry import OPS, Call
from googlenet_fast.selfcheck.autotune import contested
from googlenet_fast.selfcheck.cases import resized
from googlenet_fast.selfcheck.disk_cache import decode
from googlenet_fast.selfcheck.speed_table import (
    SpeedTable,
    committed,
    entry,
    identity,
    plausible,
)

F16, F32, BF16 = torch.float16, torch.float32, torch.bfloat16
GPU = torch.device("cuda", 0)
NAMES = ("triton", "aten", "native")


def call(
    size: int = 7,
    batch: int = 8,
    dtype: torch.dtype = F32,
    *,
    training: bool = True,
    relu: bool = True,
    filters: int = 4,
) -> Call:
    x, w = ((batch, 5, size, size), dtype), ((filters, 5, 3, 3), F32)
    return training, x, w, ((filters,), F32), relu, 1, ()


def layer_of(question: Call) -> Call:
    training, (shape, dtype), *others = question
    return training, (shape[1:], dtype), *others


def table_of(*known: tuple[Call, dict[str, float]], own: bool = True) -> SpeedTable:
    table = SpeedTable()
    table.add([entry("op", question, seconds) for question, seconds in known], own)
    return table


def first(table: SpeedTable, question: Call, *, op: str = "op", batch: bool = True) -> str:
    images = question[1][0][0] if batch else None
    return table.order(op, NAMES, layer_of(question), images)[0]


def test_the_fastest_goes_first_and_what_has_no_time_last() -> None:
    table = table_of((call(), {"aten": 1.0, "triton": 2.0, "unknown": 0.5}))
    assert table.order("op", NAMES, layer_of(call()), 8) == ("aten", "triton", "native")
    assert table.order("op", NAMES[::-1], layer_of(call()), 8) == ("aten", "triton", "native")
    assert table.order("other", NAMES, layer_of(call()), 8) == NAMES
    assert table_of((call(), {"unknown": 1.0})).order("op", NAMES, layer_of(call()), 8) == NAMES


def test_the_nearest_number_of_pixels_decides() -> None:
    """On a log scale: 8 images of 7x7 are as far from 4 as from 16."""
    table = table_of(
        (call(7, 8), {"aten": 1.0, "triton": 2.0}), (call(28, 64), {"aten": 2.0, "triton": 1.0})
    )
    for size, batch, fastest in [
        (7, 1, "aten"), (6, 8, "aten"), (14, 8, "aten"), (10, 300, "triton"), (14, 64, "triton"),
        (224, 300, "triton"), (28, 2, "aten"), (28, 12, "triton"),
    ]:  # fmt: skip
        assert first(table, call(size, batch)) == fastest, (size, batch)
    for size, fastest in [(7, "aten"), (13, "aten"), (15, "triton")]:  # the batch is not known
        assert first(table, call(size, 1), batch=False) == fastest


def test_where_the_batch_is_not_known_the_largest_measured_one_serves() -> None:
    times = {8: {"aten": 1.0}, 64: {"triton": 1.0}, 16: {"native": 1.0}}
    table = table_of(*((call(batch=n), seconds) for n, seconds in times.items()))
    assert first(table, call(), batch=False) == "triton"


def test_precision_then_this_gpu_then_the_same_options_come_before_nearness() -> None:
    table = table_of((call(dtype=F16), {"aten": 1.0}), own=False)
    for dtype in (F32, F16, BF16):
        assert first(table, call(dtype=dtype)) == "aten"
    table.add([entry("op", call(70, dtype=F32), {"native": 1.0})], own=True)
    assert first(table, call(dtype=F32)) == "native"
    assert first(table, call(dtype=BF16)) == "aten"  # a half precision, though of another GPU
    table.add([entry("op", call(70, dtype=F16), {"triton": 1.0})], own=True)
    assert first(table, call(dtype=F16)) == "triton"  # of this GPU
    table.add([entry("op", call(7, dtype=F16, relu=False), {"native": 1.0})], own=True)
    assert first(table, call(7, dtype=F16)) == "triton"
    assert first(table, call(8, dtype=F16, relu=False)) == "native"


def test_other_weights_take_the_order_that_costs_least_in_their_mode() -> None:
    table = table_of(
        (call(), {"triton": 1.0, "aten": 3.0}),
        (call(56), {"triton": 9.0, "aten": 5.0}),
        (call(training=False), {"triton": 2.0, "aten": 4.0}),
    )
    assert first(table, call(filters=6)) == "aten"  # 8 against 10
    assert first(table, call(filters=6, training=False)) == "triton"
    inference = table_of((call(training=False), {"aten": 1.0, "triton": 2.0}))
    assert first(inference, call(filters=6)) == "aten"  # the only mode that is known


def test_later_measurements_of_a_call_win() -> None:
    table = table_of((call(), {"triton": 1.0}))
    table.add([entry("op", call(), {"aten": 1.0})], own=True)
    assert first(table, call()) == "aten"


def committed_table() -> SpeedTable:
    table = SpeedTable()
    table.add(committed(), own=False)
    return table


def in_fp16(question: Call) -> Call:
    training, (shape, _), *others = question
    return training, (shape, F16), *others


def fastest_known(op: str, question: Call) -> str:
    """What the entry says whose layer has the same channels and weights and the nearest size."""

    def weights(layer: Call) -> list[Any]:
        return [value[0] for value in layer[2:] if isinstance(value, tuple) and len(value) == 2]

    found = []
    for known in committed():
        layer = decode(known["layer"])
        if (known["op"], layer[0], layer[1][0][0]) != (op, question[0], question[1][0][1]):
            continue
        if weights(layer) == weights(question) and layer[2:] == tuple(question[2:]):
            pixels = layer[1][0][1] ** 2 * known["batch"]
            asked = question[1][0][2] ** 2 * question[1][0][0]
            found.append((max(pixels / asked, asked / pixels), known["seconds"]))
    seconds = min(found, key=lambda pair: pair[0])[1]
    return min(seconds, key=seconds.__getitem__)


@pytest.mark.parametrize("preset", ["paper", "paddleclas"])
@pytest.mark.parametrize(("size", "batch"), [(160, 64), (299, 64), (224, 1), (224, 7), (224, 300)])
def test_every_layer_of_other_sizes_and_batches_takes_the_nearest(
    preset: str, size: int, batch: int
) -> None:
    """Whatever order the backends are listed in; paddleclas has 55, 27, 13 and 6 pixels a side."""
    with torch.device("meta"):
        model = GoogLeNet(preset, aux=False)
    table, seen = committed_table(), set()
    for op, question in contested(calls_of(model, batch, size, None, GPU)):
        if op == "conv_bias_relu" and question[5] == 2:
            continue  # one backend
        names = tuple(backend.name for backend in OPS[op].on("cuda"))
        expected = fastest_known(op, in_fp16(question))
        for listed in (names, names[::-1]):
            layer = layer_of(in_fp16(question))
            assert table.order(op, listed, layer, batch)[0] == expected, (op, question)
        seen.add((op, question[0]))
    assert {("inception", True), ("inception", False), ("bias_relu_pool", True)} <= seen


def test_160_pixels_are_as_224_were_measured() -> None:
    """Blocks train on the library's convolutions and infer in Triton; pools run in Triton."""
    table = committed_table()
    with torch.device("meta"):
        model = GoogLeNet("paper", aux=False)
    chosen: dict[tuple[str, bool], list[str]] = {}
    for op, question in contested(calls_of(model, 64, 160, None, GPU)):
        names = tuple(backend.name for backend in OPS[op].on("cuda"))
        best = table.order(op, names, layer_of(in_fp16(question)), 64)[0]
        chosen.setdefault((op, question[0]), []).append(best)
    assert set(chosen["inception", True]) == {"aten"}
    assert chosen["inception", False] == ["triton"] * 7 + ["aten"] * 2
    assert set(chosen["bias_relu_pool", True]) == {"triton"}
    assert set(chosen["local_response_norm", True]) == {"cuda"}


def test_widths_that_no_preset_has_take_the_order_of_the_table() -> None:
    table = committed_table()
    for training, expected in [(True, "aten"), (False, "triton")]:
        question = call(30, 5, F16, training=training, filters=17)
        assert first(table, question, op="conv_bias_relu") == expected


def outlying() -> dict[str, Any]:
    """What the package's table once had of 512x14x14, 64 of 1x1: 24 and 4 times too slow."""
    x, weight = ((64, 512, 14, 14), F16), ((64, 512, 1, 1), F32)
    seconds = {"triton": 0.00115, "aten": 0.000165}
    return entry("conv_bias_relu", (True, x, weight, None, False, 1, ()), seconds)


def test_a_time_far_from_its_like_is_ignored() -> None:
    bad = outlying()
    assert plausible([*committed(), bad]) == committed()
    table = SpeedTable()
    table.add([*committed(), {**bad, "seconds": {"triton": 1e-9, "aten": 4.2e-5}}], own=True)
    layer = decode(bad["layer"])
    assert table.order("conv_bias_relu", NAMES, layer, 64)[0] == "aten"  # the order by mode
    assert plausible([bad, bad]) == [bad, bad]  # few are alike


def test_the_committed_table_knows_every_layer_of_the_networks() -> None:
    known = {(found["op"], decode(found["layer"])): found["seconds"] for found in committed()}
    assert len(known) == len(committed()) == 99
    dropped = ("conv_bias_relu", decode(outlying()["layer"]))  # nobody measured it well
    table, seen = committed_table(), set()
    for model in models():
        for op, question in contested(calls_of(model, BATCH, SIZE, None, GPU)):
            half = layer_of(in_fp16(question))
            if (op == "conv_bias_relu" and question[5] == 2) or (op, half) == dropped:
                continue  # Triton's kernel has stride 1
            assert set(known[op, half]) <= {backend.name for backend in OPS[op].on("cuda")}
            assert len(known[op, half]) > 1
            fastest = min(known[op, half], key=known[op, half].__getitem__)
            names = tuple(backend.name for backend in OPS[op].on("cuda"))
            for dtype in (F16, BF16, F32):
                training, (shape, _), *others = half
                assert table.order(op, names, (training, (shape, dtype), *others), 64)[0] == fastest
            seen.add((op, half))
    assert seen <= known.keys()
    assert {min(seconds, key=seconds.__getitem__) for seconds in known.values()} == {
        *("triton", "aten", "cuda")
    }


def test_an_entry_says_which_call_it_is_of() -> None:
    same = entry("op", call(), {"aten": 1.0}), entry("op", call(), {"triton": 2.0})
    assert identity(same[0]) == identity(same[1]) != identity(entry("op", call(batch=9), {}))
    assert resized(decode(same[0]["layer"]), 8) == call()
