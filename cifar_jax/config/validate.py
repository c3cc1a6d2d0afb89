"""Checks of a configuration, with one-line errors for what a user typed wrong, and its plain form."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import tuple_parser

from cifar_jax.config.schema import RANGES
from cifar_jax.errors import UsageError


def flatten(config: Mapping) -> dict[str, object]:
    """Nested mappings as one dict of dotted keys, in the order of declaration."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat.update({f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def validate(config: ConfigDict) -> None:
    """Checks every value before anything is compiled.

    Raises:
        UsageError: one line for all that is wrong: each key as the user types it, its value, what it must be.
    """
    values = flatten(config)
    problems = [_problem(key, value) for key, value in values.items()] + [
        f"--config.{key}: this key is missing" for key in RANGES if key not in values
    ]
    problems = [problem for problem in problems if problem] or list(_contradictions(config))
    if problems:
        raise UsageError("; ".join(problems))


def _problem(key: str, value: object) -> str:
    if key not in RANGES:
        return _unknown(key, RANGES)
    allowed = RANGES[key]
    if allowed.allows(value):
        return ""
    near = difflib.get_close_matches(str(value).lower(), allowed.names, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"--config.{key}={value}: must be {allowed.wanted}{hint}"


def _contradictions(config: ConfigDict) -> Iterator[str]:
    """What is wrong between keys whose values are each in range."""
    schedule = config.schedule
    units = ("steps", "epochs", "percent")
    for kind in ("warmup", "decay"):
        used = [f"--config.schedule.{kind}_{unit}" for unit in units if schedule[f"{kind}_{unit}"]]
        if len(used) > 1:
            yield f"{' and '.join(used)}: at most one of them may be set"
        if kind == "decay" and schedule.name == "step" and not used:
            yield "--config.schedule.name=step: needs schedule.decay_steps, decay_epochs or decay_percent"
    if config.model.name == "cnn" and not config.model.widths:
        yield "--config.model.widths=(): must name at least one block"
    devices = config.mesh.devices
    if devices and config.train.batch_size % devices:
        yield f"--config.train.batch_size={config.train.batch_size}: must divide by mesh.devices={devices}"


# What absl parses an override with, by the type of the default, and how a message names that type.
_PARSERS = {
    bool: (flags.BooleanParser(), "true or false"),
    int: (flags.IntegerParser(), "an integer"),
    float: (flags.FloatParser(), "a number"),
    str: (flags.ArgumentParser(), "text"),
    tuple: (tuple_parser.TupleParser(), "a tuple such as '(1,2)'"),
}


def check_overrides(argv: Sequence[str], config: ConfigDict) -> None:
    """Checks the `--config.a.b=value` and `--config.a.b value` of a command line, before absl parses them.

    Args:
        argv: the arguments of the program.
        config: what they override, as its file returns it.

    Raises:
        UsageError: for a key that does not exist (naming the nearest) or a value of the wrong type.
    """
    defaults = flatten(config)
    arguments = list(argv[: argv.index("--")] if "--" in argv else argv)
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        override = re.fullmatch(r"--?(no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if override is None:
            continue
        negated, key, value = override.groups()
        require_known(key, config)
        is_switch = isinstance(defaults[key], bool)
        if negated and not is_switch:
            raise UsageError(f"{argument}: only switches can be negated, and {key} is none")
        if value is None:
            if is_switch:  # absl takes no following argument as the value of a switch
                continue
            if following is None:
                raise UsageError(f"--config.{key}: a value must follow")
            value = following
        parser, wanted = _PARSERS[type(defaults[key])]
        try:
            parser.parse(value)
        except (ValueError, TypeError, SyntaxError, OverflowError) as error:
            raise UsageError(f"--config.{key}={value}: must be {wanted}") from error


def require_known(key: str, config: ConfigDict) -> None:
    """Refuses a dotted key that the configuration does not have.

    Raises:
        UsageError: naming the nearest.
    """
    known = flatten(config)
    if key not in known:
        raise UsageError(_unknown(key, known))


def _unknown(key: str, known: Mapping[str, object]) -> str:
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"'{key}' is a group of configuration keys: set one of them, such as {inside[0]!r}"
    return f"no configuration key {key!r}; the nearest is {nearest_key(key, known)!r}"


def nearest_key(key: str, known: Mapping[str, object]) -> str:
    """The existing key that `key` most likely stands for: 'optimizer.lr' is 'optimizer.learning_rate'."""
    group, _, name = key.rpartition(".")

    def likeness(candidate: str) -> float:
        other_group, _, other = candidate.rpartition(".")
        initials = "".join(word[0] for word in other.split("_"))
        return _ratio(group, other_group) + 2 * max(_ratio(name, other), _ratio(name, initials))

    return max(known, key=likeness)


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def to_json(config: ConfigDict) -> dict:
    """The configuration as plain nested dicts, exactly as `json.load` gives it back (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict(), allow_nan=False))


def differences(before: Mapping, after: Mapping) -> list[str]:
    """Lines such as 'train.epochs: 20 -> 30', one for every key of two plain configurations that differs."""
    old, new = flatten(before), flatten(after)
    return [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in {**old, **new}
        if key not in old or key not in new or old[key] != new[key]
    ]
