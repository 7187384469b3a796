"""YAML of strangers: plain values, or refused in one line."""

import time
from pathlib import Path
from typing import Any

import pytest

from googlenet_fast.engine.config import dump_config, load_config
from googlenet_fast.engine.run_record import read_run
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.plain_yaml import read_yaml

PADDLECLAS = Path(__file__).parent / "paddleclas" / "GoogLeNet.yaml"

BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "aliases": BOMB,
    "merge keys": MERGES,
    "a list in itself": "a: &a [*a]\n",
    "a mapping in itself": "a: &a {b: *a}\n",
    "depth": "a: " + "[" * 100_000,
    "length": "a: " + "x" * (1 << 21),
    "objects": "a: !!python/object/apply:os.system ['true']\n",
    "infinity": "epochs: .inf\n",
    "minus infinity": "epochs: -.INF\n",
    "NaN": "epochs: .nan\n",
    "overflow": "epochs: 1.0e+999\n",
    "a duplicate key": "epochs: 1\nepochs: 2\n",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2026-11-30", "2026-11-30"),
        ("1e-3", 0.001),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("-12", -12),
        ("0x1F", 31),
        ("0", 0),
        ("true", True),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("&a {b: &c [1], d: *c}", {"b": [1], "d": [1]}),
        ("a: &a {b: 1}\nc: {<<: *a, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_values(text: str, value: Any) -> None:
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("reader", ["trainer", "paddleclas", "run"])
def test_hostile_files(reader: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    started = time.monotonic()
    text = f"Global:\n  epochs: 1\n{HOSTILE[kind]}" if reader == "paddleclas" else HOSTILE[kind]
    file.write_text(text)
    if reader == "run":
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        reason = read_run(tmp_path).missing["config"]
    else:
        with pytest.raises(GoogLeNetError) as error:
            load_config(["-c", str(file)])
        reason = str(error.value)
    assert "\n" not in reason
    assert len(reason) < 1000
    assert "cannot be read" in reason
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("value", ["1:30", ".inf", ".nan", "inf", "nan", "1e999"])
@pytest.mark.parametrize(
    "flag", ["--epochs", "--optimizer.lr", "--label_smoothing", "--schedule.boundaries"]
)
def test_overrides_of_the_trainer(flag: str, value: str) -> None:
    value = f"[{value}]" if flag.endswith("boundaries") else value
    with pytest.raises(GoogLeNetError) as error:
        load_config([flag, value])
    assert flag.removeprefix("--") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["1:30", ".inf", ".nan", "inf", "nan", "1e999"])
@pytest.mark.parametrize("key", ["Global.epochs", "Optimizer.lr.learning_rate"])
def test_overrides_of_a_paddleclas_configuration(key: str, value: str) -> None:
    with pytest.raises(GoogLeNetError, match=key):
        load_config(["-c", str(PADDLECLAS), "-o", f"{key}={value}"])


def test_a_configuration_is_read_back(tmp_path: Path) -> None:
    config = load_config(["--optimizer.lr", "1e-3", "--schedule.warmup_epochs=.5"])
    assert (config.optimizer.lr, config.schedule.warmup_epochs) == (0.001, 0.5)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(["-c", str(tmp_path / "config.yaml")]) == config
