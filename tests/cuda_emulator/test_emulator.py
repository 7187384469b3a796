import ctypes
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cuda_emulator.build import Build
from tests.helpers import run_python
from tests.sanitizers import sanitizing_environment

pytestmark = pytest.mark.emulator

THREADS = 128
"""Of a block, in samples.cu."""

RUN_SAMPLE = """
import ctypes, json, sys
library = ctypes.CDLL(sys.argv[1])
library.run_sample.restype = ctypes.c_char_p
values = json.loads(sys.argv[3])
array = (ctypes.c_float * len(values))(*values)
error = library.run_sample(sys.argv[2].encode(), array, len(values)).decode()
print(json.dumps({"error": error, "values": list(array)}))
"""


def run(library: Path, sample: str, values: list[float]) -> tuple[str, list[float], dict[str, Any]]:
    """Error, values afterwards, and what was counted."""
    functions = ctypes.CDLL(str(library))
    functions.run_sample.restype = functions.cuda_emulator_launches.restype = ctypes.c_char_p
    array = (ctypes.c_float * len(values))(*values)
    error = functions.run_sample(sample.encode(), array, len(values)).decode()
    (launch,) = json.loads(functions.cuda_emulator_launches())
    return error, list(array), launch


def run_sanitized(
    library: Path, sample: str, values: list[float]
) -> subprocess.CompletedProcess[str]:
    program = ("-c", RUN_SAMPLE, library, sample, json.dumps(values))
    return run_python(*program, environment=sanitizing_environment())


def some_values(count: int) -> list[float]:
    return [float(i * 7 % 11 - 3) for i in range(count)]


@pytest.mark.parametrize("lanes", [32, 64])
def test_warps_exchange_values(samples: Build, lanes: int) -> None:
    values = some_values(2 * THREADS)
    error, sums, _ = run(samples(lanes, "traced"), "sum_warps", values)
    assert error == ""
    firsts = range(0, len(values), lanes)
    assert sums == [sum(values[i : i + lanes]) for i in firsts for _ in range(lanes)]

    error, votes, _ = run(samples(lanes, "traced"), "vote_in_groups", values)
    assert error == ""
    expected = []
    for i, value in enumerate(values):
        group = values[i // 8 * 8 : i // 8 * 8 + 8]
        positive = sum(x > 0 for x in group)
        before = value if i % 8 == 0 else values[i - 1]
        expected.append(before + positive + 100 * (positive > 0) + 1000 * (positive == 8))
    assert votes == expected


def test_barriers_and_atomics_work(samples: Build) -> None:
    values = some_values(3 * THREADS)
    library = samples(32, "traced")
    error, reversed_values, launch = run(library, "reverse", values)
    assert error == ""
    blocks = [values[i : i + THREADS] for i in range(0, len(values), THREADS)]
    assert reversed_values == [value for block in blocks for value in reversed(block)]
    assert launch == {"kernel": "reverse", "loaded": 4 * 3 * THREADS, "stored": 4 * 3 * THREADS}

    error, counted, _ = run(library, "count_positive", values)
    assert error == ""
    assert counted[0] == values[0] + sum(value > 0 for value in values[1:])


@pytest.mark.parametrize("seed", range(4))
def test_the_last_block_sees_what_the_others_stored(samples: Build, seed: int) -> None:
    values = some_values(5 * THREADS)
    library = samples(32, "traced")
    shuffle = ctypes.CDLL(str(library)).cuda_emulator_shuffle_blocks
    shuffle(seed)
    error, added, _ = run(library, "add_in_last_block", values)
    shuffle(0)
    assert error == ""
    others = sum(2 * values[i * THREADS + i + 1] for i in range(5))
    assert added == [2 * values[0] + others, *(2 * value for value in values[1:])]


def test_bytes_are_counted_once(samples: Build) -> None:
    library = samples(32, "traced")
    _, _, launch = run(library, "fill", some_values(300))
    assert launch == {"kernel": "fill", "loaded": 0, "stored": 4 * 300}
    _, _, launch = run(library, "sum_warps", some_values(2 * THREADS))
    assert launch == {"kernel": "sum_warps", "loaded": 8 * THREADS, "stored": 8 * THREADS}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("reverse_without_barrier", "shared memory is read before it is written"),
        ("overwrite_without_barrier", "data race: a thread misses what another one writes"),
        ("write_one_place", "data race"),
        ("add_without_fence", "data race: a thread misses what another one writes"),
        ("add_without_barrier", "data race: a thread misses what another one writes"),
        ("add_without_second_fence", "data race: a thread misses what another one writes"),
        ("read_what_another_block_writes", "data race: a thread writes what another one reads"),
        ("read_shared_memory_of_the_last_block", "shared memory is read before it is written"),
        ("barrier_for_half", "barrier in divergent code: thread 0 waits at"),
        ("barriers_in_two_branches", "barrier in divergent code: thread 0 waits at"),
        ("shuffle_in_a_branch", "shuffle or vote in divergent code: thread 0 waits at"),
        ("shuffle_from_outside_the_mask", "a shuffle reads a lane that is not in its mask"),
    ],
)
@pytest.mark.parametrize("lanes", [32, 64])
def test_wrong_kernels_are_caught(samples: Build, lanes: int, sample: str, message: str) -> None:
    error, _, _ = run(samples(lanes, "traced"), sample, some_values(2 * THREADS))
    assert error.startswith(f"{sample}: {message}")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("fill_beyond_the_end", "AddressSanitizer: heap-buffer-overflow"),
        ("fill_beyond_shared_memory", "index 128 out of bounds for type 'float [128]'"),
        ("read_misaligned", "misaligned address"),
    ],
)
def test_wrong_accesses_are_caught(samples: Build, sample: str, message: str) -> None:
    child = run_sanitized(samples(64, "sanitized"), sample, some_values(300))
    assert child.returncode != 0
    assert message in child.stderr


def test_sanitizers_accept_what_is_right(samples: Build) -> None:
    values = some_values(2 * THREADS)
    child = run_sanitized(samples(64, "sanitized"), "sum_warps", values)
    assert child.returncode == 0, child.stderr
    result = json.loads(child.stdout)
    assert result["error"] == ""
    assert result["values"][:64] == [sum(values[:64])] * 64
