"""Names, paths, the cache, and what is written for others."""

import dataclasses
import logging
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cifar_jax.errors import DataError, UsageError
from cifar_jax.files import checksums, download
from cifar_jax.pretrained import CATALOGUE, Preprocessing, convert, load, loading, weight_files, write
from cifar_jax.pretrained.families import TORCHVISION

ENDING = {"torchvision": ".safetensors", "keras": ".h5"}
VARIANT = {"torchvision": "v1.5", "keras": "v1"}


def assert_same(found, expected):
    for name in ("variant", "stage_sizes", "width", "block", "preprocessing"):
        assert getattr(found, name) == getattr(expected, name)
    for trees in ((found.params, expected.params), (found.batch_stats, expected.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize("naming", ENDING)
@pytest.mark.parametrize("num_classes", [0, 5])
def test_written_and_loaded_again(naming, num_classes, random_backbone, tmp_path):
    backbone = random_backbone(VARIANT[naming], num_classes=num_classes)
    own = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "bicubic", None, 64)
    backbone = dataclasses.replace(backbone, preprocessing=own)
    path = tmp_path / f"weights{ENDING[naming]}"
    write(backbone, path, naming=naming)
    first, second = load(path), load(path)  # converted, and from the cache
    assert_same(first, backbone)
    assert_same(second, backbone)
    assert first.source == second.source == str(path)
    assert first.sha256 == second.sha256 == checksums.checksum(path)
    assert first.num_classes == (num_classes or None)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_basic_blocks_and_zero_signs(random_backbone, tmp_path):
    backbone = random_backbone("v1.5", block="basic")
    backbone.params["head"]["bias"][0] = -0.0
    write(backbone, tmp_path / "x.safetensors", naming="torchvision")
    found = load(tmp_path / "x.safetensors")
    assert_same(found, backbone)
    assert np.signbit(found.params["head"]["bias"][0])


@pytest.mark.parametrize(("naming", "variant"), [("keras", "v1.5"), ("torchvision", "v1"), ("keras", "v2")])
def test_names_that_a_variant_does_not_have(naming, variant, random_backbone, tmp_path):
    with pytest.raises(UsageError, match=f"this is {variant}"):
        write(random_backbone(variant), tmp_path / "x", naming=naming)
    assert not list(tmp_path.iterdir())


def test_the_cache_is_used_and_a_damaged_one_is_not(random_backbone, tmp_path, monkeypatch):
    backbone = random_backbone("v1.5")
    write(backbone, tmp_path / "x.safetensors", naming="torchvision")
    load(tmp_path / "x.safetensors")
    reads = []
    read = weight_files.read
    monkeypatch.setattr(weight_files, "read", lambda path: reads.append(path) or read(path))
    assert_same(load(tmp_path / "x.safetensors"), backbone)
    assert not reads
    (converted,) = loading.default_cache_dir().glob("converted/*.safetensors")
    damaged = bytearray(converted.read_bytes())
    damaged[-7] ^= 1
    converted.write_bytes(damaged)
    assert_same(load(tmp_path / "x.safetensors"), backbone)
    assert_same(load(tmp_path / "x.safetensors"), backbone)
    assert len(reads) == 1


def test_a_cache_that_cannot_be_written_is_a_warning(random_backbone, tmp_path, caplog):
    backbone = random_backbone("v1.5")
    write(backbone, tmp_path / "x.safetensors", naming="torchvision")
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert_same(load(tmp_path / "x.safetensors", cache_dir=tmp_path / "file"), backbone)
    assert "could not be cached" in caplog.text


def test_unknown_names():
    with pytest.raises(UsageError, match=r"did you mean timm/resnet50\.a1_in1k\?") as caught:
        load("timm/resnet50_a1_in1k")
    assert all(name in str(caught.value) for name in CATALOGUE)
    with pytest.raises(UsageError, match="did you mean"):
        load("")


def test_a_name_brings_its_own_preprocessing(random_backbone, tmp_path, monkeypatch):
    """A stand-in for the download: a network of the full depth, and one that is not."""
    whole = random_backbone("v1.5", stage_sizes=(3, 4, 6, 3), width=64)
    path = tmp_path / "whole.safetensors"
    save_file(convert.foreign(whole.params, whole.batch_stats, TORCHVISION), path)

    def fetch(url, target, *, published):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        return checksums.checksum(target)

    monkeypatch.setattr(download, "fetch", fetch)
    found = load("timm/resnet50.a2_in1k")
    assert found.preprocessing == CATALOGUE["timm/resnet50.a2_in1k"].preprocessing != load(path).preprocessing
    assert found.source == "timm/resnet50.a2_in1k" and found.num_classes == 5
    with pytest.raises(DataError, match="should be a d ResNet-50"):
        load("timm/resnet50d.a1_in1k")
    small = random_backbone("v1.5", stage_sizes=(3, 4, 6, 2), width=8)
    path = tmp_path / "small.safetensors"
    save_file(convert.foreign(small.params, small.batch_stats, TORCHVISION), path)
    with pytest.raises(DataError, match=r"\(3, 4, 6, 2\)"):
        load("timm/resnet50.a2_in1k")


def test_no_network_says_how_to_get_the_file(monkeypatch):
    def fetch(url, target, *, published):
        raise OSError("no route")

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(DataError, match=r"cannot be downloaded \(no route\).*--config\.model\.pretrained"):
        load("timm/resnet50.a2_in1k")


@pytest.mark.parametrize("about", ["no json", "{}", '{"mean": [1], "std": [2]}', '{"mean": 1}'])
def test_preprocessing_that_cannot_be_read(about, random_backbone, tmp_path):
    path = tmp_path / "x.safetensors"
    write(random_backbone("v1.5"), path, naming="torchvision")
    save_file(load_file(path), path, {"cifar_jax": about})
    with pytest.raises(DataError, match=r"x\.safetensors: its preprocessing"):
        load(path)


def test_loading_imports_no_other_framework(random_backbone, tmp_path):
    for naming, ending in ENDING.items():
        write(random_backbone(VARIANT[naming]), tmp_path / f"x{ending}", naming=naming)
    program = (
        "import sys; from cifar_jax.pretrained import load\n"
        f"for ending in {tuple(ENDING.values())}: load({str(tmp_path / 'x')!r} + ending)\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'transformers', 'timm'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
