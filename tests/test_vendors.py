import pytest
import torch

from googlenet_fast.vendors import is_other_vendors


@pytest.mark.parametrize(
    "version",
    [
        torch.__version__,
        "2.14.1",
        "2.7.1+cu126",
        "2.13.0+cpu",
        "2.4.1+cpu.cxx11.abi",
        "2.15.0a0+git1a2b3c4",
        "2.8.0a0+5228986c39.nv25.5",
        "2.15.0.dev20261101+cu130",
    ],
)
def test_builds_for_nvidia_and_for_cpus(version: str) -> None:
    assert not is_other_vendors(version)


@pytest.mark.parametrize(
    "version", ["2.4.1+corex.4.3.0", "2.7.1+corex", "2.9.1+rocm6.4", "2.10.0+xpu", "2.6.0+metax3.0"]
)
def test_other_vendors_builds(version: str) -> None:
    assert is_other_vendors(version)
