"""What GPUs can do at most, as their makers publish it, and what share of it a time reaches."""

import re
from typing import NamedTuple

from googlenet_fast.registry import Work


class Peak(NamedTuple):
    """The two limits of a roofline."""

    tflops: float
    """10^12 operations a second of fp16 matrix products summed in fp32, without sparsity."""
    tbps: float
    """10^12 bytes a second to and from the GPU's memory."""


PEAKS = {
    # Data sheets at nvidia.com, "Tensor Core" figures halved where they are "with sparsity".
    "B200": Peak(2250, 8.0),
    "GH200": Peak(989, 4.0),
    "H200": Peak(989, 4.8),
    "H100": Peak(989, 3.35),
    "H100 NVL": Peak(835, 3.9),
    "H100 PCIe": Peak(756, 2.0),
    "A100-SXM4-80GB": Peak(312, 2.039),
    "A100 80GB PCIe": Peak(312, 1.935),
    "A100": Peak(312, 1.555),
    "A30": Peak(165, 0.933),
    "A40": Peak(150, 0.696),
    "A10": Peak(125, 0.6),
    "A10G": Peak(70, 0.6),
    "L4": Peak(121, 0.3),
    "L40": Peak(181, 0.864),
    "L40S": Peak(362, 0.864),
    "V100": Peak(125, 0.9),
    "V100-PCIE": Peak(112, 0.9),
    "V100S": Peak(130, 1.134),
    "T4": Peak(65, 0.32),
    "RTX A6000": Peak(155, 0.768),
    "RTX 6000 Ada": Peak(364, 0.96),
    # Architecture white papers at nvidia.com (Turing, GA102, Ada, Blackwell), appendix tables:
    # GeForce cards sum in fp32 at half the rate of summing in fp16.
    "RTX 2080 Ti": Peak(54, 0.616),
    "RTX 3080": Peak(60, 0.76),
    "RTX 3090": Peak(71, 0.936),
    "RTX 3090 Ti": Peak(80, 1.008),
    "RTX 4080": Peak(97, 0.717),
    "RTX 4090": Peak(165, 1.008),
    "RTX 5090": Peak(209, 1.792),
    # https://www.techpowerup.com/gpu-specs, from the maker's announcement.
    "BI-V100": Peak(147, 1.2),
}
"""By a part of the name that PyTorch gives for the device; of several, the longest is meant."""


def peak_of(device_name: str) -> Peak | None:
    """Return the limits of a GPU, or None for one that is not in the list.

    Args:
        device_name: as `torch.cuda.get_device_name` returns it.
    """
    if "Laptop" in device_name:  # far below the desktop cards that they share names with
        return None
    names = [name for name in PEAKS if re.search(rf"\b{re.escape(name)}\b", device_name)]
    return PEAKS[max(names, key=len)] if names else None


def least_seconds(work: Work, peak: Peak) -> float:
    """Return the least time in which a device with these limits can do the work."""
    return max(work.operations / (peak.tflops * 1e12), work.bytes / (peak.tbps * 1e12))


def share(work: Work, seconds: float | None, peak: Peak | None) -> float | None:
    """Return the share of the roofline that a time reaches: 1 is as fast as the limits allow."""
    if seconds is None or peak is None:
        return None
    return least_seconds(work, peak) / seconds
