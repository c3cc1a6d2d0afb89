"""Every operation at every strength against Pillow; where torchvision is installed, against its `_apply_op` too."""

import functools
import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cifar_jax.devices import SHARDED, make_mesh, split_over_devices
from cifar_jax.preprocessing import trivial_augment
from cifar_jax.preprocessing.trivial_augment import LEVELS, OPERATIONS

pytestmark = pytest.mark.slow

SIGNED = OPERATIONS[1:10]
ENHANCE = {name: getattr(ImageEnhance, name) for name in ("Brightness", "Color", "Contrast", "Sharpness")}


def photographs(height, width):
    """Noise, a gradient, and a dark image with one constant channel."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (height, width, 3))
    gradient = np.linspace(20, 200, width)[:, None] * [1, 0.8, 0.5] + random.integers(0, 30, (height, width, 3))
    dark = random.integers(40, 90, (height, width, 3))
    dark[..., 1] = 7
    return np.stack([noise, gradient, dark]).astype(np.uint8)


def by_pillow(image, name, strength):
    """The operation of torchvision for images of Pillow; its affine matrices, written out."""
    width, height = image.size
    affine = {
        "ShearX": (1, strength, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, strength, 1, 0),
        "TranslateX": (1, 0, -int(strength), 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -int(strength)),
    }
    if name in affine:
        return image.transform((width, height), Image.Transform.AFFINE, affine[name], Image.Resampling.NEAREST)
    if name in ENHANCE:
        return ENHANCE[name](image).enhance(1 + strength)
    return {
        "Identity": lambda: image,
        "Rotate": lambda: image.rotate(strength, Image.Resampling.NEAREST),
        "Posterize": lambda: ImageOps.posterize(image, int(strength)),
        "Solarize": lambda: ImageOps.solarize(image, strength),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }[name]()


def by_torchvision(image, name, strength):
    autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
    return autoaugment._apply_op(image, name, strength, autoaugment.InterpolationMode.NEAREST, None)


@pytest.fixture(scope="module", params=[(32, 32), (33, 20)], ids=str)
def changed(request):
    """uint8 (images, operations, LEVELS, 2, H, W, 3), and the images."""
    images_NHWC = photographs(*request.param)
    choices = np.indices((len(OPERATIONS), LEVELS, 2), np.int32).reshape(3, -1)
    change = jax.jit(trivial_augment.change)
    results = [change(np.broadcast_to(image, (choices.shape[1], *image.shape)), *choices) for image in images_NHWC]
    assert results[0].dtype == np.uint8
    shape = (len(images_NHWC), len(OPERATIONS), LEVELS, 2, *images_NHWC.shape[1:])
    return np.reshape(np.stack(results), shape).astype(int), images_NHWC


@pytest.mark.parametrize("reference", [by_pillow, by_torchvision])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_pillow(name, reference, changed):
    results, images_NHWC = changed
    number = OPERATIONS.index(name)
    strengths_LS = trivial_augment.strengths()[number]
    differing = 0
    for image, result_LSHWC in zip(images_NHWC, results[:, number], strict=True):
        for level, sign in np.ndindex(LEVELS, 2 if name in SIGNED else 1):
            expected = np.array(reference(Image.fromarray(image), name, float(strengths_LS[level, sign]))).astype(int)
            difference = result_LSHWC[level, sign] - expected
            if name == "AutoContrast":  # where the quotient is a whole number, Pillow's may be just below
                low, high = image.min(axis=(0, 1)).astype(int), image.max(axis=(0, 1)).astype(int)
                whole = (image - low) * 255 % np.maximum(high - low, 1) == 0
                assert set(np.unique(difference)) <= {0, 1} and whole[difference > 0].all()
            elif name in ENHANCE:  # a multiplication and addition that the compiler may fuse
                assert abs(difference).max() <= 1
                differing += np.count_nonzero(difference)
            else:
                np.testing.assert_array_equal(difference, 0)
    assert differing < 1e-4 * results[:, number].size


def test_strengths_are_those_of_torchvision():
    torch = pytest.importorskip("torch")
    table = trivial_augment.strengths()
    evenly = functools.partial(torch.linspace, steps=LEVELS)
    expected = {
        **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), evenly(0.0, 0.99)),
        **{"TranslateX": evenly(0.0, 32.0), "TranslateY": evenly(0.0, 32.0), "Rotate": evenly(0.0, 135.0)},
        **{"Solarize": evenly(255.0, 0.0), "Posterize": 8 - (torch.arange(LEVELS) / ((LEVELS - 1) / 6)).round()},
    }
    for name, strengths in expected.items():
        np.testing.assert_allclose(table[OPERATIONS.index(name), :, 0], strengths, rtol=3e-7)
        sign = -1 if name in SIGNED else 1
        np.testing.assert_array_equal(table[OPERATIONS.index(name), :, 1], sign * table[OPERATIONS.index(name), :, 0])
    assert table[OPERATIONS.index("TranslateX"), 15, 0] == 16  # exactly, because int() follows


def test_images_are_changed_identically_on_one_device_and_on_eight_and_differently_from_each_other():
    images_BHWC = np.repeat(photographs(32, 32)[:1], 64, axis=0)
    changed = {}
    for devices in (1, 8):
        on_mesh = split_over_devices(
            functools.partial(trivial_augment.trivial_augment, key=jax.random.key(0), batch_size=64),
            make_mesh(devices),
            in_specs=SHARDED,
            out_specs=SHARDED,
        )
        changed[devices] = np.array(jax.jit(on_mesh)(images_BHWC))
    np.testing.assert_array_equal(changed[1], changed[8])
    assert len(np.unique(changed[1], axis=0)) > 40


def test_each_operation_level_and_sign_is_equally_likely(monkeypatch):
    """Of 40,000 images; the bounds are five standard deviations."""
    monkeypatch.setattr(trivial_augment, "my_part", lambda values_B: values_B)
    drawn = []
    monkeypatch.setattr(trivial_augment, "change", lambda images_BHWC, *choices: drawn.extend(map(np.array, choices)))
    trivial_augment.trivial_augment(None, key=jax.random.key(0), batch_size=40_000)
    for values_B, number in zip(drawn, (len(OPERATIONS), LEVELS, 2), strict=True):
        counts = np.bincount(values_B, minlength=number)
        assert len(counts) == number
        assert abs(counts - 40_000 / number).max() < 5 * math.sqrt(40_000 / number)
