"""The command line of training, as a newcomer meets it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from googlenet_fast.data import sample_dataset

QUICK = ["--epochs", "1", "--data.batch_size", "8", "--log_interval", "1", "--device", "cpu"]


def train(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "googlenet_fast.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "no such folder"], "no such folder: no such dataset folder"),
        (["--optimizer.lrr", "1"], "Did you mean 'optimizer.lr'?"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: list[str], expected: str) -> None:
    process = train(*arguments)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stderr.startswith("error: ")
    assert expected in stderr
    assert stderr.count("\n") == 1
    assert "Traceback" not in stderr + stdout


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = train(
            "--output", str(tmp_path), RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )  # fmt: skip
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"cannot meet the other processes at 127.0.0.1:{port}" in stderr
    assert "--master-port" in stderr
    assert "Traceback" not in stderr + stdout


def test_sigterm_saves_and_says_how_to_continue(tmp_path: Path) -> None:
    digits = sample_dataset()
    for split in ("train", "val"):
        lines = (digits / f"{split}_list.txt").read_text().splitlines()
        (tmp_path / f"{split}.txt").write_text("\n".join(lines[:: len(lines) // 64]))
    output = tmp_path / "a run"
    process = train(
        "-c", "digits", "--data.train_list", str(tmp_path / "train.txt"), "--data.val_list",
        str(tmp_path / "val.txt"), "--data.root", str(digits), "--output", str(output), *QUICK,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "step 2/" in line:
            process.send_signal(signal.SIGTERM)
            break
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "to continue: python -m googlenet_fast.train -c" in stdout
    resumed = train("-c", str(output / "config.yaml"), "--resume", "auto")
    stdout, stderr = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, stderr
    result = json.loads(stdout.rsplit("RESULT ", 1)[1])
    assert result["output"] == str(output)
