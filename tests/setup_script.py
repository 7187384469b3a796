"""setup.py as a module. Importing it builds nothing."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

PATH = Path(__file__).parents[1] / "setup.py"


@cache
def setup() -> ModuleType:
    """Import setup.py once."""
    spec = importlib.util.spec_from_file_location("googlenet_fast_setup", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
