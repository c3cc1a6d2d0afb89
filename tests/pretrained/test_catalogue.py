"""The catalogue's entries are whole and agree with each other."""

import re

import pytest

from cifar_jax.models.resnet import VARIANTS
from cifar_jax.pretrained import CATALOGUE


@pytest.mark.parametrize("name", CATALOGUE)
def test_entry(name):
    entry = CATALOGUE[name]
    assert entry.url.startswith("https://")
    assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{8}", entry.hash)
    assert entry.variant in VARIANTS
    assert entry.imagenet_top1 is None or 60 < entry.imagenet_top1 < 85
    preprocessing = entry.preprocessing
    assert all(0 < mean < 1 for mean in preprocessing.mean) and all(0 < std <= 0.5 for std in preprocessing.std)
    assert preprocessing.resize_method in ("bilinear", "bicubic")
    assert preprocessing.crop_fraction is None or 0.8 < preprocessing.crop_fraction <= 1


def test_every_file_is_listed_once():
    assert len({entry.url for entry in CATALOGUE.values()}) == len(CATALOGUE)


def test_torchvisions_hash_is_the_one_in_the_name():
    for name in ("torchvision/resnet50_v1", "torchvision/resnet50_v2"):
        entry = CATALOGUE[name]
        assert entry.hash.removeprefix("sha256:") in entry.url


def test_caffe_preprocessing_is_255_times_the_image_less_the_mean():
    preprocessing = CATALOGUE["keras/resnet50"].preprocessing
    red = (200 / 255 - preprocessing.mean[0]) / preprocessing.std[0]
    assert red == pytest.approx(200 - 123.68)
