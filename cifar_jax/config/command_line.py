"""The command line of `main.py`: every mistake in it is one line that names the mend."""

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cifar_jax.config.validate import check_overrides
from cifar_jax.errors import UsageError


def parse(argv: Sequence[str], *, help_text: str) -> str:
    """Parses the flags of the main module, those of `--config` among them.

    `--help` prints `help_text` and the flags, and exits with 0.

    Returns:
        The path of the recipe, '' where none is given.

    Raises:
        UsageError: an unknown flag, key or mode, a value of the wrong type, a stray argument, or no such recipe.
    """
    if {"--help", "-help", "-h"} & set(argv):
        print(help_text)
        for flag in flags.FLAGS.get_key_flags_for_module("cifar_jax.cli"):
            print(f"  --{flag.name:12} {flag.help}")
        sys.exit(0)
    argv = _with_repeated(argv, "--images")
    recipe = _recipe(argv)
    if recipe:
        check_overrides(argv, _load(recipe).get_config())  # absl answers a misspelt key with a traceback
    try:
        stray = flags.FLAGS(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        names = [name for name in flags.FLAGS if not name.startswith("config.")]
        near = difflib.get_close_matches(error.flagname, names, n=1)
        hint = f"; the nearest is --{near[0]}" if near else "; --help lists them"
        if error.flagname.startswith("config."):
            hint = "; --config RECIPE must be given with it"
        raise UsageError(f"unknown flag --{error.flagname}{hint}") from error
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error
    if stray:
        raise UsageError(f"stray argument {stray[0]!r}: flags begin with --, and values are joined to them by =")
    return recipe


def _with_repeated(argv: Sequence[str], flag: str) -> list[str]:
    """`--images a b` as `--images=a --images=b`: what a shell makes of a glob, and what absl understands."""
    words, inside = [], False
    for word in argv:
        inside = word in (flag, flag[1:]) or (inside and not word.startswith("-"))
        if not inside:
            words.append(word)
        elif not word.startswith("-"):
            words.append(f"{flag}={word}")
    return words


def _recipe(argv: Sequence[str]) -> str:
    """The value of --config, given as `--config PATH` or `--config=PATH`."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument in ("--config", "-config"):
            return following
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    return ""


def _load(recipe: str):
    """The module of a recipe file.

    Raises:
        UsageError: no such file, or it defines no `get_config`.
    """
    path = Path(recipe)
    if not path.is_file():
        beside = sorted(str(found) for found in Path("configs").rglob("*.py"))
        near = difflib.get_close_matches(recipe, beside, n=1)
        hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(beside)}" if beside else "check the path"
        raise UsageError(f"--config {recipe}: no such file; {hint}")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--config {recipe}: not a Python file; recipes are, e.g. configs/cnn_scratch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UsageError(f"--config {recipe}: defines no get_config(); see configs/cnn_scratch.py")
    return module
