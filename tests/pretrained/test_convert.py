"""Tensors and trees convert one to one, or the error lists every tensor that does not fit."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax.errors import DataError
from cifar_jax.pretrained import convert
from cifar_jax.pretrained.families import (
    BIT,
    CAFFE_RELEASE,
    FAMILIES,
    HUGGING_FACE,
    KERAS_V1,
    KERAS_V2,
    TIMM_D,
    TORCHVISION,
)

# A tensor name of each family, copied from a published file.
KNOWN = {
    "torchvision": (TORCHVISION, "stage2_block1/shortcut_norm/var", "layer2.0.downsample.1.running_var"),
    "timm_d": (TIMM_D, "stage2_block1/shortcut_conv/kernel", "layer2.0.downsample.1.weight"),
    "timm_d_stem": (TIMM_D, "stem_norm2/mean", "conv1.4.running_mean"),
    "hugging_face": (
        HUGGING_FACE,
        "stage4_block3/conv2/kernel",
        "encoder.stages.3.layers.2.layer.1.convolution.weight",
    ),
    "keras_v1": (KERAS_V1, "stage1_block1/shortcut_norm/mean", "conv2_block1_0_bn/moving_mean"),
    "keras_v2": (KERAS_V2, "stage1_block1/norm1/scale", "conv2_block1_preact_bn/gamma"),
    "bit": (BIT, "stage1_block2/norm3/bias", "block1/unit02/c/group_norm/beta"),
}


@pytest.fixture
def tensors(random_backbone):
    """A small network with torchvision's names."""
    backbone = random_backbone("v1.5")
    return convert.foreign(backbone.params, backbone.batch_stats, TORCHVISION)


@pytest.mark.parametrize("known", KNOWN)
def test_names(known):
    family, ours, theirs = KNOWN[known]
    assert family.name(ours) == theirs


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.publisher)
@pytest.mark.parametrize("num_classes", [0, 5])
def test_converting_back_and_forth_changes_nothing(family, num_classes, random_backbone):
    width = 32 if family is BIT else 8  # its norms have 32 groups
    stem_width = 12 if family is CAFFE_RELEASE else 0
    backbone = random_backbone(family.variant, width=width, stem_width=stem_width, num_classes=num_classes)
    tensors = convert.foreign(backbone.params, backbone.batch_stats, family)
    recognized, architecture, params, batch_stats = convert.convert(tensors, where="x")
    assert recognized is family
    assert architecture == backbone.architecture
    jax.tree.map(np.testing.assert_array_equal, params, backbone.params)
    jax.tree.map(np.testing.assert_array_equal, batch_stats, backbone.batch_stats)
    assert ("head" in params) == (num_classes > 0)
    assert all(leaf.dtype == np.float32 and leaf.flags.c_contiguous for leaf in jax.tree.leaves((params, batch_stats)))


def test_basic_blocks(random_backbone):
    backbone = random_backbone("v1.5", block="basic", stage_sizes=(1, 2, 1, 1))
    tensors = convert.foreign(backbone.params, backbone.batch_stats, TORCHVISION)
    _, architecture, params, _ = convert.convert(tensors, where="x")
    assert architecture == backbone.architecture
    jax.tree.map(np.testing.assert_array_equal, params, backbone.params)


def test_the_caffe_layout_is_read_where_it_is_stated_or_where_the_stem_has_another_width(random_backbone):
    cases = ((0, "", "v1.5"), (0, "caffe", "caffe"), (4, "", "caffe"), (4, "caffe", "caffe"))
    for stem_width, stated, expected in cases:
        backbone = random_backbone("caffe", stem_width=stem_width)
        tensors = convert.foreign(backbone.params, backbone.batch_stats, CAFFE_RELEASE)
        family, architecture, *_ = convert.convert(tensors, where="x", variant=stated)
        assert family.variant == expected
        assert architecture == backbone.architecture | {"variant": expected}


