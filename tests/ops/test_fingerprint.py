"""The digest that proves weights unchanged."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import googlenet_fast.ops  # noqa: F401  (defines the registered ops)
from googlenet_fast import extension

pytestmark = pytest.mark.skipif(
    extension.missing_part("cpu") is not None, reason="the extension has no CPU part"
)

KIB = 1024


def fingerprint(*tensors: Tensor) -> int:
    return torch.ops.googlenet_fast.fingerprint.default(list(tensors))


def some_bytes(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count,), generator=generator, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3, 257, 1000])
def test_any_flipped_bit_changes_it(count: int) -> None:
    x = some_bytes(count)
    seen = {fingerprint(x)}
    for at in range(count):
        for bit in range(8):
            x[at] ^= 1 << bit
            seen.add(fingerprint(x))
            x[at] ^= 1 << bit
    assert len(seen) == 1 + 8 * count


def test_flipped_bits_in_many_chunks_change_it() -> None:
    x = some_bytes(300 * KIB + 5)
    seen = {fingerprint(x)}
    places = [*range(0, len(x), 997), 64 * KIB - 1, 64 * KIB, 128 * KIB, len(x) - 1]
    for at in places:
        x[at] ^= 1 << at % 8
        seen.add(fingerprint(x))
        x[at] ^= 1 << at % 8
    assert len(seen) == 1 + len(places)


@pytest.mark.parametrize("unit", [1, 4, 256, 4 * KIB, 64 * KIB])
def test_swapped_bytes_words_and_blocks_change_it(unit: int) -> None:
    x = some_bytes(4 * unit)
    for i in range(4):
        for j in range(i):
            swapped = list(x.split(unit))
            swapped[i], swapped[j] = swapped[j], swapped[i]
            assert fingerprint(torch.cat(swapped)) != fingerprint(x)


def test_tensors_count_in_their_order_and_with_their_sizes() -> None:
    x, y, none = some_bytes(70), some_bytes(80), some_bytes(0)
    lists = [(x, y), (y, x), (x,), (x, x), (none,), (x, none), (none, x), (none, none)]
    lists += [(torch.cat([x, y]),), (torch.cat([x, y[:3]]), y[3:])]
    assert len({fingerprint(*tensors) for tensors in lists}) == len(lists)


@pytest.mark.parametrize("count", [64, 64 * KIB])
def test_what_is_done_to_weights_changes_it(count: int) -> None:
    """All words change, by few and the same bits."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(count)
    changed = [x, -x, 2 * x, x / 2, x.abs(), x.roll(1), x.flip(0), zeros, -zeros, zeros[1:]]
    assert len({fingerprint(y) for y in changed}) == len(changed)
    pairs = x.clone()
    pairs[: count // 2] *= -1
    assert fingerprint(pairs) not in {fingerprint(y) for y in changed}


@pytest.mark.parametrize("count", [0, 100, 64 * KIB, 1000 * KIB + 77])
def test_any_number_of_threads_gives_the_same(count: int) -> None:
    tensors = some_bytes(count), some_bytes(33), some_bytes(200 * KIB)
    found = set()
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        found.add(fingerprint(*tensors))
    assert len(found) == 1


def test_tails_of_every_length() -> None:
    x = some_bytes(64 * KIB + 600)
    lengths = [*range(600), *range(64 * KIB - 300, 64 * KIB + 300)]
    assert len({fingerprint(x[:length]) for length in lengths}) == len(lengths)
    padded = [torch.cat([x[:5], torch.zeros(n, dtype=torch.uint8)]) for n in range(600)]
    assert len({fingerprint(y) for y in padded}) == len(padded)


def test_layouts() -> None:
    """The bytes of a dense tensor count as they lie in memory; others are copied."""
    x = torch.randn(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert fingerprint(last) == fingerprint(last.permute(0, 2, 3, 1)) != fingerprint(x)
    wide = torch.randn(2, 6, 4, 5)
    wide[:, ::2] = x
    assert fingerprint(wide[:, ::2]) == fingerprint(x)
    assert fingerprint(x[:1].expand(2, -1, -1, -1)) == fingerprint(x[:1].repeat(2, 1, 1, 1))
    before = fingerprint(last)
    last[1, 2, 3, 4] += 1
    assert fingerprint(last) != before


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.cfloat]
)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(7, 9).to(dtype)
    before = fingerprint(x)
    assert before == fingerprint(x.flatten().view(torch.uint8))
    x[3, 3] = 1 - x[3, 3] if dtype != torch.bool else ~x[3, 3]
    assert fingerprint(x) != before
