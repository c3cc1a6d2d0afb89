"""The flags of configuration keys are converted to values; errors are one line that names the flag."""

import argparse

import pytest
from ml_collections import ConfigDict

from cifar_jax.config import default_config
from cifar_jax.config.command_line import add_keys, overrides
from cifar_jax.config.keys import KEYS
from cifar_jax.config.validate import flatten, with_overrides
from cifar_jax.errors import UsageError


def parse(arguments: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    add_keys(parser)
    return overrides(parser.parse_args(arguments))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.optimizer.learning_rate=abc"], "--config.optimizer.learning_rate=abc: must be a number"),
        (["--config.train.epochs=1.5"], "--config.train.epochs=1.5: must be an integer"),
        (["--config.train.epochs", "many"], "--config.train.epochs=many: must be an integer"),
        (["--config.model.whitening=perhaps"], "--config.model.whitening=perhaps: must be true or false"),
        (["--config.model.widths=(1, a"], "--config.model.widths=(1, a: must be a tuple such as '(1,2)'"),
    ],
)
def test_a_wrong_override_is_one_line_with_key_and_type(arguments, message):
    with pytest.raises(UsageError) as error:
        parse(arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_overrides_are_converted_to_the_types_of_their_keys():
    assert parse([]) == {}
    values = parse(
        [
            *("--config.optimizer.learning_rate=1", "--config.train.epochs", "3", "--config.data.dir="),
            *("--config.model.widths=(1,2)", "--config.model.widths=3", "--noconfig.model.whitening"),
            *("--config.evaluation.tta", "--config.mesh.compilation_cache=false", "--config.augment.mixup", "-1"),
        ]
    )
    assert values == {
        "optimizer.learning_rate": 1.0,
        "train.epochs": 3,
        "data.dir": "",
        "model.widths": (3,),  # the last value of a repeated key
        "model.whitening": False,
        "evaluation.tta": True,
        "mesh.compilation_cache": False,
        "augment.mixup": -1.0,
    }


def test_a_list_of_numbers_is_a_sweep_and_a_key_of_tuples_has_none():
    arguments = ["--config.optimizer.learning_rate=[1, 0.5,2e-3]", "--config.train.epochs=[3,4]"]
    arguments += ["--config.model.widths=[8,16]", "--config.data.dir=[1]", "--config.model.name=[1]"]
    assert parse(arguments) == {
        "optimizer.learning_rate": [1.0, 0.5, 2e-3],
        "train.epochs": [3, 4],
        "model.widths": (8, 16),
        "data.dir": "[1]",
        "model.name": "[1]",
    }
    for text in ("[]", "[1,]", "[1", "1]", "[1,a]", "[[1]]", "[1.5]", "(1,2)"):
        with pytest.raises(UsageError, match="must be an integer"):
            parse([f"--config.train.epochs={text}"])


@pytest.mark.parametrize("key", KEYS)
def test_values_are_read_as_ml_collections_reads_them(key):
    """For every type, both accept the same texts and give equal values."""
    for text in ("abc", "1.5", "7", "nan", "true", "False", "(1,2)", "[3]", "(1, a", "", "1e400"):
        assert ours(key, text) == theirs(key, text), text


def ours(key: str, text: str) -> object:
    try:
        return valid(key, with_overrides(default_config(), parse([f"--config.{key}={text}"])))
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
