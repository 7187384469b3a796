"""Files made to take all time or memory are refused in one line, within bounds of both."""

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights import load_model
from tests.helpers import run_python

SECONDS = 10
MEBIBYTES = 2048

# Parts of pickles. Each leaves one value on the stack.
DOUBLED = b")" + b"2\x86" * 80
"""A tuple of two tuples of two tuples and so on: 2**80 leaves, in 160 bytes."""
BIG_TUPLE = b"(" + b"K\x01" * 1_000_000 + b"t"
AGAIN = b"2"
"""The value before, once more."""
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: float) -> bytes:
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    encoded = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + encoded


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def entry(key: bytes, value: bytes = b"N") -> bytes:
    """A dict with one entry."""
    return pickled(b"}" + key + value + b"s")


def tensor(size: bytes, stride: bytes, numel: bytes, offset: bytes = b"K\x00") -> bytes:
    """A state dict with one tensor of such a shape, in the storage "0" of so many values."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += numel + b"tQ"
    arguments = b"(" + storage + offset + size + stride + b"\x89Nt"
    return entry(text("fc.weight"), TENSOR + arguments + b"R")


def zipped(content: bytes, storage: bytes = bytes(64), *, kind: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive as torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", storage)
    return buffer.getvalue()


def before_archives(content: bytes, keys: bytes = b"]") -> bytes:
    """The format of torch.save before it wrote zip archives."""
    magic = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
    return magic + pickled(b"M\xe9\x03") + pickled(b"}") + content + pickled(keys)


def overlapping() -> bytes:
    """An archive with 2,000 tensors in storages of their own, which are the same 8 MB."""
    tensors = b"".join(
        text(f"{i}.weight")
        + TENSOR
        + (b"((" + text("storage") + b"ctorch\nFloatStorage\n" + text(f"{i:04}") + text("cpu"))
        + (number(1 << 21) + b"tQK\x00" + b"K\x01\x85" + b"K\x01\x85" + b"\x89NtR")
        for i in range(2000)
    )
    content = bytearray(zipped(pickled(b"}(" + tensors + b"u"), bytes(1 << 23)))
    names = b""
    directory = zipfile.ZipFile(io.BytesIO(bytes(content))).start_dir
    record = bytes(content[directory:])
    at = record.index(b"PK\x01\x02", 4)
    one = record[at : record.index(b"PK\x05\x06")]
    for i in range(2000):
        name = f"archive/data/{i:04}".encode()
        names += one[:28] + struct.pack("<H", len(name)) + one[30:46] + name
    first = record[:at]
    end = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 2001, 2001, len(first) + len(names), directory, 0
    )
    return bytes(content[:directory]) + first + names + end


def safetensors(header: object, data: bytes = bytes(8192)) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def described(shape: Sequence[float], offsets: Sequence[float], dtype: str = "F32") -> object:
    return {"fc.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def caffe(shape: bytes, data: bytes = b"1234") -> bytes:
    blob = field(7, field(1, shape)) + field(5, data)
    return field(100, field(1, b"loss3/classifier") + field(7, blob))


def nested_messages() -> bytes:
    content = b""
    for _ in range(3000):
        content = field(100, content)
    return content


def again(value: bytes, times: int, each: bytes) -> bytes:
    """A pickle that keeps a value in its memo and runs `each` many times."""
    return pickled(value + b"q\x00" + b"0" + each * times + b"}")


def hostile_pickles() -> Iterator[tuple[str, bytes]]:
    yield "a doubled tuple as key", entry(DOUBLED)
    yield "doubled tuples as keys", pickled(b"}(" + (DOUBLED + b"N") * 20 + b"u")
    yield "a dict made of a mark", pickled(b"(" + DOUBLED + b"Nd")
    yield "a doubled tuple in a set", b"\x80\x04\x8f(" + DOUBLED + b"\x90."
    yield "a doubled tuple in a frozenset", b"\x80\x04(" + DOUBLED + b"\x91."
    yield "a doubled tuple as a name", entry(text("fc.weight"), DOUBLED)
    yield "depth", pickled(b"]" * 500_000 + b"a" * 499_999)
    yield "depth in a dict", entry(text("fc.weight"), b"]" * 300_000 + b"a" * 299_999)
    yield "a list in itself", pickled(b"]q\x00h\x00a")
    yield "a dict in itself", pickled(b"}q\x00" + text("model") + b"h\x00s")
    yield "a million instructions", pickled(b"N0" * 3_000_000 + b"}")
    yield "an endless number", pickled(b"L" + b"9" * 5_000_000 + b"L\n")
    yield (
        "a long integer as key",
        again(b"\x8b\x40\x42\x0f\x00" + b"\x7f" * 1_000_000, 1, b"")
        + (pickled(b"}" + (b"h\x00" + b"Ns") * 100)),
    )
    yield "a memo index", b"\x80\x04Nr\xff\xff\xff\xff."
    yield "text of 4 GB", b"\x80\x04X\xff\xff\xff\xffabc."
    yield "bytes of an exabyte", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"."
    yield "a bytearray of an exabyte", b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"."
    yield "a frame of an exabyte", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."
    yield "an extension", b"\x80\x02\x82\x01."
    yield "a persistent id", pickled(b"NQ")
    huge = text("x" * 1_000_000)
    encode = b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R0"
    yield "bytes made again and again", again(huge, 60_000, encode)
    yield (
        "long names again and again",
        b"\x80\x04" + huge + b"q\x000" + (b"h\x00h\x00\x93" * 200_000 + b"}."),
    )
    yield (
        "arguments again and again",
        again(BIG_TUPLE, 200_000, b"ccollections\nOrderedDict\nh\x00R0"),
    )
    yield "ids again and again", again(BIG_TUPLE, 200_000, b"h\x00Q0")
    state = again(b"cnumpy\ndtype\n" + huge + b"\x85R", 200_000, b"h\x00h\x00\x85b0")
    yield "states again and again", state


def hostile_tensors() -> Iterator[tuple[str, bytes]]:
    small, one = b"K\x04\x85", b"K\x01\x85"
    yield "a million axes", tensor(BIG_TUPLE, AGAIN, b"K\x10")
    yield "petabytes in a storage", tensor(number(1 << 50) + b"\x85", one, number(1 << 50))
    yield "petabytes in a tensor", tensor(number(1 << 50) + b"\x85", one, b"K\x10")
    yield "repeated values", tensor(number(1 << 40) + b"\x85", b"K\x00\x85", b"K\x10")
    yield "a negative size", tensor(number(-1) + b"\x85", one, b"K\x10")
    yield "a size that is no number", tensor(number(float("nan")) + b"\x85", one, b"K\x10")
    yield "an endless stride", tensor(small, number(float("inf")) + b"\x85", b"K\x10")
    yield "a stride out of the storage", tensor(small, number(1 << 61) + b"\x85", b"K\x10")
    yield "an offset out of the storage", tensor(small, one, b"K\x10", number(1 << 61))
    yield "a negative offset", tensor(small, one, b"K\x10", number(-1))
    yield "a storage of NaN values", tensor(small, one, number(float("nan")))
    yield "a storage of -1 values", tensor(small, one, number(-1))


def hostile_arrays() -> Iterator[tuple[str, bytes]]:
    """Of NumPy, in .pdparams."""
    make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text("b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text("f4") + b"K\x00K\x01tR"

    def array(shape: bytes, data: bytes = b"C\x04abcd") -> bytes:
        return entry(
            text("_fc_out.bias"), make + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"
        )

    yield "an array of a million axes", array(BIG_TUPLE)
    yield "an array of petabytes", array(number(1 << 50) + b"\x85")
    yield "an array of NaN values", array(number(float("nan")) + b"\x85")
    yield "an array of -1 values", array(number(-1) + b"\x85")
    yield "an array of a doubled tuple", array(DOUBLED)


def hostile_files() -> Iterator[tuple[str, bytes]]:
    for name, content in [*hostile_pickles(), *hostile_tensors()]:
        yield f"{name}, zip", zipped(content)
        yield f"{name}, old", before_archives(content)
    for name, content in [*hostile_pickles(), *hostile_arrays()]:
        yield f"{name}, pdparams", content
    yield (
        "storages with doubled tuples for keys",
        before_archives(pickled(b"}"), b"](" + DOUBLED * 2 + b"e"),
    )
    good = tensor(b"K\x10\x85", b"K\x01\x85", b"K\x10")
    bomb = bytes(1 << 28)
    yield "a zip bomb", zipped(good, bomb, kind=zipfile.ZIP_DEFLATED)
    yield "a pickle in a zip bomb", zipped(bomb, kind=zipfile.ZIP_DEFLATED)
    yield "overlapping parts", overlapping()
    names = io.BytesIO()
    with zipfile.ZipFile(names, "w") as archive:
        for i in range(65_000):
            archive.writestr(f"archive/data/{i:060}", b"")
    yield "too many parts", names.getvalue()
    yield "depth, safetensors", safetensors(b'{"__metadata__":' + b"[" * 1_000_000)
    yield "a million axes, safetensors", safetensors(described([1] * 1_000_000, [0, 4]), b"1234")
    for offsets in ([0, 1 << 60], [-4, 0], [4, 0], [0, 4], [0.5, 4.5], [1 << 70, 1 << 71]):
        yield f"offsets {offsets}", safetensors(described([1 << 40, 1 << 20], offsets))
    yield "NaN", safetensors(described([float("nan")], [0, 8192]))
    yield "an unknown type", safetensors(described([2, 1024], [0, 8192], "F1024"))
    two = {"a": {"dtype": "F32", "shape": [2048], "data_offsets": [0, 8192]}}
    yield "overlapping tensors", safetensors({**two, "b": two["a"]})
    yield "a header of 90 MB", struct.pack("<Q", 90_000_000) + b"{" + b" " * 90_000_000
    metadata = {"__metadata__": {"class_names": "[" * 1_000_000}, **two}
    yield "depth in metadata", safetensors(metadata)
    yield "a million axes, caffemodel", caffe(b"\x01" * 1_000_000)
    yield "petabytes, caffemodel", caffe(varint(1 << 50) + varint(1 << 10))
    yield "negative sides, caffemodel", caffe(varint(-2) + varint(-2), b"1234" * 4)
    yield "empty layers, caffemodel", field(100, b"") * 10_000_000
    yield "empty blobs, caffemodel", field(100, field(1, b"a") + field(7, b"") * 10_000_000)
    yield "nested messages", nested_messages()
    yield "nested groups", b"\x0b" * 1_000_000
    yield "a length past the end", b"\xa2\x06" + varint(1 << 62)
    yield "an endless varint", b"\xff" * 1_000_000


CHILD = f"""
import resource, sys, time
from pathlib import Path
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights import load_model

