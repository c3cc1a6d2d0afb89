"""Validates, overrides, serializes and compares configurations."""

import difflib
import json
from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

from cifar_jax.config.keys import KEYS
from cifar_jax.config.rules import EFFECTS, RULES, TRAINING_RULES
from cifar_jax.errors import UsageError

LONGEST_VALUE = 200  # characters of a value in a message
LONGEST_PROBLEM = 600
MOST_PROBLEMS = 8  # in a message
FIXED_IN_ABLATION = {"ablation", "train.seed", "train.seeds"}  # its steps are compared seed by seed


def validate(config: ConfigDict, *, for_training: bool = False) -> None:
    """Checks every value, then the rules between keys, then the configuration after each fix of `config.ablation`.

    Args:
        for_training: also check the rules that only training must fulfill.

    Raises:
        UsageError: one line with all problems: each key, its value and what it must be.
    """
    rules = RULES + TRAINING_RULES if for_training else RULES
    _require_none(key_problems(config) or [message.format(config) for message, holds in rules if not holds(config)])
    with_fixes(config)


def key_problems(config: Mapping) -> list[str]:
    """One line for each unknown key, missing key and value out of range; rules between keys are not checked."""
    values = flatten(config)
    problems = [_problem(key, value) for key, value in values.items()]
    problems += [f"--config.{key}: this key is missing" for key in KEYS if key not in values]
    return list(filter(None, problems))


def _require_none(problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise UsageError("; ".join([problem[:LONGEST_PROBLEM] for problem in problems[:MOST_PROBLEMS]] + more))


def _problem(key: str, value: object) -> str:
    if key not in KEYS:
        return _unknown(key)
    if KEYS[key].range.allows(value):
        return ""
    near = difflib.get_close_matches(_text(value).lower(), KEYS[key].range.choices, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"{shown(key, value)}: must be {KEYS[key].range.description}{hint}"


def shown(key: str, value: object) -> str:
    """A key with its value for a message: one line, of limited length."""
    return f"--config.{key}={_text(value)}"


def _text(value: object) -> str:
    try:
        text = str(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        text = f"({type(value).__name__})"
    text = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
    return text if text.isprintable() else ascii(text)


def without_effect(config: ConfigDict) -> dict[str, str]:
    """The keys that another key leaves without effect, unless at their default, each with a line that says why."""
    lines = {}
    for names, has_effect, reason in EFFECTS:
        if not has_effect(config):
            for key, value in flatten(config).items():
                is_named = any(key == name or (name[-1] in "._" and key.startswith(name)) for name in names)
                if is_named and value != KEYS[key].default:
                    lines[key] = f"{shown(key, value)} has no effect: {reason}"
    return lines


def require_effect(config: ConfigDict, changes: Collection[str]) -> None:
    """Raises UsageError if keys in `changes`, which the user sets, have no effect in the (valid) configuration."""
    _require_none([f"{line}; leave it out" for key, line in without_effect(config).items() if key in changes])


def with_fixes(config: ConfigDict) -> list[tuple[str, dict, ConfigDict]]:
    """For each fix in `config.ablation`: its name, its changes by key, and the valid configuration after it.

    Raises:
        UsageError: the fix is not valid; the message names it.
    """
    fixes = []
    for name, changes in config.ablation:
        try:
            for key in FIXED_IN_ABLATION & dict(changes).keys():
                raise UsageError(f"--config.{key} must be the same in all steps of an ablation")
            config = with_overrides(config, {**dict(changes), "ablation": ()})  # the runs of a step are ordinary runs
            validate(config)
            require_effect(config, dict(changes))
        except UsageError as error:
            raise UsageError(f"--config.ablation, fix {name!r}: {error}") from error
        fixes.append((name, dict(changes), config))
    return fixes


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
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"{shown(key, value)}: must be {KEYS[key].range.description}") from error
    return config.lock()


def require_known(key: str) -> None:
    """Raises UsageError, with the closest key, if a dotted key does not exist."""
    if key not in KEYS:
        raise UsageError(_unknown(key))


def _unknown(key: str) -> str:
    for name in KEYS:
        if name.startswith(f"{key}."):
            return f"'{key}' is a group of configuration keys: set one of them, such as {name!r}"
    key = key[:LONGEST_VALUE]
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
