"""Recipes: Python files whose `get_config()` returns a configuration. The project's recipes ship with the package."""

import ast
import difflib
import importlib.util
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.errors import UsageError, one_line
from cifar_jax.files.cache import expanded

_INSTALLED = Path(__file__).parents[1] / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "configs"  # of a checkout


def names() -> list[str]:
    """The recipes that ship with the package, such as 'cnn_scratch' and 'notebook/notebook_cnn'."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.py"))


def sized_for(kind: str) -> list[str]:
    """The recipes that ship with the package and are sized for these devices, see `mesh.sized_for`."""
    return [name for name in names() if run(name).mesh.sized_for == kind]


def summary(name: str) -> str:
    """The first line of a recipe's docstring; the recipe is not executed."""
    return (ast.get_docstring(ast.parse(find(name).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def find(name_or_file: str) -> Path:
    """The file of a recipe, given as a Python file or as the name of a recipe of the package.

    Raises:
        UsageError: there is no such recipe; the message names the closest.
    """
    path = expanded(name_or_file)
    if path.suffix == ".py" and path.is_file():
        return path
    name = name_or_file.removeprefix("configs/").removesuffix(".py")
    if name in names():
        return FOLDER / f"{name}.py"
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"the nearest is {near[0]}" if near else f"name a Python file, or one of {', '.join(names())}"
    raise UsageError(f"--config {name_or_file}: no such recipe; {hint}")


def run(name_or_file: str) -> ConfigDict:
    """Executes a recipe; returns the configuration from its `get_config()`.

    Raises:
        UsageError: no such recipe, or it fails; with file and line.
    """
    path = find(name_or_file)
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path.resolve()
        ]
        line = lines[-1] if lines else getattr(error, "lineno", None) or 1  # a SyntaxError is raised before a line runs
        message = f"{type(error).__name__}: {one_line(error)}"
        if "config is locked" in message:
            message = message.partition(" since the config is locked")[0] + ": declare it in cifar_jax/config/keys.py"
        raise UsageError(f"--config {name_or_file}: {path}, line {line}: {message}") from error
    if not isinstance(config, ConfigDict):
        raise UsageError(f"--config {name_or_file}: get_config() must return default_config() with changes")
    return config
