"""Configuration: every key with its default and range, checks, recipes and the command line."""

import logging

from ml_collections import ConfigDict

from cifar_jax.config import recipes, validate
from cifar_jax.config.keys import default_config

__all__ = ["default_config", "load_config"]


def load_config(name_or_file: str, /, **overrides) -> ConfigDict:
    """The configuration of a recipe, with some of its keys overridden.

    >>> config = load_config("cnn_scratch", train={"epochs": 2}, **{"model.widths": (8, 16)})
    >>> config.train.epochs, config.model.widths, config.optimizer.name
    (2, (8, 16), 'muon')

    Args:
        name_or_file: a recipe of the package, such as 'cnn_scratch' or 'notebook/notebook_cnn', or a Python file that
            defines `get_config()`.
        overrides: values by group, `train={"epochs": 2}`, or by dotted key, `**{"train.epochs": 2}`. `cifar-jax --help`
            lists all keys.

    Returns:
        A validated configuration. It accepts new values of the same types, but no new keys.

    Raises:
        UsageError: no such recipe or key (the message names the closest), a value of the wrong type or range, or an
            override without effect.
    """
    config = validate.with_overrides(recipes.run(name_or_file), overrides)
    validate.validate(config)
    validate.require_effect(config, validate.flatten(overrides))
    for line in validate.without_effect(config).values():
        logging.warning("%s", line)
    return config
