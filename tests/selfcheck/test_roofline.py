import pytest

from googlenet_fast.registry import Work
from googlenet_fast.selfcheck.roofline import PEAKS, Peak, peak_of, share


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("Iluvatar BI-V100", "BI-V100"),
    ],
)
def test_names_that_pytorch_gives_are_found(name: str, key: str) -> None:
    assert peak_of(name) is PEAKS[key]


@pytest.mark.parametrize(
    "name", ["NVIDIA RTX A1000", "NVIDIA T400", "NVIDIA GeForce RTX 4090 Laptop GPU", ""]
)
def test_names_that_only_look_alike_are_not_found(name: str) -> None:
    assert peak_of(name) is None


def test_the_roofline_is_the_larger_of_two_times() -> None:
    peak = Peak(tflops=2.0, tbps=0.5)
    assert share(Work(4e12, 1e9), 4.0, peak) == 0.5
    assert share(Work(1e9, 1e12), 4.0, peak) == 0.5
    assert share(Work(1, 1), None, peak) is None
    assert share(Work(1, 1), 1.0, None) is None
