"""An environment that commands cannot run in is named in one line."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from googlenet_fast import errors, files
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.errors import GoogLeNetError, run_command

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (),
    "evaluate": ("none.pt",),
    "predict": ("none.pt", "none.jpg"),
    "doctor": (),
}
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NOBODY = """
import pwd

def unknown(number):
    raise KeyError(number)

pwd.getpwuid = unknown
"""
"""A sitecustomize.py for a user whom the system does not know, as in many containers."""


def error_of(
    arguments: Sequence[str],
    folder: Path,
    more: Mapping[str, str] | None = None,
    address_space: int = 0,
) -> str:
    """What a command says, which must be one line, with exit status 2."""
    environment = {k: v for k, v in os.environ.items() if k not in TORCHRUN} | dict(more or {})
    environment["PYTHONPATH"] = f"{folder}:{ROOT}"

    def limit() -> None:
        if address_space:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, preexec_fn=limit, capture_output=True, text=True,
        env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("size", [400_000 << 10, 3_000_000 << 10])
def test_too_small_an_address_space(command: str, size: int, tmp_path: Path) -> None:
    """torch would not be imported in the first, and would abort in the second."""
    arguments = ("-m", f"googlenet_fast.{command}", *COMMANDS[command])
    line = error_of(arguments, tmp_path, address_space=size)
    assert line.startswith(f"error: ulimit -v {size >> 10}: is too small, 4194304 or more")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_during_imports_ends_without_a_traceback(command: str, tmp_path: Path) -> None:
    interrupted = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    (tmp_path / "torch.py").write_text(interrupted)
    done = subprocess.run(
        [sys.executable, "-m", f"googlenet_fast.{command}", *COMMANDS[command]],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "zero"}, "environment variable RANK=zero: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "environment variable MASTER_ADDR is not set, but WOR"),
    ],
)
def test_what_torchrun_sets(
    command: str, environment: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "none.jpg").touch()
    if command == "predict" and "WORLD_SIZE" in environment:
        expected = "prediction runs in one process; start it without torchrun"
    arguments = ("-m", f"googlenet_fast.{command}", *COMMANDS[command])
    assert expected in error_of(arguments, tmp_path, environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "zero"}, "RANK=zero: must be a whole number of 0 or more"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: must be"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be a whole number of 1 or more"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE=: must be"),
        ({"RANK": "1"}, "RANK=1: must be below WORLD_SIZE, which is 1"),
        ({"WORLD_SIZE": "2"}, "RANK is not set, but WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set, but WORLD_SIZE=2"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "::1"},
            "MASTER_PORT is not set, but WORLD_SIZE=2",
        ),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http: must be"),
    ],
)
def test_variables_of_torchrun(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in TORCHRUN:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with (
        pytest.raises(GoogLeNetError, match=f"environment variable {expected}"),
        distributed("cpu"),
    ):
        pass


@pytest.mark.parametrize("command", COMMANDS)
def test_no_home(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "GOOGLENET_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    arguments = ("-m", f"googlenet_fast.{command}", *COMMANDS[command])
    assert error_of(arguments, tmp_path).startswith("error: HOME is not set, and this user has no")


def test_the_cache_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("HOME", "GOOGLENET_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(
        GoogLeNetError, match=r"HOME is not set, .*; set HOME, or GOOGLENET_FAST_CACHE"
    ):
        files.cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / "googlenet_fast"


def fail_with(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_runs_out_under_a_limit(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "_address_space", lambda: 5 << 30)
    with pytest.raises(SystemExit) as exit_:
        run_command(fail_with(error))
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert line == "error: ulimit -v 5242880: is too small for this command; raise the limit\n"
    monkeypatch.setattr(errors, "_address_space", lambda: None)
    with pytest.raises(type(error)):
        run_command(fail_with(error))
