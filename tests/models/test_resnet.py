"""The ResNet: names, sizes, strides, initial values, and a training step.

tests/pretrained compares its numbers with those of other libraries.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.devices import DATA_AXIS, REPLICATED, SHARDED, make_mesh, split_over_devices
from cifar_jax.models import classifier, summary
from cifar_jax.models.freezing import keep_statistics
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.models.resnet_init import fill

pytestmark = pytest.mark.slow

SMALL = {"num_classes": 5, "stage_sizes": (2, 1, 1, 1), "width": 8}
SHALLOW = {**SMALL, "stage_sizes": (2, 1)}
IMAGES_NHWC = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)


def abstract_variables(model, side=32):
    return classifier.abstract_variables(model, side)


def variables_of(model):
    """Initial variables, but with every scale 1 and a random head, so that each layer affects the logits."""
    variables = fill(abstract_variables(model), seed=0)
    head = np.random.default_rng(1).normal(size=variables["params"]["head"]["kernel"].shape).astype(np.float32)
    params = jax.tree_util.tree_map_with_path(
        lambda path, value: np.ones_like(value) if path[-1].key == "scale" else value, variables["params"]
    )
    return {**variables, "params": {**params, "head": {**params["head"], "kernel": head}}}


def paths(tree):
    return {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("variant", ["v1.5", "v2"])
def test_the_features_are_the_means_of_the_last_stage_or_of_all_stages_in_order(variant):
    model = ResNet(**SHALLOW, **VARIANTS[variant], pooled_stages="all")
    variables = variables_of(model)
    features = jax.jit(lambda v, x: model.apply(v, x, train=False, method="features"))
    outputs = jax.jit(lambda v, x: model.apply(v, x, train=False, method="stages"))(variables, IMAGES_NHWC)
    first_NC = np.asarray(outputs["stage1"], np.float64).mean((1, 2))
    expected_NC = np.concatenate([first_NC, outputs["features"]], axis=1)
    np.testing.assert_allclose(features(variables, IMAGES_NHWC), expected_NC, rtol=1e-5, atol=1e-6)


@functools.partial(jax.jit, static_argnames="model")
def evaluate(model, variables, images_NHWC):
    """Logits and stages."""
    stages = model.apply(variables, images_NHWC, train=False, method="stages")
    return model.apply(variables, stages["features"], train=False, method="classify"), stages


@functools.partial(jax.jit, static_argnames=("model", "devices", "frozen_norms"))
def training_step(model, variables, images_NHWC, *, devices=1, frozen_norms=()):
    """Loss, gradients and batch_stats of one training step."""

    def on_device(variables, images_NHWC):
        def loss_of(params):
            with keep_statistics(frozen_norms):
                output, updated = model.apply(
                    {**variables, "params": params}, images_NHWC, train=True, mutable=["batch_stats"]
                )
            return (output**2).mean(), updated.get("batch_stats", {})

        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        return *jax.lax.pmean((loss, gradients), DATA_AXIS), batch_stats

    return split_over_devices(on_device, make_mesh(devices), in_specs=(REPLICATED, SHARDED), out_specs=REPLICATED)(
        variables, images_NHWC
    )


@pytest.mark.parametrize(
    "settings, parameters, statistics",
    [
        # Counts as published: torchvision, Keras (25,613,800 with the statistics), timm; torchvision's other depths.
        (VARIANTS["v1.5"], 25_557_032, 53_120),
        (VARIANTS["v1"], 25_557_032, 53_120),
        (VARIANTS["caffe"], 25_557_032, 53_120),
        (VARIANTS["v2"], 25_613_800 - 45_440, 45_440),
        (VARIANTS["d"], 25_576_264, 53_248),
        (VARIANTS["bit"], 25_549_352, 0),
        ({"block": "basic", "stage_sizes": (2, 2, 2, 2)}, 11_689_512, 9_600),
        ({"block": "basic", "stage_sizes": (3, 4, 6, 3)}, 21_797_672, 17_024),
        ({"stage_sizes": (3, 4, 23, 3)}, 44_549_160, 105_344),
    ],
    ids=[*("v1.5", "v1", "caffe", "v2", "d", "bit", "18", "34", "101")],
)
def test_the_number_of_parameters_is_as_published(settings, parameters, statistics):
    variables = abstract_variables(ResNet(num_classes=1000, **settings))
    assert size(variables["params"]) == parameters
    assert size(variables.get("batch_stats", {})) == statistics


def test_layers_have_explicit_names():
    variables = abstract_variables(ResNet(**{**SMALL, "stage_sizes": (1, 1)}))
    convolutions = {f"stage{i}_block1/{c}" for i in (1, 2) for c in ("conv1", "conv2", "conv3", "shortcut_conv")}
    norms = {f"stage{i}_block1/{n}" for i in (1, 2) for n in ("norm1", "norm2", "norm3", "shortcut_norm")}
    assert paths(variables["params"]) == {
        *(f"{name}/kernel" for name in {"stem_conv1", *convolutions, "head"}),
        *(f"{name}/{leaf}" for name in {"stem_norm1", *norms} for leaf in ("scale", "bias")),
        "head/bias",
    }
    assert paths(variables["batch_stats"]) == {
        f"{n}/{leaf}" for n in {"stem_norm1", *norms} for leaf in ("mean", "var")
    }


def test_layers_of_a_preactivation_network():
    params = abstract_variables(ResNet(**SMALL, **VARIANTS["v2"]))["params"]
    assert "final_norm" in params and "stem_norm1" not in params
    assert set(params["stage1_block1"]) == {"norm1", "conv1", "norm2", "conv2", "norm3", "conv3", "shortcut_conv"}
    assert set(params["stage1_block2"]) == {"norm1", "conv1", "norm2", "conv2", "norm3", "conv3"}
    biased = {path.removesuffix("/bias").split("/")[-1] for path in paths(params) if path.endswith("/bias")}
    assert {name for name in biased if "norm" not in name} == {"stem_conv1", "shortcut_conv", "conv3", "head"}


@pytest.mark.parametrize(
    "stem, side, sides",
    [
        ("imagenet", 32, (8, 8, 4, 2, 1)),
        ("imagenet", 97, (25, 25, 13, 7, 4)),
        ("deep", 97, (25, 25, 13, 7, 4)),
        ("small", 32, (32, 32, 16, 8, 4)),
    ],
)
def test_the_output_of_each_stage_has_the_expected_size(stem, side, sides):
    model = ResNet(**SMALL, stem=stem)
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    logits, stages = jax.eval_shape(functools.partial(evaluate, model), abstract_variables(model, side), images)
    names = ("stem", "stage1", "stage2", "stage3", "stage4")
    widths = (8, 32, 64, 128, 256)
    expected = {name: (2, s, s, c) for name, s, c in zip(names, sides, widths, strict=True)} | {"features": (2, 256)}
    assert {name: value.shape for name, value in stages.items()} == expected
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(
    "settings, strided",
    [
        (VARIANTS["v1"], {f"stage{i}_block1/conv1" for i in (2, 3, 4)}),
        (VARIANTS["caffe"], {f"stage{i}_block1/conv1" for i in (2, 3, 4)}),
        (VARIANTS["v1.5"], {f"stage{i}_block1/conv2" for i in (2, 3, 4)}),
        (VARIANTS["v2"], {f"stage{i}_block2/conv2" for i in (1, 2, 3)}),
        ({"block": "basic"}, {f"stage{i}_block1/conv1" for i in (2, 3, 4)}),
    ],
    ids=["v1", "caffe", "v1.5", "v2", "basic"],
)
def test_each_variant_has_its_strides_in_the_right_convolutions(settings, strided):
    model = ResNet(**{**SMALL, "stage_sizes": (2, 2, 2, 2)}, **settings)
    sides = {row["name"]: row["output_shape"][0] for row in summary.layers(model, 64) if row["name"] != "head"}
    convolutions = [name for name in sides if "/conv" in name]
    before = [sides["stem_conv1"] // 2, *(sides[name] for name in convolutions)]
    assert {name for name, side in zip(convolutions, before, strict=False) if sides[name] < side} == strided


def test_blocks_begin_as_the_identity_and_logits_as_zero():
    model = ResNet(**SHALLOW)
    variables = fill(abstract_variables(model), seed=0)
    one_block = {name: layer for name, layer in variables["params"].items() if name != "stage1_block2"}
    short = ResNet(**{**SHALLOW, "stage_sizes": (1, 1)})
    logits_NK, stages = evaluate(model, variables, IMAGES_NHWC)
    _, expected = evaluate(short, {**variables, "params": one_block}, IMAGES_NHWC)
    np.testing.assert_array_equal(stages["stage1"], expected["stage1"])
    assert np.abs(stages["stage1"]).max() > 0.1
    np.testing.assert_array_equal(logits_NK, np.zeros((8, 5)))


def test_features_do_not_need_the_head_and_determine_the_logits():
    model = ResNet(**SHALLOW, dtype=jnp.dtype("bfloat16"))
    variables = variables_of(model)
    headless = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}
    features_NC = jax.jit(functools.partial(model.apply, train=False, method="features"))(headless, IMAGES_NHWC)
    logits_NK, stages = evaluate(model, variables, IMAGES_NHWC)
    assert (features_NC.dtype, logits_NK.dtype, stages["stage1"].dtype) == (jnp.float32, jnp.float32, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_variables(model))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(features_NC, stages["features"], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(
        logits_NK, stages["features"] @ variables["params"]["head"]["kernel"], rtol=1e-4, atol=1e-4
    )


def test_training_does_not_depend_on_the_number_of_devices(devices):
    model = ResNet(**SHALLOW)
    variables = variables_of(model)
    one, many = (jax.device_get(training_step(model, variables, IMAGES_NHWC, devices=n)) for n in (1, 4))
    for value, expected in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-3 * np.abs(expected).max() + 1e-6)


def test_recomputed_blocks_have_the_same_gradients():
    plain, remat = ResNet(**SHALLOW), ResNet(**SHALLOW, remat=True)
    variables = variables_of(plain)
    assert paths(abstract_variables(remat)) == paths(variables)
    results = [jax.device_get(training_step(model, variables, IMAGES_NHWC)) for model in (plain, remat)]
    for expected, value in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-3 * np.abs(expected).max() + 1e-6)


@pytest.mark.parametrize("settings", [{}, {"remat": True}, VARIANTS["v2"]], ids=["v1.5", "remat", "v2"])
def test_only_norms_that_are_not_frozen_update_their_statistics(settings):
    frozen = ("stage1_block2/norm2", "stage2_block1/norm1")
    model = ResNet(**SHALLOW, **settings)
    variables = variables_of(model)
    _, _, batch_stats = training_step(model, variables, IMAGES_NHWC, frozen_norms=frozen)
    pairs = zip(jax.tree.leaves_with_path(batch_stats), jax.tree.leaves(variables["batch_stats"]), strict=True)
    changed = {"/".join(key.key for key in path[:-1]) for (path, new), old in pairs if not np.array_equal(new, old)}
    norms = {path.rsplit("/", 1)[0] for path in paths(variables["batch_stats"])}
    assert changed == norms - set(frozen)


def test_frozen_norms_normalize_with_their_statistics_in_training():
    model = ResNet(**SHALLOW)
    variables = variables_of(model)
    norms = {path.rsplit("/", 1)[0] for path in paths(variables["batch_stats"])}
    with keep_statistics(norms):
        training = model.apply(variables, IMAGES_NHWC, train=True)
    np.testing.assert_array_equal(training, model.apply(variables, IMAGES_NHWC, train=False))


def test_a_network_with_group_norm_treats_each_image_independently():
    model = ResNet(num_classes=5, stage_sizes=(1, 1), width=32, **VARIANTS["bit"])
    variables = variables_of(model)
    assert set(variables) == {"params"}
    apply = jax.jit(functools.partial(model.apply, train=True))
    np.testing.assert_allclose(
        apply(variables, IMAGES_NHWC)[:4], apply(variables, IMAGES_NHWC[:4]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_norm_is_the_first_batch_norm_of_a_forward_pass(variant):
    model = ResNet(num_classes=5, stage_sizes=(1, 1), width=32, **VARIANTS[variant])
    variables = variables_of(model)
    random = np.random.default_rng(2)
    statistics = jax.tree.map(lambda x: random.random(x.shape, np.float32), variables.get("batch_stats", {}))
    variables |= {"batch_stats": statistics}

    def expected_norm(variables, images_NHWC):
        inputs = {}

        def record(call, arguments, keywords, context):
            if isinstance(context.module, nn.BatchNorm):
                inputs.setdefault(context.module.path, arguments[0])
            return call(*arguments, **keywords)

        with nn.intercept_methods(record):
            model.apply(variables, images_NHWC, train=False)
        if not inputs:
            return None
        path, x_NHWC = next(iter(inputs.items()))
        return x_NHWC, functools.reduce(dict.__getitem__, path, variables["batch_stats"])

    first_norm, expected = (jax.jit(f)(variables, IMAGES_NHWC) for f in (model.first_norm, expected_norm))
    assert (first_norm is None) == (variant == "bit")  # GroupNorm keeps no statistics
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), first_norm, expected)


def test_zero_padding_of_the_pool_matters_only_before_a_relu():
    for variant, is_same in (("v1.5", True), ("v2", False)):
        pads = [ResNet(**SHALLOW, **{**VARIANTS[variant], "pool_pads_zero": zero}) for zero in (True, False)]
        variables = variables_of(pads[0])
        stems = [evaluate(m, variables, IMAGES_NHWC)[1]["stem"] for m in pads]
        assert np.array_equal(*stems) == is_same
