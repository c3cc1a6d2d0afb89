import numpy as np
import pytest

from cifar_jax.data.dataset import Dataset, ImageSet, require_stored_size
from cifar_jax.errors import UsageError


def images(count):
    return ImageSet(np.zeros((count, 2, 3, 3), np.uint8), np.zeros(count, np.int32), ("cat", "dog"))


def test_the_summary_has_classes_sizes_and_source():
    dataset = Dataset("pets", "/data/pets.zip", images(1500), images(20), validation=images(3))
    assert str(dataset) == "pets: 2 classes, train 1,500, validation 3, test 20 (source: /data/pets.zip)"
    assert "validation" not in str(Dataset("pets", "/data/pets.zip", images(1500), images(20)))


def test_arrays_are_not_resized():
    dataset = Dataset("pets", "/data/pets.npz", images(2), images(1))
    assert require_stored_size(dataset, 0) is dataset
    with pytest.raises(UsageError, match=r"arrays of 3x2 pixels.*--config\.model\.image_size=2"):
        require_stored_size(dataset, 2)
