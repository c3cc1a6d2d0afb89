import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from cifar_jax.data import drawn_shapes
from cifar_jax.data.drawn_shapes import SIGNED_DISTANCES, draw_shapes


@pytest.fixture(scope="module")
def drawn():
    return draw_shapes(train_size=3000, test_size=1000)


def test_sizes_dtypes_and_classes(drawn):
    assert drawn.name == "shapes" and not drawn.is_fallback
    assert drawn.class_names == tuple(SIGNED_DISTANCES) and len(SIGNED_DISTANCES) == 10
    for images, size in ((drawn.train, 3000), (drawn.test, 1000)):
        assert images.images_NHWC.shape == (size, 32, 32, 3) and images.images_NHWC.dtype == np.uint8
        assert images.labels_N.dtype == np.int32
        np.testing.assert_array_equal(np.bincount(images.labels_N), size // 10)


def test_same_seed_same_images_and_smaller_is_the_beginning_of_larger(drawn):
    small = draw_shapes(train_size=730, test_size=20)
    np.testing.assert_array_equal(small.train.images_NHWC, drawn.train.images_NHWC[:730])
    np.testing.assert_array_equal(small.test.labels_N, drawn.test.labels_N[:20])
    other = draw_shapes(train_size=730, test_size=20, seed=1)
    assert (other.train.images_NHWC != small.train.images_NHWC).mean() > 0.9


def test_no_image_occurs_twice(drawn):
    both = np.concatenate([drawn.train.images_NHWC, drawn.test.images_NHWC]).reshape(4000, -1)
    assert len(np.unique(both, axis=0)) == 4000


def test_linear_model_and_neighbors_fail(drawn):
    """Required: under 50 %; measured: hardly above chance, 10 %."""
    train_NF, test_NF = (
        images.images_NHWC.reshape(len(images), -1) / np.float32(255) - 0.5 for images in (drawn.train, drawn.test)
    )
    linear = RidgeClassifier(alpha=1000.0, solver="cholesky").fit(train_NF[:2000], drawn.train.labels_N[:2000])
    assert linear.score(test_NF, drawn.test.labels_N) < 0.3
    neighbors = KNeighborsClassifier(1).fit(train_NF, drawn.train.labels_N)
    assert neighbors.score(test_NF, drawn.test.labels_N) < 0.3


def test_colors_say_nothing_about_the_class(drawn):
    """A linear model sees the mean and five quantiles of each channel."""
    pixels_NPC = drawn.train.images_NHWC.reshape(3000, -1, 3) / np.float32(255)
    quantiles_QNC = np.quantile(pixels_NPC, (0.02, 0.1, 0.5, 0.9, 0.98), axis=1)
    features_NF = StandardScaler().fit_transform(np.concatenate([pixels_NPC.mean(1), *quantiles_QNC], axis=1))
    model = LogisticRegression(max_iter=1000).fit(features_NF[:2000], drawn.train.labels_N[:2000])
    assert model.score(features_NF[2000:], drawn.train.labels_N[2000:]) < 0.18


def test_brightness_and_colors_use_the_whole_range(drawn):
    assert drawn.train.images_NHWC.min() == 0 and drawn.train.images_NHWC.max() == 255
    assert abs(drawn.train.images_NHWC.mean() - 127.5) < 10


def _inside(name, *, size=400):
    y, x = np.mgrid[-1.2 : 1.2 : size * 1j, -1.2 : 1.2 : size * 1j]
    return SIGNED_DISTANCES[name](x, y) < 0


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disc", np.pi * 0.85**2),
        ("ring", np.pi * (0.92**2 - 0.58**2)),
        ("square", 1.44**2),
        ("frame", 1.5**2 - 0.9**2),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("cross", 2 * 1.9 * 0.48 - 0.48**2),
        ("star", 5 * 0.4 * np.sin(np.pi / 5)),
        ("heart", 4 * 0.5**2 + np.pi * 0.5**2),
        ("stripes", 3 * 0.3 * 1.56),
    ],
)
def test_shapes_have_the_area_of_geometry(name, area):
    assert _inside(name).mean() * 2.4**2 == pytest.approx(area, rel=0.02)


def test_crescent_is_a_disc_without_another_disc():
    y, x = np.mgrid[-1.2:1.2:200j, -1.2:1.2:200j]
    expected = (x**2 + y**2 < 0.9**2) & ((x - 0.5) ** 2 + y**2 > 0.75**2)
    np.testing.assert_array_equal(_inside("crescent", size=200), expected)


def test_every_shape_stays_in_its_circle():
    y, x = np.mgrid[-3:3:200j, -3:3:200j]
    for shape in SIGNED_DISTANCES.values():
        assert np.hypot(x, y)[shape(x, y) < 0].max() < 1.12


def test_a_chunk_is_drawn_at_once_from_one_stream(drawn, monkeypatch):
    """Of a size that does not divide by the chunk, nothing but the surplus is lost."""
    part = draw_shapes(train_size=drawn_shapes.CHUNK + 1, test_size=1)
    np.testing.assert_array_equal(part.train.images_NHWC, drawn.train.images_NHWC[: drawn_shapes.CHUNK + 1])
