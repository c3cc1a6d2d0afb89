"""Overrides of the command line become values, or one line that names the flag; --help lists everything."""

import pytest
from ml_collections import ConfigDict

from cifar_jax.config import default_config, recipes
from cifar_jax.config.command_line import describe_keys, describe_recipes, split_overrides
from cifar_jax.config.keys import KEYS
from cifar_jax.config.validate import flatten, with_overrides
from cifar_jax.errors import UsageError


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.optimizer.learning_rate=abc"], "--config.optimizer.learning_rate=abc: must be a number"),
        (["--config.train.epochs=1.5"], "--config.train.epochs=1.5: must be an integer"),
        (["--config.train.epochs", "many"], "--config.train.epochs=many: must be an integer"),
        (["--config.train.epochs"], "--config.train.epochs: a value must follow"),
        (["--config.model.whitening=perhaps"], "--config.model.whitening=perhaps: must be true or false"),
        (["--config.model.widths=(1, a"], "--config.model.widths=(1, a: must be a tuple such as '(1,2)'"),
        (["--noconfig.train.epochs"], "--noconfig.train.epochs: only a switch can be negated"),
        (["--config.optimizer=sgd"], "'optimizer' is a group of configuration keys"),
        (["--config.train.seed=1", "--config.trian.seed=2"], "no configuration key 'trian.seed'"),
        (["--config.optimizer.lr=1"], "no configuration key 'optimizer.lr'; the nearest is 'optimizer.learning_rate'"),
    ],
)
def test_a_wrong_override_is_one_line_with_key_and_type(arguments, message):
    with pytest.raises(UsageError) as error:
        split_overrides(arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_overrides_are_separated_from_other_arguments():
    others, overrides = split_overrides(
        [
            *("--config=cnn_scratch", "--workdir", "runs/config.x=3", "--config", "other"),
            *("--config.optimizer.learning_rate=1", "--config.train.epochs", "3", "--config.data.dir="),
            *("--config.model.widths=(1,2)", "--config.model.widths=3", "--noconfig.model.whitening"),
            *("--config.evaluation.tta", "--split=test"),
        ]
    )
    assert others == ["--config=cnn_scratch", "--workdir", "runs/config.x=3", "--config", "other", "--split=test"]
    assert overrides == {
        "optimizer.learning_rate": 1.0,
        "train.epochs": 3,
        "data.dir": "",
        "model.widths": (3,),  # of a key given twice, the last
        "model.whitening": False,
        "evaluation.tta": True,
    }


@pytest.mark.parametrize("key", KEYS)
def test_values_are_read_as_ml_collections_reads_them(key):
    """For texts of every type: the same values are valid, and they are equal."""
    for text in ("abc", "1.5", "7", "nan", "true", "False", "(1,2)", "[3]", "(1, a", "", "1e400"):
        assert ours(key, text) == theirs(key, text), text


def ours(key: str, text: str) -> object:
    try:
        _, overrides = split_overrides([f"--config.{key}={text}"])
        return valid(key, with_overrides(default_config(), overrides))
    except UsageError:
        return "refused"


def theirs(key: str, text: str) -> object:
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    argv = ["program", f"--config.{key}={text}"]
    try:
        group, _, name = key.rpartition(".")
        config = ConfigDict({group: {name: KEYS[key].default}} if group else {name: KEYS[key].default})
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
        return valid(key, holder.value)
    except (flags.Error, ValueError, TypeError):
        return "refused"


def valid(key: str, config: ConfigDict) -> object:
    value = flatten(config)[key]
    return value if KEYS[key].range.allows(value) else "refused"


def test_help_lists_every_key_and_recipe_at_80_columns():
    keys, listed = "\n".join(describe_keys()), "\n".join(describe_recipes())
    assert all(f"--config.{name}=" in keys and key.help.split()[0] in keys for name, key in KEYS.items())
    assert "--config.augment.cutout=0 [pixels]" in keys
    assert all(name in listed and recipes.summary(name) in listed for name in recipes.names())
    assert max(map(len, (keys + "\n" + listed).splitlines())) <= 80
