"""Imports only go down the layers, few modules import each library, and every import is a declared dependency."""

import ast
import configparser
import functools
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cifar_jax"

LAYERS = (  # a part imports only from parts that are listed above it
    ("errors", "memory"),
    ("files", "processes"),
    ("signals",),
    ("config", "devices", "metrics"),
    ("data",),
    ("corruptions", "preprocessing", "models", "runs"),
    ("pretrained", "report"),
    ("experiment",),
    ("evaluation",),
    ("probe",),
    ("training",),
    ("targets",),
    ("modes", "run"),
    ("cli",),
    ("__main__",),
)
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(source: str) -> set[str]:
    """Modules that a file imports anywhere; `from a import b` counts as `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def declared() -> dict[str, set[str]]:
    """Extra ("" for the base installation) -> normalized names of the distributions that setup.cfg declares."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lists = {"": settings["options"]["install_requires"], **settings["options.extras_require"]}
    return {extra: {normalized(line) for line in text.split("\n") if line} for extra, text in lists.items()}


def normalized(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def providers() -> dict[str, set[str]]:
    """Third-party module that the package imports -> names of the distributions that provide it."""
    modules = {name.split(".")[0] for path in FILES for name in imported(path.read_text())}
    installed = importlib.metadata.packages_distributions()
    third_party = modules - set(sys.stdlib_module_names) - {"cifar_jax"}
    return {module: {normalized(name) for name in installed.get(module, [module])} for module in third_party}


def test_every_imported_library_is_declared():
    names = set.union(*(names for extra, names in declared().items() if extra != "test"))
    assert not {module for module, distributions in providers().items() if not distributions & names}


def test_every_declared_library_is_imported():
    needed_by_tensorflow_datasets = {"array-record", "importlib-resources"}  # which does not declare them
    assert declared()[""] - set.union(*providers().values()) == needed_by_tensorflow_datasets


def test_every_form_of_import_is_detected():
    source = "import a.b, c\nfrom d.e import f as g\ndef h():\n    from cifar_jax import devices as d\n"
    assert imported(source) == {"a.b", "c", "d.e.f", "cifar_jax.devices"}


def level(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_every_module_belongs_to_one_layer():
    parts = [part for layer in LAYERS for part in layer]
    assert sorted(parts) == sorted({part_of(path) for path in FILES})


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_modules_import_only_from_lower_layers(path):
    names = imported(path.read_text())
    parts = {name.split(".")[1] for name in names if name.startswith("cifar_jax.")} - {"__version__", part_of(path)}
    upward = {part for part in parts if level(part) >= level(part_of(path))}
    assert not upward
    assert not {name for name in names if name.split(".")[0] in ("configs", "main", "tests")}


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_jax_is_imported_only_where_it_is_needed(path):
    names = imported(path.read_text())
    libraries = {name.split(".")[0] for name in names}
    if part_of(path) in ("errors", "files", "config", "metrics", "report", "cli"):
        assert not libraries & {"jax", "flax", "optax", "orbax"}
    if part_of(path) == "data" and path.name != "batches.py":  # images are read without JAX
        assert "jax" not in libraries
        assert "cifar_jax.devices" not in {".".join(name.split(".")[:2]) for name in names}
    if path.name != "devices.py":
        assert "jax.sharding.PartitionSpec" not in names


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_starts_without_jax():
    assert "jax" not in modules_after("import cifar_jax.cli")


def test_training_starts_without_the_libraries_for_figures_and_statistics():
    modules = modules_after("import cifar_jax.modes.train, cifar_jax.cli")
    assert not {"matplotlib", "scipy.stats", "tensorflow_datasets"} & modules