(size,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = int(size) * 1024 + {MEBIBYTES} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for file in sorted(Path(sys.argv[1]).iterdir()):
    started = time.monotonic()
    try:
        load_model(file)
        outcome = "loaded"
    except GoogLeNetError as error:
        outcome = f"refused: {{error}}"
    except BaseException as error:
        outcome = f"{{type(error).__name__}}"
    print(f"{{time.monotonic() - started:.2f}}\\t{{outcome!r}}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux counts it")
def test_hostile_files_are_refused_within_bounds(tmp_path: Path) -> None:
    files = dict(hostile_files())
    for i, content in enumerate(files.values()):
        (tmp_path / f"{i:03}").write_bytes(content)
    child = run_python("-c", CHILD, tmp_path)
    lines = child.stdout.splitlines()
    wrong = []
    for name, line in zip(files, lines, strict=False):
        seconds, outcome = line.split("\t")
        refused = outcome.startswith(("'refused: weights", '"refused: weights'))
        if not refused or "\\n" in outcome or len(outcome) > 500 or float(seconds) > SECONDS:
            wrong.append(f"{name}: {seconds} s, {outcome[:200]}")
    assert not wrong, "\n".join(wrong)
    assert len(lines) == len(files), f"{list(files)[len(lines)]}: {child.stderr[-500:]}"


def test_files_that_are_none(tmp_path: Path) -> None:
    """A FIFO would block, a device would never end, and a sparse file would fill the memory."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 42)
    for path, message in (
        (tmp_path / "fifo", "not a file"),
        (Path("/dev/zero"), "not a file"),
        (tmp_path, "not a file"),
        (tmp_path / "sparse", "bytes are more than GoogLeNet's weights take"),
    ):
        with pytest.raises(GoogLeNetError, match=message):
            load_model(path)


def test_keys_that_are_dropped_leave_the_rest(tmp_path: Path) -> None:
    """A checkpoint may have tuples as keys somewhere, in what is not needed."""
    from googlenet_fast.model.weights.unpickler import Unpickler

    value = {"a": {(1, 2): 3, 4: 5, "b": {6, 7}}, "c": [frozenset([8])], 2**70: 9}
    read = Unpickler(io.BytesIO(pickle.dumps(value)), {}).load()
    assert read == {"a": {4: 5, "b": [6, 7]}, "c": [[8]]}
