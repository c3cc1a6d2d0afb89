"""The corruptions with their published parameters for CIFAR, applied to the images of a split."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from cifar_jax.corruptions import blur, digital, noise, weather
from cifar_jax.corruptions.blur import truncated
from cifar_jax.devices import DATA_AXIS, REPLICATED, SHARDED, quickly_compiled, shard_rows, split_over_devices

SEVERITIES = (1, 2, 3, 4, 5)
VALUES_PER_BATCH = (
    2**21
)  # of an image batch: 682 images of 32 x 32 pixels; the largest temporary array is 26 times that

# Each draws its random numbers from `key` and passes the published parameters of a severity on.


def _gaussian_noise(image_HWC, key, scale):
    return noise.gaussian_noise(image_HWC, jax.random.normal(key, image_HWC.shape), scale=scale)


def _shot_noise(image_HWC, key, photons):
    return noise.shot_noise(image_HWC, jax.random.uniform(key, image_HWC.shape), photons=photons)


def _impulse_noise(image_HWC, key, amount):
    return noise.impulse_noise(image_HWC, jax.random.uniform(key, image_HWC.shape), amount=amount)


def _defocus_blur(image_HWC, key, radius, softness):
    return blur.defocus_blur(image_HWC, radius=radius, softness=softness)


def _glass_blur(image_HWC, key, sigma, rounds):
    offsets_RHW2 = jax.random.randint(key, (rounds, *image_HWC.shape[:2], 2), -1, 1)
    return blur.glass_blur(image_HWC, offsets_RHW2, sigma=sigma)


def _motion_blur(image_HWC, key, radius, sigma):
    angle = jax.random.uniform(key, minval=-45, maxval=45)
    return blur.motion_blur(image_HWC, angle, radius=radius, sigma=sigma)


def _zoom_blur(image_HWC, key, end):
    return blur.zoom_blur(image_HWC, factors=np.arange(1, end, 0.01))


def _snow(image_HWC, key, mean, deviation, zoom, threshold, radius, sigma, kept):
    noise_key, angle_key = jax.random.split(key)
    flakes = {"mean": mean, "deviation": deviation, "zoom": zoom, "threshold": threshold}
    motion = {"angle": jax.random.uniform(angle_key, minval=-135, maxval=-45), "radius": radius, "sigma": sigma}
    return weather.snow(image_HWC, jax.random.normal(noise_key, image_HWC.shape[:2]), **flakes, **motion, kept=kept)


def _drawn_frost(image_HWC, key, kept, added):
    noise_key, photograph_key = jax.random.split(key)
    photograph = jax.random.randint(photograph_key, (), 0, len(weather.FROST_COLORS))
    return weather.drawn_frost(image_HWC, _fractal_noise(image_HWC, noise_key), photograph, kept=kept, added=added)


def _fog(image_HWC, key, strength, decay):
    return weather.fog(image_HWC, _fractal_noise(image_HWC, key), strength=strength, decay=decay)


def _brightness(image_HWC, key, added):
    return weather.brightness(image_HWC, added=added)


def _contrast(image_HWC, key, kept):
    return digital.contrast(image_HWC, kept=kept)


def _elastic_transform(image_HWC, key, scale, sigma, shift):
    """The parameters are shares of the side of the image."""
    corner_key, noise_key = jax.random.split(key)
    size = len(image_HWC)
    shifts_32 = jax.random.uniform(corner_key, (3, 2), minval=-shift * size, maxval=shift * size)
    noise_2HW = jax.random.uniform(noise_key, (2, *image_HWC.shape[:2]), minval=-1, maxval=1)
    return digital.elastic_transform(image_HWC, shifts_32, noise_2HW, scale=scale * size, sigma=sigma * size)


def _pixelate(image_HWC, key, kept):
    return digital.pixelate(image_HWC, kept=kept)


def _fractal_noise(image_HWC, key):
    """Uniform in -1 to 1, (M, M): M is the smallest power of 2 that covers the image."""
    side = 2 ** (len(image_HWC) - 1).bit_length()
    return jax.random.uniform(key, (side, side), minval=-1, maxval=1)


# Name in the published files (but for the frost, which is another one) -> function, its parameters by severity. Blurs,
# flakes and pixels of noise have their size in pixels: on images that are not 32 x 32 they are weaker or stronger.
CORRUPTIONS: dict[str, tuple[Callable, tuple[tuple, ...]]] = {
    "gaussian_noise": (_gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": (_shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": (_impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (_zoom_blur, ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,))),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "drawn_frost": (_drawn_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (_contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": (
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": (digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}


def corrupt(images_NHWC: np.ndarray, name: str, severity: int, *, mesh: Mesh, seed: int = 0) -> np.ndarray:
    """The corrupted images, uint8 (N, H, W, 3).

    Random numbers are a pure function of (seed, name, severity, row number): not of the devices, and not of the other
    images.

    Args:
        images_NHWC: uint8, square.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
    """
    function, parameters = CORRUPTIONS[name]
    if function is digital.jpeg_compression:
        (quality,) = parameters[severity - 1]
        return np.stack([function(image_HWC, quality=quality) for image_HWC in images_NHWC])
    key = jax.random.fold_in(jax.random.key(seed), 10 * list(CORRUPTIONS).index(name) + severity)

    def corrupt_image(image_HWC, number):
        image_HWC = image_HWC.astype(jnp.float32)
        return truncated(function(image_HWC, jax.random.fold_in(key, number), *parameters[severity - 1]))

    def corrupt_batch(images_BHWC, numbers_B):
        corrupted_BHWC = jax.vmap(corrupt_image)(images_BHWC, numbers_B).astype(jnp.uint8)
        return lax.all_gather(corrupted_BHWC, DATA_AXIS, tiled=True)

    on_devices = split_over_devices(corrupt_batch, mesh, in_specs=(SHARDED, SHARDED), out_specs=REPLICATED)
    compiled = quickly_compiled(on_devices, mesh)
    size = len(images_NHWC)
    batch_size = min(size, max(mesh.size, VALUES_PER_BATCH // images_NHWC[0].size))
    batches = []
    for start in range(0, size, batch_size):
        rows_B = np.minimum(np.arange(start, start + batch_size, dtype=np.int32), size - 1)
        batches.append(compiled(shard_rows(images_NHWC[rows_B], mesh), shard_rows(rows_B, mesh)))
    return np.concatenate([batch[:batch_size] for batch in jax.device_get(batches)])[:size]
