"""Imports go one way, and each library is met in as few places as it can be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cifar_jax"

# What each part of the package may import of the others.
LAYERS = (  # bottom up: each part imports only from those above it in this list
    ("errors", "memory"),
    ("files",),
    ("config", "devices", "metrics"),
    ("data",),
    ("preprocessing", "models", "runs"),
    ("pretrained", "report"),
    ("experiment",),
    ("evaluation",),
    ("probe",),
    ("training",),
    ("modes", "run"),
    ("cli",),
    ("__main__",),
)
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(source: str) -> set[str]:
    """Every module that a file imports, at its top or within functions, with each name taken from one."""
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


def test_imports_are_found_in_all_their_forms():
    source = "import a.b, c\nfrom d.e import f as g\ndef h():\n    from cifar_jax import mesh as meshes\n"
    assert imported(source) == {"a.b", "c", "d.e.f", "cifar_jax.mesh"}


def level(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_every_part_has_its_layer():
    parts = [part for layer in LAYERS for part in layer]
    assert sorted(parts) == sorted({part_of(path) for path in FILES})


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_parts_import_downwards(path):
    names = imported(path.read_text())
    ours = {name.split(".")[1] for name in names if name.startswith("cifar_jax.")} - {"__version__", part_of(path)}
    upwards = {part for part in ours if level(part) >= level(part_of(path))}
    assert not upwards
    assert not {name for name in names if name.split(".")[0] in ("configs", "main", "tests")}


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_jax_is_met_where_it_belongs(path):
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
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_a_typo_is_answered_without_jax():
    assert "jax" not in modules_after("import cifar_jax.cli")


def test_training_begins_without_what_only_figures_and_statistics_need():
    found = modules_after("import cifar_jax.modes.train, cifar_jax.cli")
    assert not {"matplotlib", "scipy.stats", "tensorflow_datasets"} & found
