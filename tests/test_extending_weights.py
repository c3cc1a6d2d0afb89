"""The worked example 'Another layout of weight files' of docs/extending.md, executed."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from cifar_jax.errors import DataError
from cifar_jax.files import checksums, download
from cifar_jax.pretrained import CATALOG, catalog, convert, families, load

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
SECTION = PAGE.split("## Another layout of weight files")[1].split("\n## ")[0]
ENTRY, FAMILY = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture(autouse=True)
def _temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_JAX_CACHE", str(tmp_path / "cache"))


def trees(stage_sizes, *, width):
    """params and batch_stats of a v1.5 ResNet, each tensor with a different value."""
    shapes = convert.parameter_shapes(
        variant="v1.5", stage_sizes=stage_sizes, width=width, block="bottleneck", num_classes=2
    )
    arrays = {path: np.full(shape, number, np.float32) for number, (path, shape) in enumerate(shapes.items())}
    statistics = {path: array for path, array in arrays.items() if path.endswith(("/mean", "/var"))}
    params = {path: array for path, array in arrays.items() if path not in statistics}
    return unflatten_dict(params, sep="/"), unflatten_dict(statistics, sep="/")


@pytest.fixture
def name(monkeypatch):
    """The new name in the catalog."""
    ((name, entry),) = eval("{" + ENTRY + "}", vars(catalog)).items()
    monkeypatch.setitem(CATALOG, name, entry)
    return name


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(trees): the file that a download returns, with torchvision's names."""

    def write(trees):
        save_file(convert.foreign(*trees, families.TORCHVISION), tmp_path / "published")

    def fetch(url, path, *, published):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "published", path)
        return checksums.checksum(path)

    monkeypatch.setattr(download, "fetch", fetch)
    return write


def test_a_resnet152_is_one_entry_of_the_catalog(name, publish):
    params, batch_stats = trees((3, 8, 36, 3), width=64)
    publish((params, batch_stats))
    backbone = load(name)
    assert backbone.stage_sizes == (3, 8, 36, 3)
    jax.tree.map(np.testing.assert_array_equal, backbone.params, params)
    jax.tree.map(np.testing.assert_array_equal, backbone.batch_stats, batch_stats)


def test_a_resnet50_under_the_name_of_a_resnet152_is_refused(name, publish):
    publish(trees((3, 4, 6, 3), width=8))
    with pytest.raises(DataError, match=r"\(3, 4, 6, 3\).*should be.*\(3, 8, 36, 3\)"):
        load(name)


def test_other_names_are_one_family(tmp_path, monkeypatch):
    namespace = dict(vars(families))
    exec(FAMILY, namespace)
    params, batch_stats = trees((1, 2, 1, 1), width=8)
    tensors = convert.foreign(params, batch_stats, namespace["STAGED"])
    assert "stages.1.blocks.0.shortcut.norm.running_mean" in tensors
    save_file(tensors, tmp_path / "staged.safetensors")
    with pytest.raises(DataError, match="no ResNet with tensor names of"):
        load(tmp_path / "staged.safetensors")
    monkeypatch.setattr(convert, "FAMILIES", (*families.FAMILIES, namespace["STAGED"]))
    backbone = load(tmp_path / "staged.safetensors")
    jax.tree.map(np.testing.assert_array_equal, backbone.params, params)
    jax.tree.map(np.testing.assert_array_equal, backbone.batch_stats, batch_stats)
