"""Imports go one way, and each library is met in as few places as it can be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cifar_jax"

# What each part of the package may import of the others.
MAY_IMPORT = {
    "errors": set(),
    "memory": set(),
    "mesh": {"errors", "memory"},
    "report": {"errors", "runs", "evaluation"},
    "runs": {"errors"},
    "data": {"errors", "mesh"},
    "models": {"errors", "mesh"},
    "pretrained": {"errors", "models"},
    "evaluation": {"errors", "mesh", "data", "models", "runs"},
    "experiment": {"errors", "mesh", "data", "models", "pretrained"},
    "training": {
        "errors",
        "memory",
        "mesh",
        "data",
        "models",
        "pretrained",
        "runs",
        "report",
        "evaluation",
        "experiment",
    },
    "modes": {"errors", "mesh", "data", "models", "runs", "report", "evaluation", "experiment", "training"},
}
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


def test_every_part_has_its_line():
    assert {part_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_parts_import_one_way(path):
    names = imported(path.read_text())
    ours = {name.split(".")[1] for name in names if name.startswith("cifar_jax.")} - {"__version__"}
    assert ours <= MAY_IMPORT[part_of(path)] | {part_of(path)}
    assert not {name for name in names if name.split(".")[0] in ("configs", "main", "tests")}


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_jax_is_met_where_it_belongs(path):
    names = imported(path.read_text())
    libraries = {name.split(".")[0] for name in names}
    if part_of(path) in ("errors", "report") or shown(path) == "cifar_jax/evaluation/metrics.py":
        assert not libraries & {"jax", "flax", "optax", "orbax"}
    if part_of(path) == "data" and path.name not in (
        "batches.py",
        "augment.py",
        "resize.py",
    ):  # pictures are read without JAX
        assert "jax" not in libraries
        assert "cifar_jax.mesh" not in {".".join(name.split(".")[:2]) for name in names}
    if part_of(path) not in ("mesh", "experiment", "data", "evaluation", "training"):
        assert not {name for name in names if name.startswith("jax.sharding")}
    if path.name != "mesh.py":
        assert "jax.sharding.PartitionSpec" not in names


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "configs").rglob("*.py"))], ids=shown)
def test_only_main_imports_modes(path):
    assert "cifar_jax.modes" not in imported(path.read_text())


def test_main_imports_modes_and_no_jax_itself():
    names = imported((ROOT / "main.py").read_text())
    assert "cifar_jax.modes" in names
    assert not {name for name in names if name.split(".")[0] == "jax"}


def test_training_begins_without_what_only_figures_and_statistics_need():
    program = "import sys, cifar_jax.modes; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"matplotlib", "scipy.stats", "tensorflow_datasets"} & set(found.stdout.split())
