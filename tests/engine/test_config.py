"""The configuration: recipes, overrides, and one clear line for each mistake."""

from pathlib import Path

import pytest
import yaml

from googlenet_fast.engine.config import (
    DataConfig,
    TrainConfig,
    config_values,
    dump_config,
    load_config,
)
from googlenet_fast.errors import GoogLeNetError

RECIPES = ("digits", "finetune", "imagenet", "imagenet_best", "imagenet_torchvision")


def test_no_arguments_mean_the_digits_recipe() -> None:
    config = load_config([])
    assert config == load_config(["-c", "digits"])
    assert config.data.path is None
    assert config.data.image_size == 64


def test_own_data_without_a_recipe_takes_the_defaults(tmp_path: Path) -> None:
    config = load_config(["--data", str(tmp_path)])
    assert config.data.path == tmp_path
    assert config.data.image_size == 224
    assert load_config([f"--data={tmp_path}"]) == config
    assert load_config(["--data.path", str(tmp_path)]) == config


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_valid_and_survive_a_round_trip(recipe: str, tmp_path: Path) -> None:
    config = load_config(["-c", recipe, "--epochs", "7", "--output", str(tmp_path / "a b")])
    assert config.epochs == 7
    stored = tmp_path / "config.yaml"
    stored.write_text(dump_config(config))
    assert load_config(["-c", str(stored)]) == config


