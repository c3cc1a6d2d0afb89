"""Validates, overrides, serializes and compares configurations."""

import difflib
import json
from collections.abc import Mapping

from ml_collections import ConfigDict

from cifar_jax.config.keys import KEYS
from cifar_jax.config.rules import RULES, TRAINING_RULES
from cifar_jax.errors import UsageError


def validate(config: ConfigDict, *, for_training: bool = False) -> None:
    """Checks every value, then the rules between keys, with those of training if it comes next.

    Raises:
        UsageError: one line with all problems: each key, its value and what it must be.
    """
    values = flatten(config)
    problems = [_problem(key, value) for key, value in values.items()]
    problems += [f"--config.{key}: this key is missing" for key in KEYS if key not in values]
    if not any(problems):
        rules = RULES + TRAINING_RULES if for_training else RULES
        problems = [message.format(config) for message, holds in rules if not holds(config)]
    if any(problems):
        raise UsageError("; ".join(filter(None, problems)))


def _problem(key: str, value: object) -> str:
    if key not in KEYS:
        return _unknown(key)
    if KEYS[key].range.allows(value):
        return ""
    near = difflib.get_close_matches(str(value).lower(), KEYS[key].range.choices, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"--config.{key}={value}: must be {KEYS[key].range.description}{hint}"


def with_overrides(config: ConfigDict, overrides: Mapping) -> ConfigDict:
    """A locked copy of `config` with new values, converted to the types of the keys (1 to 1.0, a list to a tuple).

    Args:
        overrides: values by dotted key, {"train.epochs": 2}, nested, {"train": {"epochs": 2}}, or both.

    Raises:
        UsageError: an unknown key (the message names the closest), or a value of another type.
    """
    with config.unlocked():  # a copy of a locked configuration cannot be filled
        config = config.copy_and_resolve_references()
    for key, value in flatten(overrides).items():
        require_known(key)
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise UsageError(f"--config.{key}={value}: must be {KEYS[key].range.description}") from error
    return config.lock()


def require_known(key: str) -> None:
    """Raises UsageError, with the closest key, if a dotted key does not exist."""
    if key not in KEYS:
        raise UsageError(_unknown(key))


def _unknown(key: str) -> str:
    for name in KEYS:
        if name.startswith(f"{key}."):
            return f"'{key}' is a group of configuration keys: set one of them, such as {name!r}"
    return f"no configuration key {key!r}; the nearest is {nearest_key(key)!r}"


def nearest_key(key: str) -> str:
    """The key that an unknown key most likely means, such as optimizer.learning_rate for optimizer.lr."""
    group, _, name = key.rpartition(".")

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    def similarity(candidate: str) -> float:
        other_group, _, other = candidate.rpartition(".")
        initials = "".join(word[0] for word in other.split("_"))
        return ratio(group, other_group) + 2 * max(ratio(name, other), ratio(name, initials))

    return max(KEYS, key=similarity)


def flatten(config: Mapping) -> dict[str, object]:
    """Nested mappings as one dict of dotted keys, in the order of declaration."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat.update({f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def to_json(config: ConfigDict) -> dict:
    """The configuration as plain nested dicts, exactly as `json.load` returns it (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict(), allow_nan=False))


def from_json(value):
    """The inverse of `to_json`: nested dicts as ConfigDict, lists as tuples."""
    if isinstance(value, Mapping):
        return ConfigDict({key: from_json(inner) for key, inner in value.items()})
    return tuple(map(from_json, value)) if isinstance(value, list) else value


def differences(before: Mapping, after: Mapping) -> list[str]:
    """Lines such as 'train.epochs: 20 -> 30', one per key that differs between two plain configurations."""
    old, new = flatten(before), flatten(after)
    lines = {key: f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in {**old, **new}}
    return [line for key, line in lines.items() if key not in old or key not in new or old[key] != new[key]]
