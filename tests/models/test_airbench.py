"""The networks of cifar10-airbench: initial values, sizes and the scale of their logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.errors import UsageError
from cifar_jax.models.airbench import Airbench94, Airbench96
from cifar_jax.models.summary import layers
from cifar_jax.preprocessing.preprocess import Preprocessing

PREPARE = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 16)
IMAGES_NHWC = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)


def initial(model):
    return model.initial_variables(seed=0, images_NHWC=IMAGES_NHWC, prepare=PREPARE)["params"]


def test_the_published_network_has_its_size_and_layers():
    rows = layers(Airbench94(num_classes=10), 32)
    assert sum(row["parameter_count"] for row in rows) == 1_971_640
    shapes = {row["name"]: tuple(row["output_shape"]) for row in rows}
    assert shapes["whiten_bias"] == (31, 31, 24)
    assert [shapes[f"block{block}_norm2"] for block in (1, 2, 3)] == [(15, 15, 64), (7, 7, 256), (3, 3, 256)]


def test_initial_values():
    params = initial(Airbench94(num_classes=10, widths=(64, 64)))
    assert params["head"]["kernel"].std(ddof=1) == pytest.approx(1, abs=1e-5)
    bias = params["whiten_bias"]["bias"]
    assert 0.8 < np.abs(bias).max() * np.sqrt(12) <= 1
    assert len(set(np.sign(bias).tolist())) == 2
    np.testing.assert_array_equal(params["whiten"]["kernel"][..., 12:], -params["whiten"]["kernel"][..., :12])
    np.testing.assert_array_equal(params["block2_conv2"]["kernel"][1, 1], np.eye(64))


def test_initial_values_of_airbench96():
    params = initial(Airbench96(num_classes=10, widths=(64, 64)))
    assert not params["whiten_bias"]["bias"].any()
    kernel_CK = np.abs(params["head"]["kernel"])
    assert 0.8 / 8 < kernel_CK.max() <= 1 / 8  # 1 / sqrt(64)


@pytest.mark.parametrize(("model_class", "scale"), [(Airbench94, 1 / 64), (Airbench96, 1 / 9)])
def test_logits_are_scaled(model_class, scale):
    model = model_class(num_classes=3, widths=(8, 64))
    kernel_CK = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    features_NC = jnp.ones((2, 64))
    logits_NK = model.apply({"params": {"head": {"kernel": kernel_CK}}}, features_NC, train=False, method="classify")
    np.testing.assert_allclose(logits_NK, features_NC @ kernel_CK * scale, rtol=1e-5)


def test_an_image_that_shrinks_to_0_is_refused():
    model = Airbench94(num_classes=5, widths=(4, 4, 4))
    with pytest.raises(UsageError, match="shrinks to 0 in block 3; use at most 2 blocks, or at least 9 pixels"):
        model.require_size(8)
    with pytest.raises(UsageError, match="shrinks to 0 in block 1; use at least"):
        model.require_size(1)
    model.require_size(9)
    images = jax.ShapeDtypeStruct((1, 9, 9, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), images)
    assert logits.shape == (1, 5)