def test_layouts(tensors):
    originals = dict(tensors)
    _, _, params, batch_stats = convert.convert(tensors, where="x")
    kernel_OIHW = originals["layer2.0.conv2.weight"]
    kernel_HWIO = params["stage2_block1"]["conv2"]["kernel"]
    assert kernel_HWIO[2, 0, 3, 1] == kernel_OIHW[1, 3, 2, 0]
    assert params["head"]["kernel"][7, 4] == originals["fc.weight"][4, 7]
    np.testing.assert_array_equal(batch_stats["stem_norm1"]["var"], originals["bn1.running_var"])


def test_keras_biases_are_folded_and_the_first_kernel_is_reordered(random_backbone):
    backbone = random_backbone("v1")
    tensors = convert.foreign(backbone.params, backbone.batch_stats, KERAS_V1)
    bias = np.float32([3, 1, 4, 1, 5, 9, 2, 6])
    tensors["conv2_block1_2_conv/bias"] = bias
    stem = tensors["conv1_conv/kernel"]
    _, _, params, batch_stats = convert.convert(dict(tensors), where="x")
    mean = batch_stats["stage1_block1"]["norm2"]["mean"]
    np.testing.assert_array_equal(mean, backbone.batch_stats["stage1_block1"]["norm2"]["mean"] - bias)
    np.testing.assert_array_equal(params["stem_conv1"]["kernel"], stem[:, :, [2, 1, 0]])
    assert not {name for name in flatten_dict(params, sep="/") if "conv" in name and name.endswith("bias")}


def test_prefixes_of_wrappers_and_tensors_of_no_layer_are_ignored(tensors, random_backbone):
    wrapped = {f"module.model.{name}": array for name, array in tensors.items()}
    wrapped |= {f"module.attacker.model.{name}": array for name, array in tensors.items()}
    wrapped |= {"module.normalizer.new_mean": np.ones(3), "module.model.bn1.num_batches_tracked": np.array(5)}
    _, _, params, _ = convert.convert(wrapped, where="x")
    jax.tree.map(np.testing.assert_array_equal, params, random_backbone("v1.5").params)


def test_two_networks_in_one_file(tensors):
    both = tensors | {f"model.{name}": array for name, array in tensors.items()}
    with pytest.raises(DataError, match=r"2 networks, whose names begin with '', model\.; keep one"):
        convert.convert(both, where="x")


def test_half_precision_becomes_float32(tensors):
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    _, _, params, _ = convert.convert(dict(halves), where="x")
    kernel = params["stem_conv1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), halves["conv1.weight"])


def test_one_error_names_every_tensor_that_does_not_fit(tensors):
    del tensors["layer1.0.bn2.running_mean"], tensors["fc.bias"]
    tensors["layer1.0.se.weight"] = np.ones(3, np.float32)
    tensors["layer3.0.conv2.weight"] = tensors["layer3.0.conv2.weight"][..., :1]
    tensors["layer4.0.bn1.weight"] = np.ones(64, np.int32)
    tensors["layer2.0.bn1.bias"][3] = np.nan
    with pytest.raises(DataError) as caught:
        convert.convert(tensors, where="weights.pth")
    message = str(caught.value)
    assert message.startswith("weights.pth: ") and "\n" not in message
    for part in (
        "2 missing (fc.bias, layer1.0.bn2.running_mean)",
        "1 unexpected (layer1.0.se.weight)",
        "1 of a wrong shape (layer3.0.conv2.weight 3x1x32x32 instead of 3x3x32x32)",
        "1 not floating point (layer4.0.bn1.weight)",
        "1 not finite (layer2.0.bn1.bias)",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.conv3.weight", "layer2.0.downsample.0.weight", "fc.weight"])
def test_a_missing_tensor_is_named(name, tensors):
    del tensors[name]
    with pytest.raises(DataError, match=rf"1 missing \({name}\)"):
        convert.convert(tensors, where="x")


def test_long_lists_are_shortened(tensors):
    for name in [name for name in tensors if name.startswith("layer1.1.") and "weight" not in name]:
        del tensors[name]
    with pytest.raises(DataError, match=r"9 missing \(.*layer1.1.bn3.bias, .* and 1 more\)"):
        convert.convert(tensors, where="x")


def test_an_unknown_naming():
    with pytest.raises(DataError, match=r"features.0.weight"):
        convert.convert({"features.0.weight": np.ones(3)}, where="x")
    with pytest.raises(DataError, match="no tensors"):
        convert.convert({}, where="x")


def test_a_huge_block_number_is_an_unexpected_tensor(tensors):
    tensors["layer1.123456789.bn1.weight"] = np.ones(3, np.float32)
    with pytest.raises(DataError, match=r"unexpected \(layer1.123456789"):
        convert.convert(tensors, where="x")


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "backbone.net.", "encoder_q."]
)
def test_any_prefix_of_modules_that_wrap_the_network_is_removed(prefix, tensors, random_backbone):
    wrapped = {f"{prefix}{name}": array for name, array in tensors.items()}
    _, _, params, _ = convert.convert(wrapped, where="x")
    jax.tree.map(np.testing.assert_array_equal, params, random_backbone("v1.5").params)
    assert not wrapped


