"""Sweeps: a list of values for each of some numeric keys, and the configurations of all their combinations."""

import itertools
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cifar_jax.config.keys import FREE_KEYS, KEYS
from cifar_jax.config.validate import flatten, require_effect, require_known, shown, validate, with_overrides
from cifar_jax.errors import UsageError

Values = Mapping[str, Sequence[float]]  # by dotted key


def combinations(config: ConfigDict, values: Values) -> list[tuple[dict[str, float], ConfigDict]]:
    """For each combination of `values`, the last key changing fastest: its values by key, and its configuration.

    Raises:
        UsageError: a key that cannot be swept, a value twice, or a configuration that is not valid.
    """
    for key, of_key in values.items():
        _require_sweepable(key)
        if len(set(of_key)) < len(of_key):
            raise UsageError(f"{shown(key, list(of_key))}: a value is there twice: remove it")
    if not config.data.validation_fraction:
        raise UsageError("--config.data.validation_fraction=0: a sweep chooses on validation images: raise it")
    points = []
    for combination in itertools.product(*values.values()):
        changes = dict(zip(values, combination, strict=True))
        point = with_overrides(config, changes)
        validate(point, for_training=True)
        require_effect(point, changes)
        points.append(({key: flatten(point)[key] for key in changes}, point))
    return points


def _require_sweepable(key: str) -> None:
    require_known(key)
    if type(KEYS[key].default) not in (int, float):
        raise UsageError(f"--config.{key} is no number: give it one value")
    if key in ("train.seed", "train.seeds"):
        raise UsageError(f"--config.{key} takes no list: train.seeds=N trains seeds train.seed, train.seed + 1, ...")
    if key.startswith("data."):
        raise UsageError(f"--config.{key} takes no list: its values would be validated on different images")
    if key in FREE_KEYS:
        raise UsageError(f"--config.{key} takes no list: it does not change the trained model")


def folder_name(changes: Mapping[str, float]) -> str:
    """The folder of a combination: its values by the last part of their keys, as 'learning_rate_0.1'."""
    return "-".join(f"{key.rpartition('.')[2]}_{value}" for key, value in changes.items())


def describe_programs(values: Values) -> str:
    """One line: the values of which keys share a compiled program."""
    arguments = [key for key in values if KEYS[key].is_argument]
    shared = ", ".join(f"{key} (above 0)" if not all(values[key]) else key for key in arguments)
    compiled = ", ".join(key for key in values if key not in arguments)
    return "; ".join(
        ([f"one compiled program for all values of {shared}"] if shared else [])
        + ([f"one compilation for each value of {compiled}"] if compiled else [])
    )
