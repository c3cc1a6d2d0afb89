"""The flags `--config.KEY` of the command line."""

import argparse
import ast
import functools
import warnings

from cifar_jax.config.keys import KEYS
from cifar_jax.config.validate import shown
from cifar_jax.errors import UsageError

_SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_TYPES = {bool: "true or false", int: "an integer", float: "a number", tuple: "a tuple such as '(1,2)'"}


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Adds `--config.KEY VALUE` for each configuration key, and `--noconfig.KEY` for each switch."""
    group = parser.add_argument_group(
        "configuration keys", "a list such as [0.1,0.2] of a number: a run for each value"
    )
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    for name, key in KEYS.items():
        default = str(key.default).replace(" ", "") or "''"
        unit = f" [{key.unit}]" if key.unit else ""
        text = f"default: {default}{unit}; {key.help} ({key.range.description})".replace("%", "%%")
        optional = {"nargs": "?", "const": True} if isinstance(key.default, bool) else {}
        add(f"--config.{name}", type=functools.partial(_parse, name), metavar="VALUE", help=text, **optional)
        if optional:
            add(f"--noconfig.{name}", dest=f"config.{name}", action="store_false", help=argparse.SUPPRESS)


def overrides(flags: argparse.Namespace) -> dict[str, object]:
    """The values of the flags that the user set, by dotted key; a list is a sweep (values of keys are tuples)."""
    return {name.removeprefix("config."): value for name, value in vars(flags).items() if name.startswith("config.")}


def _parse(key: str, text: str) -> object:
    """The text of a flag as a value of the type of its key; argparse does not change what is raised here.

    Raises:
        UsageError: the text has another type.
    """
    kind = type(KEYS[key].default)
    try:
        if kind is bool:
            return _SWITCH[text.lower()]
        if kind is tuple:
            with warnings.catch_warnings(action="ignore"):  # Python warns of escapes such as in (('block\\d', 1.0),)
                value = ast.literal_eval(text)
            return tuple(value) if isinstance(value, list | tuple) else (value,)
        if kind is not str and not text.isascii():  # Python reads digits of all scripts
            raise ValueError
        if kind is not str and text[:1] + text[-1:] == "[]":
            return [kind(number) for number in text[1:-1].split(",")]
        return kind(text)
    except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(f"{shown(key, text)}: must be {_TYPES[kind]}") from error
