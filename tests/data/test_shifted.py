"""CIFAR-10-C and CIFAR-10.1 from the user's files."""

import numpy as np
import pytest

from cifar_jax.data import shifted
from cifar_jax.errors import DataError, UsageError

NAMES = tuple("abcdefghij")
RANDOM = np.random.default_rng(0)


@pytest.fixture
def cifar_c(tmp_path):
    """A small CIFAR-10-C: twelve images, five severities."""
    np.save(tmp_path / "labels.npy", np.tile(np.arange(12) % 10, 5).astype(np.uint8))
    for name in (*shifted.CORRUPTIONS, "spatter"):
        np.save(tmp_path / f"{name}.npy", RANDOM.integers(0, 256, (60, 4, 4, 3), np.uint8))
    return tmp_path


def test_cifar_c_is_read_by_corruption_and_severity(cifar_c):
    sets = list(shifted.read(cifar_c, NAMES))
    assert [name for name, _ in sets] == [name for name in shifted.CORRUPTIONS for _ in range(5)]
    for number, (name, images) in enumerate(sets):
        severity = number % 5
        np.testing.assert_array_equal(images.images_NHWC, np.load(cifar_c / f"{name}.npy")[12 * severity :][:12])
        assert images.labels_N.tolist() == [*range(10), 0, 1] and images.class_names == NAMES


def test_cifar_10_1_is_read(tmp_path):
    images_NHWC = RANDOM.integers(0, 256, (20, 4, 4, 3), np.uint8)
    np.save(tmp_path / "cifar10.1_v6_data.npy", images_NHWC)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(20) % 10)
    ((name, images),) = shifted.read(tmp_path, NAMES)
    assert name == "cifar10.1_v6"
    np.testing.assert_array_equal(images.images_NHWC, images_NHWC)
    assert images.labels_N.tolist() == [*range(10), *range(10)]


def test_another_folder_is_an_error_of_usage(tmp_path):
    with pytest.raises(UsageError, match="must be corruptions, or a folder with the files of CIFAR-10-C"):
        shifted.find(tmp_path)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("fog.npy", None, "lacks fog.npy"),
        ("fog.npy", np.zeros((60, 4, 4, 3)), "fog.npy is float64"),
        ("fog.npy", np.zeros((59, 4, 4, 3), np.uint8), r"expected uint8 \(60, H, W, 3\)"),
        ("labels.npy", np.arange(60) % 9, "labels 0 to 8, the run has 10 classes"),
        ("labels.npy", np.arange(60) % 100, "labels 0 to 59, the run has 10 classes"),
        ("labels.npy", np.arange(61) % 10, "five severities of equal size"),
        ("labels.npy", np.arange(60.0), "labels.npy is float64"),
        ("labels.npy", np.array([{}]), "labels.npy is not a readable array"),
    ],
)
def test_files_that_do_not_fit_are_one_line(cifar_c, file, content, message):
    (cifar_c / file).unlink()
    if content is not None:
        np.save(cifar_c / file, content)
    with pytest.raises(DataError, match=message) as error:
        list(shifted.read(cifar_c, NAMES))
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_one_line(cifar_c):
    content = (cifar_c / "gaussian_noise.npy").read_bytes()
    (cifar_c / "gaussian_noise.npy").write_bytes(content[:500])
    with pytest.raises(DataError, match="is not a readable array"):
        list(shifted.read(cifar_c, NAMES))
