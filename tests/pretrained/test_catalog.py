"""The entries of the catalog are complete and consistent."""

import re

import pytest

from cifar_jax.models.resnet import VARIANTS
from cifar_jax.pretrained import CATALOG


@pytest.mark.parametrize("name", CATALOG)
def test_entry(name):
    entry = CATALOG[name]
    assert entry.url.startswith("https://")
    assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{8}", entry.hash)
    assert entry.variant in VARIANTS
    preprocessing = entry.preprocessing
    assert all(0 < mean < 1 for mean in preprocessing.mean) and all(0 < std <= 0.5 for std in preprocessing.std)
    assert preprocessing.resize_method in ("bilinear", "bicubic")


def test_every_file_is_listed_once():
    assert len({entry.url for entry in CATALOG.values()}) == len(CATALOG)


def test_the_hash_of_torchvision_is_part_of_the_file_name():
    entries = [entry for name, entry in CATALOG.items() if name.startswith("torchvision/")]
    assert entries and all(entry.hash.removeprefix("sha256:") in entry.url for entry in entries)


def test_caffe_preprocessing_subtracts_the_mean_on_a_scale_of_255():
    preprocessing = CATALOG["keras/resnet50"].preprocessing
    red = (200 / 255 - preprocessing.mean[0]) / preprocessing.std[0]
    assert red == pytest.approx(200 - 123.68)
