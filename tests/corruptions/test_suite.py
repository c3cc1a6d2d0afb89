"""The suite: random numbers, devices, sizes and data types; the formulas are in test_formulas.py."""

import numpy as np
import pytest
from scipy import ndimage, stats

from cifar_jax.corruptions import suite
from cifar_jax.corruptions.suite import CORRUPTIONS, corrupt
from cifar_jax.data import shifted
from cifar_jax.devices import make_mesh

RANDOM = np.random.default_rng(0)
DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


def smooth_images(number, size):
    images_NHWC = ndimage.gaussian_filter(RANDOM.uniform(-300, 555, (number, size, size, 3)), (0, 2, 2, 0))
    return np.uint8(images_NHWC.clip(0, 255))


def test_corruptions_have_their_published_names_and_five_severities():
    assert [name.replace("drawn_frost", "frost") for name in CORRUPTIONS] == [*shifted.CORRUPTIONS]
    assert {len(parameters) for _, parameters in CORRUPTIONS.values()} == {shifted.SEVERITIES}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_images_of_any_size_each_in_its_own_way(name):
    images_NHWC = np.repeat(smooth_images(1, 15), 2, axis=0)
    first, second = corrupted = corrupt(images_NHWC, name, 5, mesh=make_mesh(1))
    assert corrupted.dtype == np.uint8 and corrupted.shape == images_NHWC.shape
    assert np.abs(corrupted - images_NHWC.astype(int)).mean() > 1
    assert (first == second).all() == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", ["gaussian_noise", "motion_blur", "zoom_blur"])
def test_an_image_is_changed_in_the_same_way_on_one_device_and_on_eight(name, devices, monkeypatch):
    images_NHWC = smooth_images(11, 12)
    monkeypatch.setattr(suite, "VALUES_PER_BATCH", 8 * images_NHWC[0].size)  # two batches, the second one padded
    on_eight = corrupt(images_NHWC, name, 5, mesh=make_mesh(8))
    on_one = corrupt(images_NHWC[:9], name, 5, mesh=make_mesh(1))
    assert (on_one != on_eight[:9]).mean() < 1e-3  # a rounding error can change a value by one


def test_random_numbers_differ_between_severities_and_seeds():
    gray, mesh = np.full((1, 32, 32, 3), 128, np.uint8), make_mesh(1)
    draws = {"seed 0": (1, 0), "seed 1": (1, 1), "severity 2": (2, 0)}
    noise = {name: corrupt(gray, "gaussian_noise", *draw[:1], mesh=mesh, seed=draw[1]) for name, draw in draws.items()}
    flat = {name: values.ravel() - 128.0 for name, values in noise.items()}
    assert np.abs(np.corrcoef([*flat.values()]) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_its_published_strength(severity):
    gray, mesh = np.full((4, 64, 64, 3), 128, np.uint8), make_mesh(1)
    deviation = (0.04, 0.10)[severity // 5]
    noisy = corrupt(gray, "gaussian_noise", severity, mesh=mesh) / 255
    assert abs(noisy.std() / deviation - 1) < 0.02
    photons = (500, 50)[severity // 5]
    counts = np.round(corrupt(gray, "shot_noise", severity, mesh=mesh) / 255 * photons)
    assert abs(counts.mean() / (128 / 255 * photons) - 1) < 0.02
    assert abs(counts.var() / counts.mean() - 1) < 0.05
    amount = (0.01, 0.07)[severity // 5]
    impulses = corrupt(gray, "impulse_noise", severity, mesh=mesh)
    for value in (0, 255):
        low, high = stats.binom.interval(1 - 1e-6, impulses.size, amount / 2)
        assert low <= (impulses == value).sum() <= high


def test_motion_covers_its_published_angles():
    point = np.zeros((64, 33, 33, 3), np.uint8)
    point[:, 16, 16] = 255
    trails = corrupt(point, "motion_blur", 5, mesh=make_mesh(1))[..., 0]
    rows, columns = ((trails > 0).any(axis=(0, axis)).nonzero()[0] for axis in (2, 1))
    assert columns.max() == 16  # half a Gaussian to one side, -45 to 45 degrees
    assert rows.min() < 12 and rows.max() > 20


def test_black_and_white_images_stay_finite():
    black_and_white = np.stack([np.full((9, 9, 3), value, np.uint8) for value in (0, 255)])
    for name in ("fog", "brightness", "contrast", "shot_noise"):
        black, white = corrupt(black_and_white, name, 1, mesh=make_mesh(1))
        assert (black.max() == 0) == (name != "brightness")
        assert white.min() > 150
