"""The `--config.KEY` flags of the command line, and the lines of `--help` about recipes and keys."""

import ast
import textwrap
from collections.abc import Iterator, Sequence

from cifar_jax.config import recipes
from cifar_jax.config.keys import KEYS
from cifar_jax.config.validate import require_known
from cifar_jax.errors import UsageError

_SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_TYPES = {bool: "true or false", int: "an integer", float: "a number", tuple: "a tuple such as '(1,2)'"}


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """Separates `--config.key=value`, `--config.key value` and `--noconfig.switch` from the other arguments.

    Returns:
        The other arguments, in order, and the values by dotted key; of a key given twice, the last.

    Raises:
        UsageError: an unknown key (the message names the nearest), a value of the wrong type, or no value.
    """
    others, overrides = [], {}
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        prefix, _, key = flag.partition("config.")
        if prefix not in ("--", "--no") or not key:
            others.append(argument)
            continue
        require_known(key)
        is_switch = isinstance(KEYS[key].default, bool)
        if prefix == "--no" and (equals or not is_switch):
            raise UsageError(f"{argument}: only a switch can be negated, without a value")
        if is_switch and not equals:
            value = "false" if prefix == "--no" else "true"
        elif not equals and (value := next(remaining, None)) is None:
            raise UsageError(f"--config.{key}: a value must follow")
        overrides[key] = _parse(key, value)
    return others, overrides


def _parse(key: str, text: str) -> object:
    kind = type(KEYS[key].default)
    try:
        if kind is bool:
            return _SWITCH[text.lower()]
        if kind is tuple:
            value = ast.literal_eval(text)
            return tuple(value) if isinstance(value, list | tuple) else (value,)
        return kind(text)
    except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(f"--config.{key}={text}: must be {_TYPES[kind]}") from error


def describe_recipes() -> Iterator[str]:
    """Each recipe with the first line of its docstring."""
    return (f"  {name:28} {recipes.summary(name)}" for name in recipes.names())


def describe_keys() -> Iterator[str]:
    """Each key with its default and [unit], then its help and range, at 80 columns."""
    for name, key in KEYS.items():
        default = str(key.default).replace(" ", "")
        yield f"  --config.{name}={default}" + (f" [{key.unit}]" if key.unit else "")
        yield textwrap.indent(textwrap.fill(f"{key.help} ({key.range.description})", width=74), " " * 6)
