"""Weights on another scale than assumed are refused with the setting that fits; unusual images are not."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from cifar_jax import experiment as experiments
from cifar_jax.config import default_config
from cifar_jax.config.command_line import _parse
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.errors import DataError
from cifar_jax.models.resnet import ResNet
from cifar_jax.pretrained import Backbone
from cifar_jax.pretrained.families import CAFFE, IMAGENET
from cifar_jax.training import input_check

SIZE, WIDTH = 32, 16
SMALL = {"variant": "v1.5", "stage_sizes": (1,), "width": WIDTH, "block": "basic"}
SCALES = {  # as each is written in other programs, applied to values of 0..255
    "imagenet": lambda x: (x / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
    "-1..1": lambda x: (x / 255 - 0.5) / 0.5,
    "0..1": lambda x: x / 255,
    "0..255": lambda x: x,
    "caffe": lambda x: x - np.array([123.68, 116.779, 103.939]),
}


def photographs(seed=0, images=128):
    """uint8 images with the spectrum, colors and contrast of photographs: 1 / frequency, mostly gray."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    frequency[0, 0] = 1 / SIZE
    spectrum = np.fft.fft2(random.normal(size=(images, 3, SIZE, SIZE))) / frequency
    noise_NHWC = np.fft.ifft2(spectrum).real.transpose(0, 2, 3, 1)
    noise_NHWC = noise_NHWC / noise_NHWC.std()
    colored = noise_NHWC[..., :1] + 0.35 * noise_NHWC
    scaled = colored / colored.std() * 58 + np.array([123, 116, 104])
    return scaled.clip(0, 255).astype(np.uint8)


