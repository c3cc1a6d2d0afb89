"""Each corruption against the published formula in float64, with NumPy, SciPy, Pillow or loops, on the same numbers."""

import math

import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from cifar_jax.corruptions import blur, digital, noise, weather
from cifar_jax.corruptions.suite import CORRUPTIONS, SEVERITIES

SIZE = 20
RANDOM = np.random.default_rng(0)
IMAGE_HWC = ndimage.gaussian_filter(RANDOM.uniform(-200, 455, (SIZE, SIZE, 3)), (1, 1, 0)).clip(0, 255).round()
UNIFORM_HWC = RANDOM.random(IMAGE_HWC.shape)


def parameters(name):
    return pytest.mark.parametrize("parameters", CORRUPTIONS[name][1], ids=SEVERITIES)


def assert_equal(image_HWC, expected_HWC, *, atol=2e-3):
    np.testing.assert_allclose(np.asarray(image_HWC), expected_HWC, rtol=0, atol=atol)


@parameters("gaussian_noise")
def test_gaussian_noise(parameters):
    noise_HWC = RANDOM.normal(size=IMAGE_HWC.shape)
    expected_HWC = (IMAGE_HWC / 255 + noise_HWC * parameters[0]) * 255
    assert_equal(
        noise.gaussian_noise(jnp.float32(IMAGE_HWC), jnp.float32(noise_HWC), scale=parameters[0]), expected_HWC
    )


@parameters("shot_noise")
def test_shot_noise_has_the_quantiles_of_poisson(parameters):
    uniform_HWC = np.float32(UNIFORM_HWC)
    counts_HWC = stats.poisson.ppf(uniform_HWC.astype(float), IMAGE_HWC / 255 * parameters[0])
    shot_HWC = noise.shot_noise(jnp.float32(IMAGE_HWC), jnp.float32(uniform_HWC), photons=parameters[0])
    assert_equal(shot_HWC, counts_HWC / parameters[0] * 255)


def test_impulse_noise():
    changed_HWC = noise.impulse_noise(jnp.float32(IMAGE_HWC), jnp.float32(UNIFORM_HWC), amount=0.3)
    expected_HWC = np.select([UNIFORM_HWC < 0.15, UNIFORM_HWC < 0.3], [0, 255], IMAGE_HWC)
    assert_equal(changed_HWC, expected_HWC)


@parameters("defocus_blur")
def test_defocus_blur(parameters):
    radius, softness = parameters
    line = np.arange(-8, 9)
    disk = np.float64(line[:, None] ** 2 + line**2 <= radius**2)
    taps = np.exp(-0.5 * (np.arange(-1, 2) / softness) ** 2)
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2, mode="constant")
    expected_HWC = ndimage.correlate(IMAGE_HWC, kernel[..., None], mode="mirror")
    assert_equal(blur.defocus_blur(jnp.float32(IMAGE_HWC), radius=radius, softness=softness), expected_HWC)


@parameters("glass_blur")
def test_glass_blur_as_published_pixel_by_pixel(parameters):
    sigma, rounds = parameters
    offsets_RHW2 = RANDOM.integers(-1, 1, (rounds, SIZE, SIZE, 2))
    gaussian = lambda image_HWC: ndimage.gaussian_filter(image_HWC, (sigma, sigma, 0), mode="nearest", truncate=4)  # noqa: E731
    x = np.uint8(gaussian(IMAGE_HWC) + 1e-4)
    for round_ in range(rounds):
        for h in range(SIZE - 1, 1, -1):
            for w in range(SIZE - 1, 1, -1):
                dy, dx = offsets_RHW2[round_, h, w]
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    blurred_HWC = blur.glass_blur(jnp.float32(IMAGE_HWC), jnp.asarray(offsets_RHW2), sigma=sigma)
    # A value next to a whole number may be truncated the other way, depending on the processor.
    assert (np.abs(blurred_HWC - gaussian(np.float64(x))) > 2e-3).mean() < 0.02


