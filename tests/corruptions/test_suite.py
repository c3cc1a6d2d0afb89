"""The suite: random numbers, devices, sizes and data types; the formulas are in test_formulas.py."""

import jax
import numpy as np
import pytest
from scipy import ndimage, stats

from cifar_jax.corruptions import suite
from cifar_jax.corruptions.suite import CORRUPTIONS, corrupt
from cifar_jax.devices import make_mesh

RANDOM = np.random.default_rng(0)
DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


def smooth_images(number, size):
    images_NHWC = ndimage.gaussian_filter(RANDOM.uniform(-300, 555, (number, size, size, 3)), (0, 2, 2, 0))
    return np.uint8(images_NHWC.clip(0, 255))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_changed_in_the_same_way_on_one_device_and_on_eight(name, devices, monkeypatch):
    images_NHWC = smooth_images(11, 12)
    monkeypatch.setattr(suite, "VALUES_PER_BATCH", 8 * images_NHWC[0].size)  # two batches, the second one padded
    on_eight = corrupt(images_NHWC, name, 5, mesh=make_mesh(8))
    assert on_eight.dtype == np.uint8 and on_eight.shape == images_NHWC.shape
    assert np.abs(on_eight - images_NHWC.astype(int)).mean() > 1
    on_one = corrupt(images_NHWC[:9], name, 5, mesh=make_mesh(1))
    assert (on_one != on_eight[:9]).mean() < 1e-3  # a rounding error can change a value by one


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in DETERMINISTIC])
def test_random_numbers_differ_between_images_and_seeds(name):
    images_NHWC, mesh = np.repeat(smooth_images(1, 16), 2, axis=0), make_mesh(1)
    first, second = corrupt(images_NHWC, name, 5, mesh=mesh)
    assert (first != second).any()
    assert (corrupt(images_NHWC, name, 5, mesh=mesh, seed=1)[0] != first).any()


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_its_published_strength(severity):
    gray, mesh = np.full((4, 64, 64, 3), 128, np.uint8), make_mesh(1)
    deviation = CORRUPTIONS["gaussian_noise"][1][severity - 1][0]
    noisy = corrupt(gray, "gaussian_noise", severity, mesh=mesh) / 255
    assert abs(noisy.std() / deviation - 1) < 0.02
    photons = CORRUPTIONS["shot_noise"][1][severity - 1][0]
    counts = np.round(corrupt(gray, "shot_noise", severity, mesh=mesh) / 255 * photons)
    assert abs(counts.mean() / (128 / 255 * photons) - 1) < 0.02
    if severity == 5:  # 50 photons: a count for each of the values
        expected = stats.poisson.pmf(np.arange(60), 128 / 255 * photons) * counts.size
        observed = np.bincount(counts.astype(int).ravel(), minlength=60)[:60]
        often = expected > 20
        assert (
            stats.chisquare(observed[often], expected[often] * observed[often].sum() / expected[often].sum()).pvalue
            > 1e-4
        )
    amount = CORRUPTIONS["impulse_noise"][1][severity - 1][0]
    impulses = corrupt(gray, "impulse_noise", severity, mesh=mesh)
    for value in (0, 255):
        low, high = stats.binom.interval(1 - 1e-6, impulses.size, amount / 2)
        assert low <= (impulses == value).sum() <= high


def test_angles_flakes_and_moves_cover_their_published_ranges():
    point = np.zeros((64, 33, 33, 3), np.uint8)
    point[:, 16, 16] = 255
    trails = corrupt(point, "motion_blur", 5, mesh=make_mesh(1))[..., 0].astype(float)
    rows, columns = (trails.sum(axis=(0, axis)) > 0 for axis in (2, 1))
    assert columns.nonzero()[0].max() == 16 and rows.nonzero()[0].min() < 12 and rows.nonzero()[0].max() > 20
    glass = corrupt(point, "glass_blur", 1, mesh=make_mesh(1))[..., 0]
    assert {tuple(place - 16) for image in glass for place in np.argwhere(image)} <= {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_black_and_a_white_image_stay_finite(devices):
    for value in (0, 255):
        images_NHWC = np.full((1, 9, 9, 3), value, np.uint8)
        for name in ("fog", "brightness", "contrast", "shot_noise", "drawn_frost"):
            corrupted = corrupt(images_NHWC, name, 1, mesh=make_mesh(1))
            assert value == 255 or name != "shot_noise" or (corrupted == 0).all()
            assert name != "contrast" or (corrupted == value).all()


def test_severities_do_not_share_random_numbers():
    keys = {10 * place + severity for place in range(len(CORRUPTIONS)) for severity in suite.SEVERITIES}
    assert len(keys) == 75
    assert jax.random.fold_in(jax.random.key(0), 11) != jax.random.fold_in(jax.random.key(0), 12)