def test_reference_recipe_is_the_one_of_paddleclas() -> None:
    config = load_config(["-c", "imagenet"])
    assert (config.epochs, config.data.batch_size, config.optimizer.lr) == (200, 64, 0.01)
    assert config.optimizer.weight_decay == 1e-4
    assert config.schedule.warmup_epochs == 5
    assert config.model.preset == "paddleclas"


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optimizer: {lr: 1e-3}\n")
    assert load_config(["-c", str(recipe)]).optimizer.lr == 1e-3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--optimizer.lrr", "1"], "no such flag; did you mean --optimizer.lr?"),
        (["--epoch", "3"], "--epoch: no such flag; did you mean --epochs?"),
        (["--batchsize=3"], "--batchsize: no such flag; did you mean --batch-size?"),
        (["--batch_siz", "3"], "did you mean --batch_size?"),
        (["--max-bad-step", "3"], "--max-bad-step: no such flag"),
        (["--model.preset", "papper"], "did you mean paper?"),
        (["--preset", "papper"], "--preset papper: must be one of paper, paddleclas, torchvision"),
        (["--epochs", "many"], "--epochs many: must be a whole number, more than 0"),
        (["--lr", "fast"], "--lr fast: must be a number, more than 0"),
        (["--aux", "--lrn=maybe"], "--lrn maybe: must be true or false"),
        (["--schedule.values", "x"], "--schedule.values x: must be a list of numbers"),
        (["--flip", "2"], "--flip 2.0: must be between 0 and 1"),
        (["--no-epochs"], "--no-epochs: no such flag"),
        (["--model", "x"], "--model: no such flag"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--epochs", "0"], "--epochs 0: must be more than 0"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--data.flip", "1.5"], "--data.flip 1.5: must be between 0 and 1"),
        (["--ema_decay", "1"], "--ema_decay 1.0: must be at least 0 and less than 1"),
        (["--accumulate=2", "--data.drop_last=false"], "leave one out"),
        (["--schedule.name=piecewise", "--schedule.boundaries=[3]"], "needs one more than"),
        (
            [
                "--schedule.name=piecewise",
                "--schedule.boundaries=[3, 2]",
                "--schedule.values=[3, 2, 1]",
            ],
            "--schedule.boundaries [3.0, 2.0]: must rise",
        ),
        (["--data.aspect_ratio", "0.5"], "--data.aspect_ratio 0.5: must be 1 or more"),
        (["-c", "digit"], "did you mean digits?"),
        (["-c", "no/such.yaml"], "--config no/such.yaml: no such file"),
        (
            ["--data", "photos", "-o", "Global.epochs=1"],
            "-o Global.epochs=1: overrides a PaddleClas",
        ),
        (["stray"], "unrecognized arguments: stray"),
        (["--config"], "expected one argument"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], expected: str) -> None:
    with pytest.raises(GoogLeNetError) as error:
        load_config(arguments)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer:\n  lrr: 3\n", "optimizer.lrr: no such field; did you mean optimizer.lr?"),
        ("optimzer: {lr: 1}\n", "did you mean optimizer.lr?"),
        ("epochs: abc\n", "epochs abc: must be a whole number, more than 0"),
        ("schedule: {name: cosin}\n", "did you mean cosine?"),
        ("data: [1\n", "line 1"),
        ("!!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_mistakes_in_a_recipe_name_the_file(text: str, expected: str, tmp_path: Path) -> None:
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(GoogLeNetError) as error:
        load_config(["-c", str(recipe)])
    assert str(error.value).startswith(f"{recipe}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_are_checked_wherever_they_come_from(tmp_path: Path) -> None:
    for values in ({"epochs": 0}, {"seed": -1}, {"ema_decay": 1.5}, {"loss_scale": float("nan")}):
        ((name, value),) = values.items()
        with pytest.raises(GoogLeNetError, match=f"^--{name} {value}: must be "):
            TrainConfig(**values)
    with pytest.raises(
        GoogLeNetError, match=r"^--data\.min_area 0\.0: must be more than 0 and at most 1"
    ):
        DataConfig(min_area=0.0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schedule: {gamma: -1}\n")
    with pytest.raises(GoogLeNetError, match=r"--schedule\.gamma -1\.0: must be more than 0"):
        load_config(["-c", str(recipe)])


def test_short_names() -> None:
    short = [
        "--lr",
        "0.1",
        "--batch-size=8",
        "--workers",
        "0",
        "--weight-decay",
        "0",
        "--data",
        "x",
    ]
    config = load_config([*short, "--preset", "paper"])
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (0.1, 0)
    assert (config.data.batch_size, config.data.num_workers, config.data.path) == (8, 0, Path("x"))
    assert config.model.preset == "paper"


def test_a_field_has_a_flag_without_its_section() -> None:
    flags = ["--num-classes", "7", "--no-drop-last", "--nesterov", "--schedule", "step"]
    config = load_config([*flags, "--val-list", "v.txt", "--num-workers=3", "--lrn", "null"])
    assert (config.model.num_classes, config.data.drop_last) == (7, False)
    assert (config.optimizer.nesterov, config.schedule.name) == (True, "step")
    assert (config.data.val_list, config.data.num_workers) == (Path("v.txt"), 3)
    assert config.model.lrn is None


def test_short_flags_are_distinct() -> None:
    values = config_values(load_config([]))
    names = list(values)
    for section in values.values():
        names += section if isinstance(section, dict) else []
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "size"), [([], 64), (["-c", "finetune"], 224), (["--data", "photos"], 224)]
)
def test_help_shows_the_defaults_of_its_command_line(
    arguments: list[str], size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_config([*arguments, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"training, in pixels. (more than 0, default: {size})" in shown


def test_names_of_older_versions(tmp_path: Path) -> None:
    flags = load_config(["--exhaustive-search", "on", "--max_bad_steps=7"])
    assert (flags.autotune, flags.max_nonfinite_steps) == ("on", 7)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('exhaustive_search: "on"\nmax_bad_steps: 7\n')
    stored = load_config(["-c", str(recipe), "--max-nonfinite-steps", "8"])
    assert (stored.autotune, stored.max_nonfinite_steps) == ("on", 8)


def test_help_lists_the_fields_with_their_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--data.image-size" in shown
    assert "Side of the network's square input in training" in shown
    assert "exhaustive_search" not in shown


def test_dump_is_plain_yaml() -> None:
    assert yaml.safe_load(dump_config(load_config([])))["model"]["preset"] == "torchvision"


def test_a_recipe_that_names_another_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("config: other.yaml\nepochs: 3\n")
    with pytest.raises(GoogLeNetError, match=r"recipe\.yaml: config: a recipe cannot name another"):
        load_config(["-c", str(recipe)])