def motion_blurred(image_HWC, *, radius, sigma, angle):
    """MotionBlurImage of ImageMagick, written as loops."""
    height, width, channels = image_HWC.shape
    taps = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    blurred_HWC = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            for i, tap in enumerate(taps):
                row = y + math.ceil(i * math.sin(math.radians(angle)) - 0.5)
                column = x + math.ceil(i * math.cos(math.radians(angle)) - 0.5)
                source_C = image_HWC[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
                blurred_HWC[y, x] += tap / sum(taps) * source_C
    return np.floor(blurred_HWC + 0.5)


@parameters("motion_blur")
def test_motion_blur(parameters):
    radius, sigma = parameters
    angle = RANDOM.uniform(-45, 45)
    expected_HWC = motion_blurred(IMAGE_HWC, radius=radius, sigma=sigma, angle=angle)
    blurred_HWC = blur.motion_blur(jnp.float32(IMAGE_HWC), angle, radius=radius, sigma=sigma)
    assert (np.abs(blurred_HWC - expected_HWC) > 1e-3).mean() < 0.002  # a half, rounded the other way


def clipped_zoom(image_HWC, factor):
    height = len(image_HWC)
    part = math.ceil(height / factor)
    top = (height - part) // 2
    enlarged_HWC = ndimage.zoom(image_HWC[top : top + part, top : top + part], (factor, factor, 1), order=1)
    trim = (len(enlarged_HWC) - height) // 2
    return enlarged_HWC[trim : trim + height, trim : trim + height]


@parameters("zoom_blur")
def test_zoom_blur(parameters):
    factors = np.arange(1, parameters[0], 0.01)
    expected_HWC = sum((clipped_zoom(IMAGE_HWC, factor) for factor in factors), IMAGE_HWC) / (len(factors) + 1)
    assert_equal(blur.zoom_blur(jnp.float32(IMAGE_HWC), factors=factors), expected_HWC)


@parameters("snow")
def test_snow(parameters):
    mean, deviation, zoom, threshold, radius, sigma, kept = parameters
    noise_HW, angle = RANDOM.normal(size=(SIZE, SIZE)), RANDOM.uniform(-135, -45)
    layer_HWC = clipped_zoom((mean + deviation * noise_HW)[..., None], zoom)
    layer_HWC[layer_HWC < threshold] = 0
    layer_HWC = np.floor(255 * np.clip(layer_HWC, 0, 1))
    layer_HWC = motion_blurred(layer_HWC, radius=radius, sigma=sigma, angle=angle)
    gray_HWC = IMAGE_HWC @ [[0.299], [0.587], [0.114]] / 255
    pale_HWC = kept * IMAGE_HWC / 255 + (1 - kept) * np.maximum(IMAGE_HWC / 255, gray_HWC * 1.5 + 0.5)
    expected_HWC = 255 * (pale_HWC + layer_HWC / 255 + np.rot90(layer_HWC, k=2) / 255)
    flakes = {"mean": mean, "deviation": deviation, "zoom": zoom, "threshold": threshold}
    motion = {"angle": angle, "radius": radius, "sigma": sigma}
    snow_HWC = weather.snow(jnp.float32(IMAGE_HWC), jnp.float32(noise_HW), **flakes, **motion, kept=kept)
    differing_HWC = np.abs(snow_HWC - expected_HWC)
    assert differing_HWC.max() < 2.01 and (differing_HWC > 2e-3).mean() < 0.01  # flakes are rounded


def fractal(noise_MM, decay):
    """Diamond-square, point by point: each is the mean of four neighbors half a step away, and noise."""
    size = len(noise_MM)
    heights_MM, step, amplitude = np.zeros((size, size)), size, 100.0
    while step > 1:
        half = step // 2
        new = amplitude * amplitude * noise_MM

        def set_mean(row, column, neighbors, new=new):
            mean = sum(heights_MM[(row + down) % size, (column + right) % size] for down, right in neighbors) / 4
            heights_MM[row, column] = mean + new[row, column]

        for row in range(0, size, step):
            for column in range(0, size, step):
                set_mean(row + half, column + half, [(-half, -half), (-half, half), (half, -half), (half, half)])
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for row in range(0, size, step):
            for column in range(0, size, step):
                set_mean(row, column + half, cross)
                set_mean(row + half, column, cross)
        step, amplitude = half, amplitude / decay
    return (heights_MM - heights_MM.min()) / np.ptp(heights_MM)


@parameters("fog")
def test_fog(parameters):
    strength, decay = parameters
    noise_MM = RANDOM.uniform(-1, 1, (32, 32))
    largest = IMAGE_HWC.max() / 255
    expected_HWC = IMAGE_HWC / 255 + strength * fractal(noise_MM, decay)[:SIZE, :SIZE, None]
    expected_HWC = 255 * expected_HWC * largest / (largest + strength)
    fog_HWC = weather.fog(jnp.float32(IMAGE_HWC), jnp.float32(noise_MM), strength=strength, decay=decay)
    assert_equal(fog_HWC, expected_HWC)


@pytest.mark.parametrize("photograph", range(5))
def test_drawn_frost_has_the_color_and_the_contrast_of_a_photograph(photograph):
    noise_MM = jnp.float32(RANDOM.uniform(-1, 1, (32, 32)))
    frost_HWC = weather.drawn_frost(jnp.zeros((32, 32, 3)), noise_MM, photograph, kept=0.9, added=1.0)
    np.testing.assert_allclose(frost_HWC.mean(axis=(0, 1)), weather.FROST_COLORS[photograph], atol=3)
    np.testing.assert_allclose(frost_HWC.std(axis=(0, 1)), weather.FROST_DEVIATIONS[photograph], rtol=0.15)
    over_HWC = weather.drawn_frost(jnp.full((32, 32, 3), 100.0), noise_MM, photograph, kept=0.9, added=0.5)
    assert_equal(over_HWC, 0.9 * 100 + 0.5 * np.asarray(frost_HWC))


@parameters("brightness")
def test_brightness_by_hsv(parameters):
    image_HWC = IMAGE_HWC.copy()
    image_HWC[:2, :2] = 0
    hsv_HWC = matplotlib.colors.rgb_to_hsv(image_HWC / 255)
    hsv_HWC[..., 2] = np.clip(hsv_HWC[..., 2] + parameters[0], 0, 1)
    expected_HWC = 255 * matplotlib.colors.hsv_to_rgb(hsv_HWC)
    assert_equal(weather.brightness(jnp.float32(image_HWC), added=parameters[0]), expected_HWC)


@parameters("contrast")
def test_contrast(parameters):
    means = IMAGE_HWC.mean(axis=(0, 1), keepdims=True)
    assert_equal(
        digital.contrast(jnp.float32(IMAGE_HWC), kept=parameters[0]), (IMAGE_HWC - means) * parameters[0] + means
    )


@parameters("elastic_transform")
def test_elastic_transform(parameters):
    scale, sigma, shift = (SIZE * parameter for parameter in parameters)
    shifts_32, noise_2HW = RANDOM.uniform(-shift, shift, (3, 2)), RANDOM.uniform(-1, 1, (2, SIZE, SIZE))
    center, side = SIZE // 2, SIZE // 3
    corners_32 = np.array(
        [[center + side, center + side], [center + side, center - side], [center - side, center - side]]
    )
    forward_33 = np.eye(3)
    forward_33[:2] = np.linalg.solve(np.c_[corners_32, np.ones(3)], corners_32 + shifts_32).T
    x_HW, y_HW = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    source_3N = np.linalg.inv(forward_33) @ np.stack([x_HW.ravel(), y_HW.ravel(), np.ones(SIZE**2)])
    sampled = lambda image_HW, y_HW, x_HW, mode: ndimage.map_coordinates(image_HW, [y_HW, x_HW], order=1, mode=mode)  # noqa: E731
    warped = [sampled(IMAGE_HWC[..., c], *source_3N[1::-1], "mirror").reshape(SIZE, SIZE) for c in range(3)]
    dx_HW, dy_HW = (scale * ndimage.gaussian_filter(n_HW, sigma, mode="reflect", truncate=3) for n_HW in noise_2HW)
    expected_HWC = np.stack([sampled(image_HW, y_HW + dy_HW, x_HW + dx_HW, "reflect") for image_HW in warped], axis=-1)
    draws = jnp.float32(shifts_32), jnp.float32(noise_2HW)
    assert_equal(
        digital.elastic_transform(jnp.float32(IMAGE_HWC), *draws, scale=scale, sigma=sigma), expected_HWC, atol=0.01
    )


@pytest.mark.parametrize("size", [32, 33, 48])
@parameters("pixelate")
def test_pixelate_as_pillow(parameters, size):
    image_HWC = RANDOM.integers(0, 256, (size, size, 3), np.uint8)
    small = Image.fromarray(image_HWC).resize([int(size * parameters[0])] * 2, Image.Resampling.BOX)
    expected_HWC = np.asarray(small.resize((size, size), Image.Resampling.BOX))
    np.testing.assert_array_equal(digital.pixelate(jnp.float32(image_HWC), kept=parameters[0]), expected_HWC)


@parameters("jpeg_compression")
def test_jpeg_quantizes_a_flat_image_as_its_quality_demands(parameters):
    """The first entry of the standard's luminance table is 16; a mean is stored in steps of it, divided by 8."""
    (quality,) = parameters
    step = (16 * (200 - 2 * quality if quality >= 50 else 5000 // quality) + 50) // 100
    for value in range(0, 256, 5):
        if 8 * (value - 128) / step % 1 == 0.5:
            continue
        flat_HWC = digital.jpeg_compression(np.full((16, 16, 3), value, np.uint8), quality=quality)
        expected = 128 + round(8 * (value - 128) / step) * step / 8
        assert_equal(np.float64(flat_HWC), np.full((16, 16, 3), np.clip(expected, 0, 255)), atol=1)