def weights(scale, images_NHWC, *, channels="RGB", **fields):
    """A backbone with the running statistics of these images on this scale."""
    model = ResNet(num_classes=2, stage_sizes=(1,), width=WIDTH, block="basic")
    random = np.random.default_rng(1)
    kernel = random.normal(size=(7, 7, 3, WIDTH)) * np.hanning(9)[1:8, None, None, None]
    kernel[..., : WIDTH // 2] -= kernel[..., : WIDTH // 2].mean((0, 1, 2))  # half of them are edge filters
    params = {"stem_conv1": {"kernel": kernel.astype(np.float32)}}
    params["stem_norm1"] = {"scale": np.ones(WIDTH, np.float32), "bias": np.zeros(WIDTH, np.float32)}
    blank = {"stem_norm1": {"mean": np.zeros(WIDTH, np.float32), "var": np.ones(WIDTH, np.float32)}}
    inputs_NHWC = scale(images_NHWC.astype(np.float64)).astype(np.float32)
    inputs_NHWC = inputs_NHWC[..., ::-1] if channels == "BGR" else inputs_NHWC
    x_NHWC, _ = jax.jit(model.first_norm)({"params": params, "batch_stats": blank}, inputs_NHWC)
    x_NHWC = np.asarray(x_NHWC)
    statistics = {"stem_norm1": {"mean": x_NHWC.mean((0, 1, 2)), "var": x_NHWC.var((0, 1, 2))}}
    origin = {"preprocessing": IMAGENET, "source": "own.pth", "sha256": ""}
    return Backbone(**SMALL, params=params, batch_stats=statistics, **{**origin, **fields})


def experiment_of(backbone, images_NHWC, **model_keys):
    config = default_config()
    config.model.update(name="resnet", **model_keys)
    config.train.batch_size = 4
    labels_N = np.arange(len(images_NHWC), dtype=np.int32) % 2
    split = ImageSet(images_NHWC, labels_N, ("a", "b"))
    backbone = backbone.with_channels(config.model.input_channels)
    return experiments.assemble(config, Dataset("x", "IMAGES", split, split, validation=split), backbone)


def check(backbone, images_NHWC, **model_keys):
    input_check.require_right_scale(experiment_of(backbone, images_NHWC, **model_keys))


def advised(message):
    """The keys that a message advises to set, parsed as on the command line."""
    found = dict(re.findall(r"'--config\.(model\.input_\w+)=([^']*)'", message))
    return {key.removeprefix("model."): _parse(key, text) for key, text in found.items()}


@pytest.mark.parametrize("scale", [name for name in SCALES if name != "imagenet"])
def test_weights_on_another_scale_are_refused_and_the_advice_works(scale):
    backbone = weights(SCALES[scale], photographs())
    with pytest.raises(
        DataError, match=r"wrong scale for the weights own\.pth: the distance .* and 0\.0\d with"
    ) as caught:
        check(backbone, photographs(seed=1))
    assert "\n" not in str(caught.value)
    keys = advised(str(caught.value))
    assert keys.keys() == {"input_mean", "input_std"}
    check(backbone, photographs(seed=1), **keys)


def test_the_right_scale_is_accepted_without_a_word(caplog):
    check(weights(SCALES["imagenet"], photographs()), photographs(seed=1))
    assert not caplog.text


def test_small_images_fit_weights_for_large_ones(caplog):
    enlarged_NHWC = np.asarray(jax.image.resize(photographs().astype(np.float32), (128, 128, 128, 3), "bilinear"))
    published = dataclasses.replace(CAFFE, image_size=128)
    backbone = weights(SCALES["caffe"], enlarged_NHWC, preprocessing=published)
    check(backbone, photographs(seed=1))
    assert not caplog.text
    with pytest.raises(DataError, match=r"distance .* with values of 0\.\.255 minus Caffe's mean"):
        check(backbone, photographs(seed=1), input_mean=IMAGENET.mean, input_std=IMAGENET.std)


def test_weights_that_no_common_preprocessing_fits_are_refused_with_the_distance():
    with pytest.raises(
        DataError, match=r"distance .* is \d+\.\d\d .* no common preprocessing fits, the nearest is (ImageN|val)"
    ):
        check(weights(lambda x: x / 255 * 4000 - 90, photographs()), photographs(seed=1))


gray = photographs(seed=2).mean(axis=-1, keepdims=True).repeat(3, axis=-1)
inside = np.hypot(*np.meshgrid(np.arange(SIZE) - 15.5, np.arange(SIZE) - 15.5))[..., None] < 13
UNUSUAL = {
    "gray": gray,
    "dark": gray * 0.4,
    "scan on black": gray * 0.6 * inside,
    "stained tissue": (gray - 128) * np.array([0.25, 0.4, 0.3]) + np.array([200, 140, 190]),
    "pale": (photographs(seed=2) - 128.0) * 0.3 + 128,
    "bright": (photographs(seed=2) - 128.0) * 0.3 + 205,
    "blue": photographs(seed=2) * np.array([0.5, 0.8, 1.1]),
    "yellow": photographs(seed=2) * np.array([1.0, 1.0, 0.55]),
}


@pytest.mark.parametrize("scale", ["imagenet", "-1..1", "0..1", "caffe"])
def test_unusual_images_on_the_right_scale_are_accepted(scale):
    scales = {"imagenet": IMAGENET, "-1..1": (0.5, 0.5), "0..1": (0.0, 1.0), "caffe": None}
    backbone, keys = weights(SCALES[scale], photographs()), {}
    if scale == "caffe":
        keys = {"input_mean": (123.68 / 255, 116.779 / 255, 103.939 / 255), "input_std": (1 / 255,) * 3}
    elif scale != "imagenet":
        keys = dict(zip(("input_mean", "input_std"), ((value,) * 3 for value in scales[scale]), strict=True))
    for name, images in UNUSUAL.items():
        try:
            check(backbone, images.clip(0, 255).astype(np.uint8), **keys)
        except DataError as error:
            pytest.fail(f"{name}: {error}")


def test_a_preprocessing_that_the_publisher_states_is_not_questioned():
    backbone = weights(SCALES["-1..1"], photographs())
    check(dataclasses.replace(backbone, states_preprocessing=True), photographs(seed=1))
    with pytest.raises(DataError, match="wrong scale"):  # unless the keys replace it
        stated = dataclasses.replace(weights(SCALES["imagenet"], photographs()), states_preprocessing=True)
        check(stated, photographs(seed=1), input_mean=(0.0, 0.0, 0.0), input_std=(1 / 255,) * 3)


def test_weights_that_take_bgr_give_the_same_features_with_the_key():
    images_NHWC = photographs(seed=1) * np.array([1.0, 0.6, 0.3])
    backbone = weights(SCALES["caffe"], images_NHWC, channels="BGR")
    keys = {"input_mean": (123.68 / 255, 116.779 / 255, 103.939 / 255), "input_std": (1 / 255,) * 3}
    experiment = experiment_of(backbone, images_NHWC.astype(np.uint8), **keys, input_channels="BGR")
    inputs_NHWC = experiment.preprocessing(images_NHWC)
    variables = {"params": experiment.backbone.params, "batch_stats": experiment.backbone.batch_stats}
    x_NHWC, running = experiment.model.first_norm(variables, inputs_NHWC)
    np.testing.assert_allclose(x_NHWC.mean((0, 1, 2)), running["mean"], atol=0.05 * np.sqrt(running["var"]).max())
    with pytest.raises(DataError, match=r"blue and red are swapped .*--config\.model\.input_channels=BGR"):
        check(backbone, images_NHWC.astype(np.uint8), **keys)


def test_weights_without_statistics_are_not_checked_and_it_is_said(caplog):
    backbone = weights(SCALES["imagenet"], photographs())
    experiment = experiment_of(backbone, photographs(seed=1))
    experiment = dataclasses.replace(experiment, model=experiment.model.clone(norm="group"))
    with caplog.at_level("INFO"):
        input_check.require_right_scale(experiment)
    assert "cannot be checked" in caplog.text


def test_images_rounded_to_0_and_1_are_refused():
    backbone = weights(SCALES["imagenet"], photographs())
    with pytest.raises(DataError, match=r"IMAGES: .* values of 0\.\.1 where 0\.\.255 are meant"):
        check(backbone, (photographs(seed=1) / 255).round().astype(np.uint8))
