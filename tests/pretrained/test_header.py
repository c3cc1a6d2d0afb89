"""The header of a .safetensors file states the layout and the preprocessing of its network."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cifar_jax.errors import DataError
from cifar_jax.pretrained import convert, load
from cifar_jax.pretrained.families import CAFFE_RELEASE

ARCHITECTURE = {
    "layout": "caffe: stride in the first 1x1",
    "stem_width": 8,
    "width": 8,
    "stage_sizes": [2, 1, 1, 1],
    "epsilon": 1e-5,
}
PREPROCESSING = {"scale": "0..255", "order": "RGB", "mean": [123, 117, 104], "std": [1, 1, 1], "size": 224}


@pytest.fixture
def backbone(random_backbone):
    return random_backbone("caffe")


@pytest.fixture
def loaded(backbone, tmp_path):
    """loaded(architecture, preprocessing): what `load` reads from a file with these texts in its header."""

    def loaded(architecture, preprocessing=PREPROCESSING):
        texts = {"architecture": architecture, "preprocessing": preprocessing}
        texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()}
        tensors = convert.foreign(backbone.params, backbone.batch_stats, CAFFE_RELEASE)
        save_file(tensors, tmp_path / "x.safetensors", texts)
        load(tmp_path / "x.safetensors")
        return load(tmp_path / "x.safetensors")  # from the cache

    return loaded


def test_layout_and_preprocessing_are_taken_from_the_header(loaded, backbone):
    read = loaded(ARCHITECTURE)
    assert read.architecture == backbone.architecture
    np.testing.assert_allclose(read.preprocessing.mean, np.array([123, 117, 104]) / 255)
    np.testing.assert_allclose(read.preprocessing.std, 1 / 255)
    assert (read.preprocessing.image_size, read.states_preprocessing) == (224, True)
    assert "stated in the file" in read.summary(used=read.preprocessing)
    jax.tree.map(np.testing.assert_array_equal, read.params, backbone.params)


def test_weights_that_take_bgr_are_reversed_with_their_mean(loaded, backbone):
    read = loaded(ARCHITECTURE, PREPROCESSING | {"order": "BGR", "mean": [104, 117, 123], "scale": "0..1"})
    assert (read.channels, read.preprocessing.mean) == ("BGR", (123, 117, 104))
    kernel = backbone.params["stem_conv1"]["kernel"]
    np.testing.assert_array_equal(read.params["stem_conv1"]["kernel"], kernel[:, :, ::-1])


def test_without_preprocessing_that_of_the_release_is_assumed(loaded):
    read = loaded(ARCHITECTURE, "")
    assert (read.variant, read.preprocessing) == ("caffe", CAFFE_RELEASE.preprocessing)
    assert not read.states_preprocessing
    assert "assumed, as usual for Caffe's tensor names" in read.summary(used=read.preprocessing)


def test_the_width_of_the_stem_is_checked_without_that_of_the_stages(loaded):
    architecture = {"layout": "caffe", "stem_width": 8}
    assert loaded(architecture).variant == "caffe"
    with pytest.raises(DataError, match="but its header states stem_width 16"):
        loaded(architecture | {"stem_width": 16})


def test_preprocessing_is_taken_from_a_header_without_a_layout(loaded):
    read = loaded("")
    np.testing.assert_allclose(read.preprocessing.mean, np.array([123, 117, 104]) / 255)
    assert (read.variant, read.states_preprocessing) == ("v1.5", True)
    assert "stated in the file" in read.summary(used=read.preprocessing)


@pytest.mark.parametrize("text", ["", "resnet50", "{", "[1]", "3", "null", '{"name": "resnet50"}', "[" * 100_000])
def test_texts_of_other_programs_are_ignored(text, loaded):
    assert loaded(text, text).variant == "v1.5"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layout": "caffe2"}, "its header states layout 'caffe2', epsilon 1e-05; supported: 'caffe', 1e-05"),
        ({"epsilon": 1e-3}, "its header states layout 'caffe', epsilon 0.001"),
        ({"width": 16}, "but its header states width 16"),
        ({"stem_width": 64}, "but its header states stem_width 64"),
        ({"stage_sizes": [3, 4, 6, 3]}, r"but its header states stage_sizes \(3, 4, 6, 3\)"),
        ({"width": "wide"}, "its header cannot be understood"),
        ({"stage_sizes": 3}, "its header cannot be understood"),
        ({"width": 1e999}, "its header cannot be understood"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(change, message, loaded):
    with pytest.raises(DataError, match=message) as caught:
        loaded(ARCHITECTURE | change)
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        *({"scale": "0..2"}, {"order": "GBR"}, {"mean": [1, 2]}, {"mean": "gray"}, {"std": [0, 1, 1]}),
        *({"mean": [float("nan")] * 3}, {"size": "large"}, {"size": [224]}, {"mean": {}}),
    ],
)
def test_preprocessing_that_cannot_be_read_is_refused(change, loaded):
    with pytest.raises(DataError, match=r"x\.safetensors: ") as caught:
        loaded(ARCHITECTURE, PREPROCESSING | change)
    assert "\n" not in str(caught.value)
