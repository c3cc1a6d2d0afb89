"""Recipes are found by name and by path, accept overrides, and report errors in one line."""

import os
from pathlib import Path

import pytest

from cifar_jax.config import default_config, load_config, recipes
from cifar_jax.config.keys import KEYS
from cifar_jax.config.rules import EFFECTS
from cifar_jax.config.validate import flatten
from cifar_jax.errors import UsageError

ROOT = Path(__file__).parents[2]
RECIPE = """from cifar_jax.config import load_config

def get_config():
    config = load_config("cnn_scratch")
    config.train.epochs = 3
    return config
"""


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_loads_and_begins_with_a_short_summary_and_its_command(name, caplog):
    load_config(name)
    assert not caplog.records
    docstring = recipes.find(name).read_text()
    assert f"--config {name}" in docstring or name == "notebook/base"
    assert 20 < len(recipes.summary(name)) <= 50


def test_a_recipe_is_found_by_name_and_by_path_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_recipe.py").write_text(RECIPE)
    assert load_config("my_recipe.py").train.epochs == 3
    for name in ("cnn_scratch", "configs/cnn_scratch.py", ROOT / "configs" / "cnn_scratch.py"):
        assert flatten(load_config(str(name))) == flatten(load_config("cnn_scratch"))
    assert load_config("notebook/notebook_cnn").ablation == load_config("configs/notebook/notebook_cnn.py").ablation
    (tmp_path / "cnn_scratch").mkdir()  # such as a run folder of this name
    assert load_config("cnn_scratch").optimizer.name == "muon"


def test_overrides_are_dotted_or_nested_and_converted():
    config = load_config("cnn_scratch", train={"epochs": 2}, **{"optimizer.learning_rate": 1, "model.widths": [8, 8]})
    assert (config.train.epochs, config.optimizer.learning_rate, config.model.widths) == (2, 1.0, (8, 8))
    assert isinstance(config.optimizer.learning_rate, float)
    expected = flatten(load_config("cnn_scratch")) | {
        "train.epochs": 2,
        "optimizer.learning_rate": 1.0,
        "model.widths": (8, 8),
    }
    assert flatten(config) == expected


def test_a_loaded_configuration_accepts_no_new_keys_and_no_other_types():
    config = load_config("cnn_scratch")
    with pytest.raises(AttributeError, match="epochs"):
        config.train.epoch = 3
    with pytest.raises(TypeError):
        config.train.epochs = "three"
    assert load_config("cnn_scratch").train.epochs == 14  # each call returns a new one


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"train.epoch": 2}, "no configuration key 'train.epoch'; the nearest is 'train.epochs'"),
        ({"train": {"epoch": 2}}, "no configuration key 'train.epoch'; the nearest is 'train.epochs'"),
        ({"train": 2}, "'train' is a group of configuration keys"),
        ({"train.epochs": 1.5}, "--config.train.epochs=1.5: must be an integer of at least 1"),
        ({"train.epochs": 0}, "--config.train.epochs=0: must be an integer of at least 1"),
        ({"schedule.name": "step"}, "--config.schedule.name=step: set schedule.decay_steps"),
    ],
)
def test_wrong_overrides_are_rejected(overrides, message):
    with pytest.raises(UsageError) as error:
        load_config("cnn_scratch", **overrides)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "source, message",
    [
        ("def get_config(:\n", "line 1: SyntaxError: invalid syntax"),
        ("\n\nimport no_such_module\n", "line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        (RECIPE.replace("epochs = 3", "epoch = 3"), 'line 5: AttributeError: \'Key "epoch" does not exist'),
        (
            RECIPE.replace("get_config", "config"),
            "no attribute 'get_config'",
        ),
        ("def get_config():\n    return {}\n", "get_config() must return"),
        (RECIPE.replace('cnn_scratch"', 'cnn_scrach"'), "line 4: UsageError: --config cnn_scrach: no such recipe"),
        ("\0", "null bytes"),
    ],
)
def test_a_broken_recipe_is_one_line_with_file_and_line(source, message, tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(source)
    with pytest.raises(UsageError) as error:
        load_config(str(path))
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cnn_scrath", "configs/cnn_scrath.py", "/no/such/cnn_scratch.py", "Makefile", ""])
def test_an_unknown_recipe_is_an_error_that_names_the_closest(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("Makefile").write_text("")
    with pytest.raises(UsageError) as error:
        load_config(name)
    assert str(error.value).startswith(f"--config {name}: no such recipe; ") and "cnn_scratch" in str(error.value)


def test_a_recipe_that_lacks_a_key_is_an_error(tmp_path):
    source = "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'train': {'epochs': 1}})"
    (tmp_path / "recipe.py").write_text(source)
    with pytest.raises(UsageError, match="this key is missing"):
        load_config(str(tmp_path / "recipe.py"), **{"train.seed": 1})


def test_a_key_without_effect_is_refused_from_the_user_and_reported_from_the_recipe(caplog):
    reason = "has no effect: only optimizer.name=muon uses it"
    load_config("cnn_scratch", **{"optimizer.name": "sgd"})
    assert [record.message for record in caplog.records] == [f"--config.optimizer.adam_learning_rate=0.005 {reason}"]
    with pytest.raises(UsageError, match=f"--config.optimizer.adam_learning_rate=0.1 {reason}; leave it out"):
        load_config("cnn_scratch", optimizer={"name": "sgd", "adam_learning_rate": 0.1})
    load_config("cnn_scratch", optimizer={"name": "sgd", "adam_learning_rate": 2e-3})  # the default says nothing


def test_keys_without_effect_are_declared():
    for names, _, _ in EFFECTS:
        for name in names:
            assert name in KEYS or (name[-1] in "._" and any(key.startswith(name) for key in KEYS)), name


def test_default_config_is_new_each_time():
    first = default_config()
    first.train.epochs = 7
    assert default_config().train.epochs == 20 and os.fspath(recipes.FOLDER).startswith(str(ROOT))
