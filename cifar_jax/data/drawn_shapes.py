"""Ten classes of 32 x 32 color images that the program draws: the fallback data set.

One shape per image, of random position, size, angle and color, on a shaded background under spots and noise. No color,
brightness or single pixel depends on the class, so a linear model fails and a convolutional one does not.
"""

import numpy as np

from cifar_jax.data.dataset import Dataset, ImageSet

PIXELS = 32
TRAIN_SIZE, TEST_SIZE = 20_000, 4_000
CHUNK = 500  # images drawn at once; each chunk has its own random stream
SPOTS = 3


def draw_shapes(*, train_size: int = TRAIN_SIZE, test_size: int = TEST_SIZE, seed: int = 0) -> Dataset:
    """Draws the data set; the same sizes and seed give the same images.

    Labels cycle through the classes, which are balanced; a smaller data set is the first part of a larger one. 24,000
    images take some seconds on one core.
    """
    train, test = (_draw_split(size, seed=seed, split=split) for split, size in enumerate((train_size, test_size)))
    return Dataset(name="shapes", source="drawn by the program", train=train, test=test, origin="drawn from a seed")


def _draw_split(size: int, *, seed: int, split: int) -> ImageSet:
    labels_N = (np.arange(size) % len(SIGNED_DISTANCES)).astype(np.int32)
    images_NHWC = np.empty((size, PIXELS, PIXELS, 3), np.uint8)
    for chunk, start in enumerate(range(0, size, CHUNK)):
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, split, chunk))))
        images_NHWC[start : start + CHUNK] = _draw_chunk(stream)[: size - start]
    return ImageSet(images_NHWC, labels_N, tuple(SIGNED_DISTANCES))


def _draw_chunk(stream: np.random.Generator) -> np.ndarray:
    labels_N = np.arange(CHUNK) % len(SIGNED_DISTANCES)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return low + (high - low) * stream.random((CHUNK, *shape), np.float32)

    # Where: the center of the shape, its radius and angle; lengths in pixels.
    radius_N = uniform(6.0, 13.0)
    reach_N = PIXELS / 2 - 0.8 * radius_N  # the border may cut off a tip, but not the body
    center_N2 = PIXELS / 2 + uniform(-1.0, 1.0, 2) * reach_N[:, None]
    angle_N = uniform(0.0, 2 * np.pi)

    # Colors in 0..1: in each channel the shape is 0.15 to 0.85 away from the background, up or down.
    back_N3 = uniform(0.0, 1.0, 3)
    shape_N3 = (back_N3 + uniform(0.15, 0.85, 3)) % 1.0
    slope_N23 = uniform(-0.3, 0.3, 2, 3) / PIXELS
    spot_NS3 = uniform(0.0, 1.0, SPOTS, 3)
    gain_N, offset_N = uniform(0.6, 1.0), uniform(-0.15, 0.15)

    y_HW, x_HW = np.mgrid[:PIXELS, :PIXELS].astype(np.float32) + 0.5
    offsets_2HW = np.stack([x_HW, y_HW]) - PIXELS / 2
    image_NHWC = back_N3[:, None, None] + np.einsum("nkc,khw->nhwc", slope_N23, offsets_2HW)
    _paint(image_NHWC, shape_N3, _distances(labels_N, x_HW, y_HW, center_N2, radius_N, angle_N))
    for spot in range(SPOTS):
        spot_N2 = uniform(0.0, PIXELS, 2)
        x_NHW, y_NHW = x_HW - spot_N2[:, 0, None, None], y_HW - spot_N2[:, 1, None, None]
        distance_NHW = np.hypot(x_NHW, y_NHW) - uniform(1.0, 2.5)[:, None, None]
        _paint(image_NHWC, spot_NS3[:, spot], distance_NHW)

    noise_N = uniform(0.05, 0.35)
    image_NHWC += uniform(-1.0, 1.0, PIXELS, PIXELS, 3) * noise_N[:, None, None, None]
    image_NHWC = 0.5 + (image_NHWC - 0.5) * gain_N[:, None, None, None] + offset_N[:, None, None, None]
    return (image_NHWC.clip(0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _paint(image_NHWC: np.ndarray, color_N3: np.ndarray, distance_NHW: np.ndarray) -> None:
    """Paints the pixels at negative distances (in pixels), with an edge one pixel soft."""
    cover_NHW1 = (0.5 - distance_NHW).clip(0.0, 1.0)[..., None]
    image_NHWC += cover_NHW1 * (color_N3[:, None, None] - image_NHWC)


def _distances(labels_N, x_HW, y_HW, center_N2, radius_N, angle_N) -> np.ndarray:
    """Signed distance in pixels of every pixel from the edge of its image's shape, negative inside."""
    x_NHW, y_NHW = x_HW - center_N2[:, 0, None, None], y_HW - center_N2[:, 1, None, None]
    cos_N, sin_N = np.cos(angle_N) / radius_N, np.sin(angle_N) / radius_N
    u_NHW = x_NHW * cos_N[:, None, None] + y_NHW * sin_N[:, None, None]
    v_NHW = y_NHW * cos_N[:, None, None] - x_NHW * sin_N[:, None, None]
    distance_NHW = np.empty_like(u_NHW)
    for label, shape in enumerate(SIGNED_DISTANCES.values()):
        of_label = labels_N == label
        distance_NHW[of_label] = shape(u_NHW[of_label], v_NHW[of_label])
    return distance_NHW * radius_N[:, None, None]


def _cross(x, y):
    x, y = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.maximum(x - 0.95, y - 0.24)


def _star(x, y):
    """Five points, by the edge from a tip at (1, 0) to the notch at 36 degrees and radius 0.4."""
    radius, fifth = np.hypot(x, y), 2 * np.pi / 5
    angle = abs((np.arctan2(y, x) + fifth / 2) % fifth - fifth / 2)
    notch = 0.4 * np.exp(1j * fifth / 2)
    normal = -1j * (notch - 1) / abs(notch - 1)
    return (radius * np.cos(angle) - 1) * normal.real + radius * np.sin(angle) * normal.imag


def _heart(x, y):
    """A square on its corner, and a disc on each of two neighboring sides."""
    side, x, y = 0.5, abs(x), y + 0.15
    square = np.maximum(abs(x + y), abs(x - y)) * 0.7071 - side
    return np.minimum(square, np.hypot(x - 0.7071 * side, y - 0.7071 * side) - side)


def _stripes(x, y):
    bars = abs((y + 0.3) % 0.6 - 0.3) - 0.15
    return np.maximum(bars, np.maximum(abs(x), abs(y)) - 0.78)


# The shapes, in the circle of radius 1: distance from the edge at the point (x, y), negative inside.
SIGNED_DISTANCES = {
    "disc": lambda x, y: np.hypot(x, y) - 0.85,
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) - 0.17,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) - 0.72,
    "frame": lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.6) - 0.15,
    "triangle": lambda x, y: np.maximum(y, 0.866 * abs(x) - 0.5 * y) - 0.5,
    "cross": _cross,
    "star": _star,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.9, 0.75 - np.hypot(x - 0.5, y)),
    "heart": _heart,
    "stripes": _stripes,
}
