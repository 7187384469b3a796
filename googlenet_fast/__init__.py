"""GoogLeNet (Inception v1) trained and run as fast as the hardware allows.

Names are imported on first use (PEP 562), so `import googlenet_fast` does not import torch.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from googlenet_fast.classifier import load
    from googlenet_fast.errors import GoogLeNetError
    from googlenet_fast.model import FeatureMaps, GoogLeNet, GoogLeNetOutputs
    from googlenet_fast.model.weights import load_model, load_weights, save_weights

if sys.argv[:1] == ["-m"]:  # python -m googlenet_fast.COMMAND: before it imports torch
    from googlenet_fast.errors import check_address_space, end_on_interrupt, run_command
    from googlenet_fast.files import cache_dir

    check_address_space()
    run_command(cache_dir)
    end_on_interrupt()

__version__ = "0.2.0"

__all__ = [
    "FeatureMaps", "GoogLeNet", "GoogLeNetError", "GoogLeNetOutputs", "load", "load_model",
    "load_weights", "save_weights",
]  # fmt: skip

_MODULES = {
    "FeatureMaps": "model",
    "GoogLeNet": "model",
    "GoogLeNetError": "errors",
    "GoogLeNetOutputs": "model",
    "load": "classifier",
    "load_model": "model.weights",
    "load_weights": "model.weights",
    "save_weights": "model.weights",
}
"""Public name -> the module that defines it."""

if not TYPE_CHECKING:  # for type checkers, a name that is not defined above is an error

    def __getattr__(name: str) -> Any:
        if name in ("model", "ops"):
            return import_module(f"{__name__}.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "model", "ops"})
