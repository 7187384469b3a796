"""Damaged and hostile files: refused in one line, nothing in them runs."""

import io
import json
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_model, save_weights
from tests.model.weights.caffe_proto import net_parameter

LOAD_ERRORS = "damaged|cannot be read|declares shape|is not a whole array|is missing|no key"


class Payload:
    """Unpickles to a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def assert_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(GoogLeNetError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("inside", [False, True])
def test_pdparams_that_run_a_command(protocol: int, inside: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    payload = Payload(os.system, f"touch {trace}")
    entries = {"_conv._conv.weight": np.zeros(3), "_fc_out.bias": payload} if inside else payload
    content = pickle.dumps(entries, protocol=protocol)
    assert_refused(tmp_path / "w.pdparams", content, r"refused, it asks for (posix|nt)\.system")
    assert not trace.exists()


@pytest.mark.parametrize(
    "function",
    [eval, getattr, np.load, np.frombuffer, np.lib.format.open_memmap, io.open, torch.load],
)
def test_pdparams_that_ask_for_anything_else(function: Any, tmp_path: Path) -> None:
    content = pickle.dumps({"_fc_out.bias": Payload(function, "1")}, protocol=4)
    assert_refused(tmp_path / "w.pdparams", content, "refused, it asks for")


def test_pdparams_that_reserve_memory(tmp_path: Path) -> None:
    huge = (1 << 40,)
    reconstruct = np.zeros(1).__reduce__()[0]
    for payload in (
        Payload(np.ndarray, huge),
        Payload(reconstruct, np.ndarray, huge, b"b"),
    ):
        content = pickle.dumps({"_fc_out.bias": payload}, protocol=4)
        assert_refused(tmp_path / "w.pdparams", content, LOAD_ERRORS)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04Nr\xff\xff\xff\xff.",  # a memo index of 2**32 - 1
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",  # a bytearray of 64 GB
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b".",  # bytes of 64 GB
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 36) + b"N.",  # a frame of 64 GB
    ],
)
def test_pickles_that_reserve_memory(content: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    assert_refused(tmp_path / "w.pdparams", content, "damaged|no dict of arrays|refused")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


class Forged:
    """Unpickles to an array with a state of one's choice."""

    def __init__(self, shape: Any, dtype: Any, data: Any) -> None:
        self.state = (1, shape, dtype, False, data)

    def __reduce__(self) -> tuple[Any, ...]:
        return (*np.zeros(1).__reduce__()[:2], self.state)


@pytest.mark.parametrize(
    "entry",
    [
        Forged((1 << 40,), np.dtype("f4"), b"1234"),
        Forged((-1, -1), np.dtype("f4"), b"1234"),
        Forged((2.0,), np.dtype("f4"), b"12345678"),
        Forged("ab", np.dtype("f4"), b"12345678"),
        Forged((2,), np.dtype("f4"), "12345678"),
        Forged((2,), "f4", b"12345678"),
        Forged((2,), np.dtype("i4"), b"12345678"),
        Forged((2,), np.dtype("O"), [1, 2]),
        Forged((1,), np.dtype([("a", "f4"), ("b", "f4")]), b"12345678"),
        np.array(["text", None], dtype=object),
        np.array([1, 2]),
        [1.0, 2.0],
        "text",
        None,
    ],
)
def test_pdparams_with_other_things_than_arrays_of_floats(entry: Any, tmp_path: Path) -> None:
    content = pickle.dumps({"_fc_out.bias": entry}, protocol=4)
    assert_refused(tmp_path / "w.pdparams", content, "_fc_out.bias is not a whole array|damaged")


def test_pdparams_of_another_network(tmp_path: Path) -> None:
    content = pickle.dumps({"conv1_weights": np.zeros(3, "f4")}, protocol=4)
    assert_refused(tmp_path / "w.pdparams", content, "'conv1_weights' is not a parameter of Goog")
    assert_refused(tmp_path / "w.pdparams", pickle.dumps([1], protocol=4), "no dict of arrays")


def test_torch_files_that_run_a_command(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for zip_archive in (True, False):
        buffer = io.BytesIO()
        torch.save(
            {"fc.weight": Payload(os.system, f"touch {trace}")},
            buffer,
            _use_new_zipfile_serialization=zip_archive,
        )
        assert_refused(tmp_path / "w.pth", buffer.getvalue(), r"asks for (posix|nt)\.system")
    assert not trace.exists()


def test_torch_files_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(1).expand(1 << 40, 1024)}, buffer)
    assert_refused(tmp_path / "w.pth", buffer.getvalue(), r"fc\.weight declares shape")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"model": 3}, {1: torch.zeros(2)}])
def test_torch_files_without_a_state_dict(content: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    assert_refused(tmp_path / "w.pth", buffer.getvalue(), r"state dict|fc\.weight|is not a tensor")


def test_caffemodels_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    net: Any = net_parameter()()
    blob = net.layer.add(name="loss3/classifier").blobs.add(data=b"1234" * 4)
    blob.shape.dim.extend([1 << 40, 1024])
    assert_refused(tmp_path / "w.caffemodel", net.SerializeToString(), "loss3/classifier weight")
    del blob.shape.dim[:]
    blob.shape.dim.extend([-2, -2])
    assert_refused(tmp_path / "w.caffemodel", net.SerializeToString(), r"\(-2, -2\) but holds 4")


def test_caffemodel_of_another_network(tmp_path: Path) -> None:
    net: Any = net_parameter()()
    net.layer.add(name="fc8").blobs.add(data=b"1234").shape.dim.append(1)
    assert_refused(tmp_path / "w.caffemodel", net.SerializeToString(), "layer 'fc8' is not one of")


def test_safetensors_with_a_wrong_description(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for key, value, message in (
        ("preset", "resnet", "field preset cannot be 'resnet'"),
        ("class_names", json.dumps(["a", 3]), "field class_names cannot be"),
        ("class_names", json.dumps(["a", "b", "c"]), "3 class names for 2 classes"),
        ("image_size", "-3", "field image_size cannot be -3"),
        ("dropout", "7", "field dropout cannot be 7"),
        ("lrn", "nonsense", "not JSON"),
    ):
        header = {
            "__metadata__": {key: value},
            "fc.weight": {"dtype": "F32", "shape": [2, 1024], "data_offsets": [0, 8192]},
        }
        text = json.dumps(header).encode()
        assert_refused(path, struct.pack("<Q", len(text)) + text + bytes(8192), message)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pdparams", ".caffemodel"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    save_weights(
        GoogLeNet("paper" if suffix == ".caffemodel" else "paddleclas", 2, aux=False), path
    )
    content = path.read_bytes()
    for length in (1, 20, 200, len(content) // 2, len(content) - 3):
        assert_refused(path, content[:length], LOAD_ERRORS)


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04", b"not weights at all\n", bytes(1000), b"\xff" * 1000]
)
def test_files_that_are_no_weights(content: bytes, tmp_path: Path) -> None:
    assert_refused(tmp_path / "w.pth", content, "damaged")


def test_random_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng()
    for prefix in (b"", b"\x80\x04", b"PK\x03\x04", struct.pack("<Q", 64) + b"{"):
        assert_refused(tmp_path / "w", prefix + random.bytes(500), LOAD_ERRORS)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(GoogLeNetError, match=f"weights {path}: "):
            load_model(path)
