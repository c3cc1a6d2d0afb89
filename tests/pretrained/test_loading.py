"""Names, paths, the cache, and files written for other programs."""

import dataclasses
import json
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
from cifar_jax.files.cache import cache_root
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained import CATALOG, convert, load, loading, write
from cifar_jax.pretrained.catalog import published_as
from cifar_jax.pretrained.families import TORCHVISION

pytestmark = pytest.mark.slow

SUFFIX = {"torchvision": ".safetensors", "keras": ".h5"}
VARIANT = {"torchvision": "v1.5", "keras": "v1"}


def assert_equal(loaded, expected):
    for name in ("variant", "stage_sizes", "width", "block", "preprocessing"):
        assert getattr(loaded, name) == getattr(expected, name)
    for trees in ((loaded.params, expected.params), (loaded.batch_stats, expected.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize("naming", SUFFIX)
@pytest.mark.parametrize("num_classes", [0, 5])
def test_a_written_backbone_loads_identically(naming, num_classes, random_backbone, tmp_path):
    backbone = random_backbone(VARIANT[naming], num_classes=num_classes)
    preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 64, "bicubic")
    backbone = dataclasses.replace(backbone, preprocessing=preprocessing)
    path = tmp_path / f"weights{SUFFIX[naming]}"
    write(backbone, path, naming=naming)
    first, second = load(path), load(path)  # converted, and from the cache
    assert_equal(first, backbone)
    assert_equal(second, backbone)
    assert first.source == second.source == str(path)
    assert first.sha256 == second.sha256 == checksums.checksum(path)
    assert first.num_classes == (num_classes or None)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_basic_blocks_and_negative_zeros(random_backbone, tmp_path):
    backbone = random_backbone("v1.5", block="basic")
    backbone.params["head"]["bias"][0] = -0.0
    write(backbone, tmp_path / "x.safetensors", naming="torchvision")
    loaded = load(tmp_path / "x.safetensors")
    assert_equal(loaded, backbone)
    assert np.signbit(loaded.params["head"]["bias"][0])


@pytest.mark.parametrize(("naming", "variant"), [("keras", "v1.5"), ("torchvision", "v1"), ("keras", "v2")])
def test_a_variant_without_names_is_refused(naming, variant, random_backbone, tmp_path):
    with pytest.raises(UsageError, match=f"this is variant {variant}"):
        write(random_backbone(variant), tmp_path / "x", naming=naming)
    assert not list(tmp_path.iterdir())


def test_keras_has_no_names_for_basic_blocks(random_backbone, tmp_path):
    with pytest.raises(UsageError, match="bottleneck"):
        write(random_backbone("v1", block="basic"), tmp_path / "x", naming="keras")


def test_the_cache_is_used_and_a_damaged_one_is_not(random_backbone, tmp_path, monkeypatch):
    backbone = random_backbone("v1.5")
    write(backbone, tmp_path / "x.safetensors", naming="torchvision")
    load(tmp_path / "x.safetensors")
    conversions = []
    original = convert.convert
    monkeypatch.setattr(
        convert, "convert", lambda tensors, **about: conversions.append(about) or original(tensors, **about)
    )
    assert_equal(load(tmp_path / "x.safetensors"), backbone)
    assert not conversions
    (converted,) = cache_root().glob("pretrained/converted/*.safetensors")
    damaged = bytearray(converted.read_bytes())
    damaged[-7] ^= 1
    converted.write_bytes(damaged)
    assert_equal(load(tmp_path / "x.safetensors"), backbone)
    assert_equal(load(tmp_path / "x.safetensors"), backbone)
    assert len(conversions) == 1


def test_a_cache_that_cannot_be_written_is_a_warning(random_backbone, tmp_path, caplog, monkeypatch):
    backbone = random_backbone("v1.5")
    write(backbone, tmp_path / "x.safetensors", naming="torchvision")

    def full_disk(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(loading, "record", full_disk)
    with caplog.at_level(logging.WARNING):
        assert_equal(load(tmp_path / "x.safetensors"), backbone)
    assert "could not be cached" in caplog.text


def test_unknown_names():
    with pytest.raises(UsageError, match=r"did you mean timm/resnet50\.a1_in1k\?") as caught:
        load("timm/resnet50_a1_in1k")
    assert all(name in str(caught.value) for name in CATALOG)
    with pytest.raises(UsageError, match="did you mean"):
        load("")


def test_a_name_sets_the_preprocessing_and_checks_the_architecture(random_backbone, tmp_path, monkeypatch):
    complete = random_backbone("v1.5", stage_sizes=(3, 4, 6, 3), width=64)
    path = tmp_path / "complete.safetensors"
    save_file(convert.foreign(complete.params, complete.batch_stats, TORCHVISION), path)

    def fetch(url, target, *, published):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        return checksums.checksum(target)

    monkeypatch.setattr(download, "fetch", fetch)
    loaded = load("timm/resnet50.a2_in1k")
    assert loaded.preprocessing == CATALOG["timm/resnet50.a2_in1k"].preprocessing != load(path).preprocessing
    assert loaded.source == "timm/resnet50.a2_in1k" and loaded.num_classes == 5
    with pytest.raises(DataError, match=r"'v1\.5'.* should be .*'d'"):
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


@pytest.mark.parametrize("metadata", ["no json", "{}", "[]", '{"mean": [1], "std": [2]}', '{"mean": 1}'])
def test_preprocessing_that_cannot_be_read(metadata, random_backbone, tmp_path):
    path = tmp_path / "x.safetensors"
    write(random_backbone("v1.5"), path, naming="torchvision")
    save_file(load_file(path), path, {"cifar_jax": metadata})
    with pytest.raises(DataError, match=r"x\.safetensors: its preprocessing"):
        load(path)


def test_loading_imports_no_other_framework(random_backbone, tmp_path):
    for naming, suffix in SUFFIX.items():
        write(random_backbone(VARIANT[naming]), tmp_path / f"x{suffix}", naming=naming)
    program = (
        "import sys; from cifar_jax.pretrained import load\n"
        f"for suffix in {tuple(SUFFIX.values())}: load({str(tmp_path / 'x')!r} + suffix)\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'transformers', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def file_of_torch(random_backbone, tmp_path):
    """A file with torchvision's names that states nothing about itself, of the size of a ResNet-50 but narrower."""
    backbone = random_backbone("v1.5", stage_sizes=(1, 1, 1, 1), width=64, block="basic", num_classes=3)
    path = tmp_path / "own.safetensors"
    save_file(convert.foreign(backbone.params, backbone.batch_stats, TORCHVISION), path)
    return path


def test_the_summary_names_what_was_assumed_and_left_aside(file_of_torch):
    extended = load_file(file_of_torch) | {"head.0.weight": np.ones((2, 2), np.float32), "loss.scale": np.ones(1)}
    save_file(extended, file_of_torch)
    for loaded in (load(file_of_torch), load(file_of_torch)):  # converted, and from the cache
        line = loaded.summary(used=loaded.preprocessing)
        assert line.startswith(f"{file_of_torch}: a ResNet of (1, 1, 1, 1) basic blocks, width 64, v1.5, 60 tensors; ")
        assert "left aside: the classifier of 3 classes, head (1), loss (1); preprocessing: mean (0.485, 0.456" in line
        assert "bilinear (assumed, as usual for torchvision's tensor names; for others set --config.model.input" in line
        other = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 32, "bilinear")
        assert "(set by --config.model.input_mean and input_std)" in loaded.summary(used=other)


def test_depths_have_their_usual_names(random_backbone):
    for depth, stage_sizes, block in ((18, (2, 2, 2, 2), "basic"), (50, (3, 4, 6, 3), "bottleneck")):
        backbone = dataclasses.replace(random_backbone("v1.5"), stage_sizes=stage_sizes, block=block, width=64)
        assert backbone.name == f"resnet{depth} v1.5"


@pytest.mark.parametrize("kind", ["sha256", "also"])
def test_a_published_file_is_recognized_by_its_checksum(kind, file_of_torch, monkeypatch):
    digits = checksums.checksum(file_of_torch)[:8]
    stated = {"hash": f"sha256:{digits}"} if kind == "sha256" else {"also": ("0" * 8, digits)}
    architecture = {"stage_sizes": (1, 1, 1, 1), "block": "basic"}
    entry = dataclasses.replace(CATALOG["timm/resnet50.a1_in1k"], **architecture, **stated)
    monkeypatch.setitem(CATALOG, "published", entry)
    loaded = load(file_of_torch)
    assert loaded.preprocessing == entry.preprocessing and loaded.preprocessing.resize_method == "bicubic"
    assert loaded.preprocessing_from == "of published, which has the same checksum"
    assert loaded.source == str(file_of_torch)
    monkeypatch.setitem(CATALOG, "published", dataclasses.replace(entry, stage_sizes=(3, 4, 6, 3)))
    with pytest.raises(DataError, match=r"should be .*\(3, 4, 6, 3\)"):
        load(file_of_torch)


def test_an_hdf5_file_is_recognized_by_its_md5(random_backbone, tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    write(random_backbone("v1"), path, naming="keras")
    entry = dataclasses.replace(CATALOG["keras/resnet50"], hash=f"md5:{checksums.checksum(path, 'md5')}")
    monkeypatch.setitem(CATALOG, "published", entry)
    assert published_as(path, checksums.checksum(path)) == "published"


def test_config_json_next_to_a_file_states_its_preprocessing(file_of_torch):
    config = {"architecture": "resnet18", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    assert load(file_of_torch).preprocessing.mean == (0.485, 0.456, 0.406)
    (file_of_torch.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        DataError, match=r"\(1, 1, 1, 1\).* but config\.json next to it states stage_sizes \(2, 2, 2, 2\)"
    ):
        load(file_of_torch)
    stated = {"model_type": "resnet", "depths": [1, 1, 1, 1], "layer_type": "basic"}
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.5], "do_flip_channel_order": True}
    (file_of_torch.parent / "config.json").write_text(json.dumps(stated))
    (file_of_torch.parent / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = load(file_of_torch)
    assert loaded.preprocessing.mean == pytest.approx((0.3, 0.4, 0.5))
    assert loaded.preprocessing_from == "stated by config.json and preprocessor_config.json next to it"
    kernel = load_file(file_of_torch)["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded.params["stem_conv1"]["kernel"], kernel[:, :, ::-1])


def test_what_write_stated_wins_over_config_json(random_backbone, tmp_path):
    write(random_backbone("v1.5"), tmp_path / "x.safetensors", naming="torchvision")
    (tmp_path / "config.json").write_text('{"architecture": "resnetaa50"}')
    assert load(tmp_path / "x.safetensors").preprocessing_from == "stated in the file"


def test_the_order_of_the_channels_can_be_set_once(file_of_torch):
    loaded = load(file_of_torch)
    reversed_ = loaded.with_channels("BGR")
    kernel = loaded.params["stem_conv1"]["kernel"]
    np.testing.assert_array_equal(reversed_.params["stem_conv1"]["kernel"], kernel[:, :, ::-1])
    assert loaded.with_channels("") is loaded and loaded.with_channels("RGB") is loaded
    assert reversed_.with_channels("BGR") is reversed_
    assert "for weights that take BGR" in reversed_.summary(used=loaded.preprocessing)
