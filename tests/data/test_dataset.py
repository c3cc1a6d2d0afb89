import dataclasses

import numpy as np
import pytest

from cifar_jax.data.dataset import Dataset, ImageSet, require_stored_size, require_two_classes
from cifar_jax.errors import DataError, UsageError


def images(count):
    return ImageSet(np.zeros((count, 2, 3, 3), np.uint8), np.zeros(count, np.int32), ("cat", "dog"))


def test_the_summary_has_classes_sizes_origin_what_is_passed_over_and_source():
    dataset = Dataset("pets", "/data/pets.zip", images(1500), images(20), validation=images(3))
    counts = "pets: 2 classes, train 1,500, validation 3, test 20"
    assert str(dataset) == f"{counts} (from the splits of the source); source: /data/pets.zip"
    assert "validation" not in str(Dataset("pets", "/data/pets.zip", images(1500), images(20)))
    notes = {"origin": "from split folders", "passed_over": ("meta/ (no images)", "1 link")}
    dataset = dataclasses.replace(dataset, **notes)
    summary = f"{counts} (from split folders); passed over: meta/ (no images), 1 link; source: /data/pets.zip"
    assert str(dataset) == summary


def test_one_class_is_an_error():
    two = ImageSet(np.zeros((2, 2, 3, 3), np.uint8), np.array([0, 1], np.int32), ("cat", "dog"))
    assert require_two_classes(Dataset("pets", "pets.npz", two, two)).train is two
    with pytest.raises(DataError, match=r"^pets\.npz: all 5 training images are of one class, cat; "):
        require_two_classes(Dataset("pets", "pets.npz", images(5), two))


def test_arrays_are_not_resized():
    dataset = Dataset("pets", "/data/pets.npz", images(2), images(1))
    assert require_stored_size(dataset, 0) is dataset
    with pytest.raises(UsageError, match=r"arrays of 3x2 pixels.*--config\.model\.image_size=2"):
        require_stored_size(dataset, 2)