def test_heads_and_losses_are_left_aside(tensors):
    own = ("fc.0.weight", "my_head.weight", "projector.2.bias", "classifier.weight", "criterion.centers", "fc2.bias")
    del tensors["fc.weight"], tensors["fc.bias"]
    tensors |= {name: np.ones((2, 2), np.float32) for name in own}
    _, _, params, _ = convert.convert(tensors, where="x")
    assert "head" not in params and tensors.keys() == set(own)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("attention.weight", (2, 2)), ("decode_head.weight", (2, 2, 3, 3)), ("layer1.0.fc.weight", (2, 2))],
)
def test_what_may_be_part_of_the_network_is_not_left_aside(name, shape, tensors):
    tensors[name] = np.ones(shape, np.float32)
    with pytest.raises(DataError, match=rf"1 unexpected \({name}\); a ResNeXt"):
        convert.convert(tensors, where="x")


def test_variances_that_are_negative_or_all_0_are_named(tensors):
    tensors["bn1.running_var"][2] = -1
    tensors["layer1.0.bn1.running_var"] = np.zeros_like(tensors["layer1.0.bn1.running_var"])
    expected = r"2 of variances that are negative or all 0 \(bn1.running_var, layer1.0.bn1.running_var\)"
    with pytest.raises(DataError, match=expected):
        convert.convert(tensors, where="x")


def test_float64_beyond_float32_is_not_finite(tensors):
    tensors["fc.bias"] = np.full(5, 1e300)
    with pytest.raises(DataError, match=r"1 not finite \(fc.bias\)"):
        convert.convert(tensors, where="x")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_tensors_of_any_names_and_shapes_are_converted_or_one_line(data):
    names = [KNOWN[known][2] for known in KNOWN]
    names += [
        "conv1.weight",
        "bn1.weight",
        "layer9999999999.0.bn1.bias",
        "layer1.0.conv1.weight",
        "module.",
        "a\n\x00.b",
    ]
    names += [
        "conv1_conv/kernel",
        "root_block/standardized_conv2d/kernel",
        "x." * 500 + "layer1.0.bn1.bias",
        "fc.weight",
    ]
    shapes = st.lists(st.sampled_from([0, 1, 3, 7, 8, 64]), max_size=5).map(tuple)
    dtypes = st.sampled_from(["f4", "f2", "f8", "i8", "?", "c8", "u1"])
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=6, unique=True))
    tensors = {name: np.zeros(data.draw(shapes), data.draw(dtypes)) for name in chosen}
    try:
        convert.convert(tensors, where="x")
    except DataError as error:
        assert "\n" not in str(error) and len(str(error)) < 6000
