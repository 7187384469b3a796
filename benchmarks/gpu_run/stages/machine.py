"""The machine, the versions and the extension; refuses a machine without a GPU."""

import os

import torch

from benchmarks.gpu_run.setting import Setting
from googlenet_fast.environment import describe_extension, devices, versions


def run(setting: Setting) -> None:
    """Record what the results depend on."""
    if not setting.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --dry-run rehearses on the CPU")
    gpu = "no GPU: a dry run" if setting.dry_run else torch.cuda.get_device_name()
    setting.row("gpu", value=gpu)
    about = {**versions(), **devices(), **describe_extension(), "cores": str(os.cpu_count())}
    about["cudnn"] = str(torch.backends.cudnn.version())
    setting.row("about", **about)
