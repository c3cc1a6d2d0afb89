"""The CNN: initial values, names and types of its parameters and outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.errors import UsageError
from cifar_jax.models.cnn import CNN, identity_first, whitening_kernel

IMAGES_NHWC = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def initialized(**settings):
    model = CNN(num_classes=5, **{"widths": (8, 8), **settings})
    return model, jax.jit(lambda: model.init(jax.random.key(0), IMAGES_NHWC, train=False))()


def paths(tree):
    return {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_whitened_patches_are_uncorrelated_with_unit_variance():
    random = np.random.default_rng(0)
    smooth = random.normal(size=(50, 9, 9, 3)) @ random.normal(size=(3, 3))  # correlated colors and neighbors
    images_NHWC = (smooth[:, 1:, 1:] + smooth[:, :-1, :-1] + smooth[:, 1:, :-1]).astype(np.float32)
    kernel_HWIO = whitening_kernel(images_NHWC, prepare=np.asarray, epsilon=0)
    assert kernel_HWIO.shape == (2, 2, 3, 24)
    assert kernel_HWIO.dtype == np.float32
    np.testing.assert_array_equal(kernel_HWIO[..., 12:], -kernel_HWIO[..., :12])

    filters_HWIO = kernel_HWIO[..., :12].astype(np.float64)
    outputs_NHWC = sum(
        np.einsum("nhwi,io->nhwo", images_NHWC[:, row : row + 7, column : column + 7], filters_HWIO[row, column])
        for row in range(2)
        for column in range(2)
    )
    outputs_PD = outputs_NHWC.reshape(-1, 12)
    np.testing.assert_allclose(outputs_PD.T @ outputs_PD / len(outputs_PD), np.eye(12), atol=1e-3)


def test_whitening_of_images_without_variance_is_finite():
    assert np.isfinite(whitening_kernel(np.zeros((2, 4, 4, 3), np.float32), prepare=np.asarray)).all()


def test_whitening_uses_all_of_the_first_5000_images_and_no_others():
    brightness_N = np.repeat([0.1, 0.5, 0.9], [250, 4750, 1000]).astype(np.float32)
    images_NHWC = brightness_N[:, None, None, None] * np.random.default_rng(0).random((6000, 2, 2, 3), np.float32)
    kernel_HWIO = whitening_kernel(images_NHWC, prepare=lambda images: 2 * images, epsilon=0)
    patches_PD = 2 * images_NHWC[:5000].reshape(5000, 12).astype(np.float64)
    outputs_PD = patches_PD @ kernel_HWIO[..., :12].reshape(12, 12)
    np.testing.assert_allclose(outputs_PD.T @ outputs_PD / len(outputs_PD), np.eye(12), atol=1e-4)


@pytest.mark.parametrize("size, inputs, outputs", [(3, 4, 9), (3, 6, 4), (2, 3, 3)])
def test_the_first_filters_are_the_identity(size, inputs, outputs):
    kernel_HWIO = np.array(identity_first(jax.random.key(0), (size, size, inputs, outputs)))
    same = min(inputs, outputs)
    images_NHWC = np.random.default_rng(0).normal(size=(2, 6, 6, inputs)).astype(np.float32)
    output_NHWC = lax.conv_general_dilated(
        images_NHWC, kernel_HWIO, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    middle = slice(size // 2, size // 2 + 7 - size)
    np.testing.assert_array_equal(output_NHWC[..., :same], images_NHWC[:, middle, middle, :same])
    rest_HWIO = kernel_HWIO[..., same:]
    bound = np.sqrt(1 / (size * size * inputs))  # uniform of variance gain / fan_in, gain 1/3
    assert (np.abs(rest_HWIO) <= bound).all()
    assert rest_HWIO.size == 0 or np.abs(rest_HWIO).max() > 0.8 * bound


def test_parameters_have_explicit_names():
    _, variables = initialized(convs_per_block=2)
    assert paths(variables["params"]) == {
        "whiten/kernel",
        "whiten_bias/bias",
        "head/kernel",
        *(f"block{b}_conv{i}/kernel" for b in (1, 2) for i in (1, 2)),
        *(f"block{b}_norm{i}/bias" for b in (1, 2) for i in (1, 2)),
    }
    assert paths(variables["batch_stats"]) == {
        f"block{b}_norm{i}/{value}" for b in (1, 2) for i in (1, 2) for value in ("mean", "var")
    }


def test_a_network_without_norms_has_biases_and_no_statistics():
    _, variables = initialized(norm="none", whitening=False, convs_per_block=1)
    assert set(variables) == {"params"}
    assert paths(variables["params"]) == {
        "block1_conv1/kernel",
        "block1_norm1/bias",
        "block2_conv1/kernel",
        "block2_norm1/bias",
        "head/kernel",
    }


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_logits_are_float32(dtype, norm):
    model, variables = initialized(dtype=jnp.dtype(dtype), norm=norm, convs_per_block=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    apply = jax.jit(lambda variables: model.apply(variables, IMAGES_NHWC, train=False))
    assert apply(variables).shape == (4, 5)
    assert apply(variables).dtype == jnp.float32
    # The convolutions of the traced program compute in `dtype`.
    convolutions = [line for line in apply.lower(variables).as_text().splitlines() if "convolution(" in line]
    assert convolutions
    assert all(("bf16" in line) == (dtype == "bfloat16") for line in convolutions)


@pytest.mark.parametrize(
    "image_size, blocks, message",
    [
        (32, 8, "shrinks to 0 in block 6; use at most 5 blocks, or at least 256 pixels"),
        (31, 5, "shrinks to 0 in block 5; use at most 4 blocks, or at least 32 pixels"),
        (1, 1, "shrinks to 0 in block 1; use at least 2 pixels"),
    ],
)
def test_an_image_that_shrinks_to_0_names_the_block_and_what_fits(image_size, blocks, message):
    with pytest.raises(UsageError, match=message):
        CNN(num_classes=5, widths=(4,) * blocks).require_size(image_size)


@pytest.mark.parametrize("image_size, blocks", [(2, 1), (31, 4), (32, 5), (256, 8)])
def test_the_smallest_image_that_fits_gives_logits(image_size, blocks):
    model = CNN(num_classes=5, widths=(4,) * blocks)
    model.require_size(image_size)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), images)
    assert logits.shape == (1, 5)
