"""Logits of whole splits against the model applied to single images."""

import jax
import numpy as np
import pytest

from cifar_jax.data import ImageSet
from cifar_jax.data.batches import place
from cifar_jax.devices import make_mesh, replicate
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.models.cnn import CNN

SIZE = 37  # a multiple of neither the batch size nor the number of devices
MODEL = CNN(num_classes=5, widths=(8,), convs_per_block=1, whitening=False)


def prepare(images_NHWC):
    return images_NHWC.astype("float32") / 128 - 1


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return ImageSet(random.integers(0, 256, (SIZE, 8, 8, 3), np.uint8), np.zeros(SIZE, np.int32), tuple("abcde"))


@pytest.fixture(scope="module")
def variables(images):
    variables = jax.jit(
        lambda: MODEL.init(jax.random.key(0), prepare(jax.numpy.asarray(images.images_NHWC[:1])), train=False)
    )()
    random = np.random.default_rng(1)  # statistics other than the initial ones
    return jax.tree.map(lambda x: x + random.uniform(0, 0.3, x.shape).astype(np.float32), variables)


@pytest.fixture(scope="module")
def apply_to_each(variables):
    apply = jax.jit(lambda image_HWC: MODEL.apply(variables, prepare(image_HWC[None]), train=False)[0])
    return lambda images_NHWC: np.stack([apply(image_HWC) for image_HWC in images_NHWC])


def forward(variables, images_BHWC):
    return MODEL.apply(variables, prepare(images_BHWC), train=False)


def predicted(images, variables, *, devices, batch_size, tta):
    mesh = make_mesh(devices)
    predict = compile_predict(mesh, forward=forward, tta=tta)
    placed, variables = place(images, mesh), replicate(variables, mesh)
    return predict_split(predict, variables, placed, size=SIZE, batch_size=batch_size, mesh=mesh)


@pytest.mark.parametrize("devices, batch_size", [(1, 10), (8, 12), (8, 1000)])
def test_every_image_is_evaluated_once_and_in_order(images, variables, apply_to_each, devices, batch_size):
    logits = predicted(images, variables, devices=devices, batch_size=batch_size, tta=False)
    assert set(logits) == {"plain"}
    assert logits["plain"].shape == (SIZE, 5)
    assert logits["plain"].dtype == np.float32
    expected = apply_to_each(images.images_NHWC)
    assert np.ptp(expected, axis=0).min() > 1e-3, "the images have different logits"
    np.testing.assert_allclose(logits["plain"], expected, rtol=1e-5, atol=1e-5)


def test_splits_of_different_sizes_share_a_predictor(images, variables, apply_to_each):
    mesh = make_mesh(1)
    predict = compile_predict(mesh, forward=forward, tta=False)
    for split in (images, images.take(np.arange(12)), images):
        settings = {"size": len(split), "batch_size": 10, "mesh": mesh}
        logits = predict_split(predict, replicate(variables, mesh), place(split, mesh), **settings)["plain"]
        np.testing.assert_allclose(logits, apply_to_each(split.images_NHWC), rtol=1e-5, atol=1e-5)


def test_test_time_augmentation_averages_six_views(images, variables, apply_to_each):
    logits = predicted(images, variables, devices=8, batch_size=16, tta=True)
    images_NHWC = images.images_NHWC
    padded = np.pad(images_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = 0
    for weight, view in ((1 / 4, images_NHWC), (1 / 8, padded[:, :8, :8]), (1 / 8, padded[:, 2:, 2:])):
        expected = expected + weight * (apply_to_each(view) + apply_to_each(view[:, :, ::-1]))
    np.testing.assert_allclose(logits["plain"], apply_to_each(images_NHWC), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits["tta"], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(logits["tta"] - logits["plain"]).max() > 1e-3
