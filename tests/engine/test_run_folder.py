"""The folder of a run: whose it is, and which of its checkpoints a run goes on from."""

import errno
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from googlenet_fast import files
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.run_folder import RunFolder
from googlenet_fast.errors import GoogLeNetError
from tests.engine.runs import warm_process


def save(folder: RunFolder, step: int, *, best: bool = False) -> None:
    folder.save_checkpoint({"step": step, "weight": torch.full((1000,), float(step))}, best=best)


def begun(path: Path, *steps: int) -> None:
    """A folder with checkpoints of these steps, each the best so far."""
    folder = RunFolder(path, resuming=False)
    for step in steps:
        save(folder, step, best=True)
    folder.close()


def newest_step(path: Path) -> int:
    folder = RunFolder(path, resuming=True)
    found = folder.load_newest()
    folder.close()
    assert found is not None
    return found[1]["step"]


def save_and_die(path: Path, moment: int) -> None:
    """Save step 3 as the best and be killed at a moment of it, with what is written cut short."""
    moments = 0

    def die_at_the_moment(event: str, args: tuple[object, ...]) -> None:
        nonlocal moments
        if event not in ("open", "os.rename") or str(path) not in str(args[0]):
            return
        moments += 1
        if moments == moment:
            for file in path.glob(".*.pt.*"):
                os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    folder = RunFolder(path, resuming=True)
    sys.addaudithook(die_at_the_moment)
    save(folder, 3, best=True)


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5])
def test_a_save_cut_short_is_never_chosen(
    moment: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """best.pt's temporary file opened, renamed; last.pt's opened, the old one kept, renamed."""
    begun(tmp_path, 1, 2)
    process = warm_process(save_and_die, tmp_path, moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest_step(tmp_path) == 2
    assert load_checkpoint(tmp_path / "best.pt")["step"] == (2 if moment < 3 else 3)
    if moment in (2, 4, 5):  # before the others there is no temporary file
        assert "was not written completely: removed" in caplog.text
    if moment == 5:
        assert "last.pt: no such file" in caplog.text
    folder = RunFolder(tmp_path, resuming=True)
    save(folder, 4)
    folder.close()
    assert newest_step(tmp_path) == 4
    assert not list(tmp_path.glob(".*.pt.*"))


def test_the_save_that_is_cut_short_at_no_moment(tmp_path: Path) -> None:
    begun(tmp_path, 1, 2)
    process = warm_process(save_and_die, tmp_path, 6)
    process.join()
    assert process.exitcode == 0
    assert newest_step(tmp_path) == 3
    assert load_checkpoint(tmp_path / "previous.pt")["step"] == 2


def test_a_damaged_checkpoint_gives_way_to_the_previous(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(tmp_path, 1, 2)
    content = (tmp_path / "last.pt").read_bytes()
    for length in [0, len(content) - 1, *random.sample(range(len(content)), 20)]:
        (tmp_path / "last.pt").write_bytes(content[:length])
        caplog.clear()
        assert newest_step(tmp_path) == 1
        assert "last.pt: cannot be read" in caplog.text
    (tmp_path / "previous.pt").write_bytes(b"")
    assert newest_step(tmp_path) == 2  # of best.pt
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(GoogLeNetError, match="none of its checkpoints can be read"):
        newest_step(tmp_path)
    assert "previous.pt: cannot be read" in caplog.text


@pytest.mark.parametrize("name", ["best.pt", "epoch_1.pt"])
def test_a_disk_that_is_full_after_the_first_file_of_a_save(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is not forgotten, and no other one may begin in its folder."""
    write = files._replace

    def fail(path: Path, content: bytes, keep_as: Path | None = None) -> None:
        if path.name == "last.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, keep_as)

    folder = RunFolder(tmp_path, resuming=False)
    monkeypatch.setattr(files, "_replace", fail)
    of_epoch = None if name == "best.pt" else 1
    with pytest.raises(GoogLeNetError, match=r"cannot save .*last\.pt: No space left on device"):
        folder.save_checkpoint({"step": 1}, best=of_epoch is None, of_epoch=of_epoch)
    folder.close()
    with pytest.raises(GoogLeNetError, match="holds a run already"):
        RunFolder(tmp_path, resuming=False)
    assert newest_step(tmp_path) == 1


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resuming=True)
    assert folder.load_newest() is None
    folder.close()


def hold(path: Path) -> None:
    """Train in a folder, with a worker that lives on for a while when this process is killed."""
    folder = RunFolder(path, resuming=True)
    if os.fork() != 0:
        (path / "held").touch()
    time.sleep(3)
    folder.close()


def test_the_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    first = warm_process(hold, tmp_path)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(GoogLeNetError, match="another run is training here"):
        RunFolder(tmp_path, resuming=True)
    first.kill()
    first.join()
    RunFolder(tmp_path, resuming=True).close()  # whatever workers it left


def test_a_run_that_torchrun_starts_again_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    first = RunFolder(None, resuming=False)
    assert not first.restarted
    first.begin("seed: 0\n")
    save(first, 1)
    first.close()
    again = RunFolder(None, resuming=False)
    assert again.path == first.path
    assert again.restarted
    again.close()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    other = RunFolder(None, resuming=False)
    assert other.path != first.path
    other.close()
    with pytest.raises(GoogLeNetError, match="holds a run already"):
        RunFolder(first.path, resuming=False)
