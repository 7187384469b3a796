"""What importing the package costs and gives, from the folder of a clone."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import googlenet_fast
from googlenet_fast.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]


def run(program: str, **environment: str) -> str:
    """Run a program in the root of the clone; return what it prints."""
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import googlenet_fast, googlenet_fast.files, sys; print('torch' in sys.modules)"
    assert run(program) == "False"


@pytest.mark.parametrize("command", [*COMMANDS, "data check", "data shard"])
@pytest.mark.parametrize("mistake", ["--help", "--version", "--no-such-flag"])
def test_help_and_mistakes_do_not_wait_for_torch(command: str, mistake: str) -> None:
    program = f"""
import sys
from googlenet_fast import __main__
sys.argv = ["googlenet-fast", *{command.split()}, {mistake!r}]
try:
    __main__.entry_point()
except SystemExit:
    pass
print([name for name in ("torch", "numpy") if name in sys.modules])
"""
    assert run(program).splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", googlenet_fast.__all__)
def test_public_names_are_found_listed_and_pickled(name: str) -> None:
    assert name in dir(googlenet_fast)
    value = getattr(googlenet_fast, name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_subpackages_are_attributes() -> None:
    program = "import googlenet_fast as g; print(g.ops.inception.__name__, g.model.__name__)"
    assert run(program) == "inception googlenet_fast.model"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(googlenet_fast, "missing")
    with pytest.raises(ImportError, match="cannot import name 'missing'"):
        exec("from googlenet_fast import missing")


def test_the_folder_of_kernels_hides_no_package_of_that_name(tmp_path: Path) -> None:
    package = tmp_path / "kernels" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    assert run("import kernels; print(kernels.__file__)", PYTHONPATH=str(tmp_path)) == str(package)


def test_kernels_have_one_name() -> None:
    from googlenet_fast.kernels import launch

    assert launch.__name__ == "googlenet_fast.kernels.launch"
    assert Path(launch.__file__).resolve() == ROOT / "kernels" / "launch.py"
