"""What a measurement was made on."""

import subprocess
from pathlib import Path

import psutil
import torch

import googlenet_fast
from googlenet_fast.environment import cpu_name


def machine() -> dict[str, str | int | float]:
    """Return the device, its threads and load, and the versions that a measurement belongs to."""
    cuda = torch.cuda.is_available()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return {
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": round(psutil.getloadavg()[0], 2),
        "torch": torch.__version__,
        "version": googlenet_fast.__version__,
        "commit": commit.stdout.strip(),
    }
