"""Single layers of the network: every backend of each op beside eager PyTorch, from cold caches."""

from functools import partial
from typing import Any

from benchmarks.gpu_run.setting import Setting
from benchmarks.layers import calls, time_layer
from googlenet_fast.registry import OPS, Call
from googlenet_fast.selfcheck.layers import describe

DRY_RUN = ("pool1",)
"""The layers of a dry run."""


def run(setting: Setting) -> None:
    """Record the median milliseconds, the ratio to eager PyTorch and the error of each."""
    for training in (True, False):
        for op in OPS:
            for layer, call in calls(op).items():
                if layer in DRY_RUN or not setting.dry_run:
                    key = "training" if training else "inference", op, layer
                    setting.attempt(*key, measure=partial(_time, op, layer, call, training))


def _time(op: str, layer: str, call: Call, training: bool) -> dict[str, Any]:
    measured = time_layer(op, layer, call, training=training, compile_modes=())
    providers = {
        name: {"milliseconds": found.p50, "ratio": found.ratio, "error": found.error}
        for name, found in measured.items()
    }
    return {"shape": describe(call), "providers": providers}
