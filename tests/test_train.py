"""The command line of training, as a newcomer meets it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from googlenet_fast import train
from googlenet_fast.data import sample_dataset
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.run_folder import RunFolder
from googlenet_fast.errors import run_command

SMALL = [
    "-c", "digits", "--epochs", "1", "--data.batch_size", "8", "--log_interval", "1",
    "--device", "cpu",
]  # fmt: skip


def folder_of_images(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (70, 70), (20 * i, 90, 160)).save(folder / name / f"{i}.jpg")
    return folder


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    run_command(train.main)


def error_of(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the command says on stderr, which must be one line, with exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run(arguments, monkeypatch)
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert re.fullmatch(r"error: .+\n", stderr), stderr
    return stderr


def test_data_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    folder_of_images(tmp_path / "one class", {"cat": 3})
    good = folder_of_images(tmp_path / "good", {"cat": 4, "dog": 4})
    lists = {
        "missing": "cat/0.jpg 0\ndog/0.jpg 1\ndog/99.jpg 1\n",
        "negative": "cat/0.jpg 0\ndog/0.jpg -1\n",
        "beyond": "cat/0.jpg 0\ndog/0.jpg 7\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    for arguments, expected in (
        (["--data", str(tmp_path / "nowhere")], r"nowhere: no such dataset folder"),
        (["--data", str(tmp_path / "empty")], r"empty: .*no "),
        (["--data", str(tmp_path / "one class")], r"one class: .*one class only"),
        (["--data.train_list", str(tmp_path / "missing.txt")], r"missing\.txt.*3.*dog/99\.jpg"),
        (["--data.train_list", str(tmp_path / "negative.txt")], r"negative\.txt.*2.*-1"),
        (
            ["--data.train_list", str(tmp_path / "beyond.txt"), "--model.num_classes", "2"],
            r"beyond\.txt.*dog/0\.jpg.*7",
        ),
    ):
        line = error_of(
            [*SMALL, "--data.root", str(good), "--output", str(tmp_path / "run"), *arguments]
            if "--data.train_list" in arguments
            else [*SMALL, "--output", str(tmp_path / "run"), *arguments],
            monkeypatch,
            capsys,
        )
        assert re.search(expected, line), line


def test_settings_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for arguments, expected in (
        (["--optimizer.lrr", "1"], "did you mean --optimizer.lr?"),
        (["--schedule.name", "cosin"], "did you mean cosine?"),
        (["--epochs", "0"], "--epochs 0: must be more than 0"),
        (["--output", str(file / "run")], "cannot be written to"),
        (["--model.weights", str(tmp_path / "no.pth")], "no.pth: No such file"),
        (["--resume", str(tmp_path / "no.pt")], "no.pt: no such file"),
        (["--device", "cuda"], "has no GPU"),
    ):
        line = error_of(
            [*SMALL, "--output", str(tmp_path / "run"), *arguments], monkeypatch, capsys
        )
        assert expected in line, line


def test_disk_full_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second epoch cannot be saved; the first one's checkpoint survives."""
    data = folder_of_images(tmp_path / "data", {"cat": 10, "dog": 10})
    command = [*SMALL, "--data", str(data), "--output", str(tmp_path / "run")]
    run(command, monkeypatch)
    assert "RESULT {" in capsys.readouterr().out
    begin = RunFolder.begin

    def begin_on_a_full_disk(folder: RunFolder, config: str) -> None:
        begin(folder, config)
        (folder.path / ".last.pt.7").symlink_to("/dev/full")

    monkeypatch.setattr(RunFolder, "begin", begin_on_a_full_disk)
    monkeypatch.setattr("secrets.randbits", lambda bits: 7)  # the number of temporary files
    line = error_of([*command, "--epochs", "2", "--resume", "auto"], monkeypatch, capsys)
    assert "last.pt: No space left on device; the previous one is unharmed" in line
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2


def test_resuming_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of_images(tmp_path / "data", {"cat": 10, "dog": 10})
    command = [*SMALL, "--data", str(data), "--output", str(tmp_path / "run")]
    run(command, monkeypatch)
    for arguments, expected in (
        (["--model.preset", "paper"], "that run has preset torchvision, this one paper"),
        (["--model.num_classes", "5"], "that run has num_classes 2, this one 5"),
    ):
        line = error_of([*command, "--resume", "auto", *arguments], monkeypatch, capsys)
        assert expected in line


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "googlenet_fast.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start(
            "--output", str(tmp_path), RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )  # fmt: skip
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"cannot meet the other processes at 127.0.0.1:{port}" in stderr
    assert "--master-port" in stderr
    assert "Traceback" not in stderr + stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_continue(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digits = sample_dataset()
    for split in ("train", "val"):
        lines = (digits / f"{split}_list.txt").read_text().splitlines()
        (tmp_path / f"{split}.txt").write_text("\n".join(lines[:: len(lines) // 64]))
    output = tmp_path / "a run"
    process = start(
        *SMALL, "--data.train_list", str(tmp_path / "train.txt"), "--data.val_list",
        str(tmp_path / "val.txt"), "--data.root", str(digits), "--output", str(output),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "step 2/" in line:
            process.send_signal(number)
            break
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "to continue: python -m googlenet_fast.train -c" in stdout
    run(["-c", str(output / "config.yaml"), "--resume", "auto"], monkeypatch)
    result = json.loads(capsys.readouterr().out.rsplit("RESULT ", 1)[1])
    assert result["output"] == str(output)
