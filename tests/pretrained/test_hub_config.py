"""config.json next to a weight file decides architecture and preprocessing, or the error says what to correct."""

import json

import pytest

from cifar_jax.errors import DataError
from cifar_jax.pretrained import hub_config

TIMM = {
    "architecture": "resnet50d",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.25, 0.5],
    },
}
TRANSFORMERS = {
    "model_type": "resnet",
    "depths": [3, 4, 6, 3],
    "embedding_size": 64,
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
}
PROCESSOR = {
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 224},
}


@pytest.fixture
def read(tmp_path):
    """read(config, processor): what is stated for weights with these JSON files next to them."""

    def call(config, processor=None):
        for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                (tmp_path / name).write_text(text)
        return hub_config.read(tmp_path / "model.safetensors")

    return call


def test_timm(read):
    stated = read(TIMM)
    assert stated.architecture == {
        "variant": "d",
        "stage_sizes": (3, 4, 6, 3),
        "width": 64,
        "block": "bottleneck",
    }
    assert stated.preprocessing.mean == (0.5, 0.5, 0.5) and stated.preprocessing.std == (0.5, 0.25, 0.5)
    assert stated.preprocessing.resize_method == "bicubic"


def test_an_older_file_of_timm_has_no_pretrained_cfg(read):
    stated = read({"architecture": "resnet18", **TIMM["pretrained_cfg"]})
    assert stated.architecture["block"] == "basic" and stated.preprocessing.std == (0.5, 0.25, 0.5)


@pytest.mark.parametrize("name", ["tv_resnet50", "gluon_resnet50_v1b", "swsl_resnet50", "resnet50.a1_in1k"])
def test_other_names_of_a_plain_resnet(name, read):
    assert read({"architecture": name}).architecture["variant"] == "v1.5"


@pytest.mark.parametrize(
    "name", ["resnetaa50", "resnetblur50", "resnetaa50d", "resnext50_32x4d", "wide_resnet50_2", "resnet50_gn", "vit"]
)
def test_networks_that_share_the_names_of_a_resnet_are_refused(name, read):
    with pytest.raises(
        DataError, match=rf"config\.json: the architecture is '{name}'.*supported: resnetN and resnetNd"
    ):
        read({**TIMM, "architecture": name})


def test_arguments_that_change_a_network_are_refused(read):
    assert read({**TIMM, "model_args": {"num_classes": 3}})
    with pytest.raises(DataError, match="resnet50d with act_layer"):
        read({**TIMM, "model_args": {"act_layer": "silu"}})


def test_transformers(read):
    stated = read(TRANSFORMERS, PROCESSOR)
    assert stated.architecture["stage_sizes"] == (3, 4, 6, 3)
    assert stated.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert stated.preprocessing.resize_method == "bicubic" and stated.channels == "RGB"
    assert "preprocessor_config.json" in stated.place


def test_transformers_without_a_processor_states_no_preprocessing(read):
    assert read(TRANSFORMERS).preprocessing is None


@pytest.mark.parametrize(
    "change", [{"downsample_in_bottleneck": True}, {"hidden_act": "gelu"}, {"model_type": "regnet"}]
)
def test_other_networks_of_transformers_are_refused(change, read):
    (key,) = change
    with pytest.raises(DataError, match=f"{key} is .*, which is not supported"):
        read({**TRANSFORMERS, **change}, PROCESSOR)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"do_normalize": False, "do_rescale": False}, (0, 0, 0), (1 / 255,) * 3),
        (
            {"do_rescale": False, "image_mean": [123, 117, 104], "image_std": [1, 1, 1]},
            (123 / 255, 117 / 255, 104 / 255),
            (1 / 255,) * 3,
        ),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, (0.5,) * 3, (0.5,) * 3),
    ],
)
def test_the_scale_of_a_processor(change, mean, std, read):
    stated = read(TRANSFORMERS, {**PROCESSOR, **change}).preprocessing
    assert stated.mean == pytest.approx(mean) and stated.std == pytest.approx(std)


def test_a_processor_that_reverses_the_channels(read):
    processor = {**PROCESSOR, "do_flip_channel_order": True, "image_mean": [0.4, 0.5, 0.6]}
    stated = read(TRANSFORMERS, processor)
    assert stated.channels == "BGR" and stated.preprocessing.mean == pytest.approx((0.6, 0.5, 0.4))


def test_no_configuration_and_those_of_other_programs_state_nothing(read):
    assert read(None) is None
    assert read({"config": {"model": {}}, "command": "python main.py"}) is None  # the folder of a run
    assert read([1, 2]) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        '"' + "x" * 2_000_000 + '"',
        {**TIMM, "pretrained_cfg": None},
        {**TIMM, "pretrained_cfg": {"mean": 3, "std": 4}},
        {**TIMM, "pretrained_cfg": {"mean": [1, 2, 3]}},
        {**TIMM, "pretrained_cfg": {"mean": ["a", 2, 3], "std": [1, 1, 1]}},
        {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "std": [1, 0, 1]}},
        {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "mean": [0.5]}},
        {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "interpolation": "lanczos"}},
        {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "interpolation": ["bicubic"]}},
        {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": None}},
        {**TIMM, "model_args": 3},
        {**TRANSFORMERS, "depths": 3},
    ],
)
def test_damaged_content_is_one_line(content, read):
    with pytest.raises(DataError, match=r"config\.json: ") as caught:
        read(content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_scale_of_0_is_one_line(read):
    with pytest.raises(DataError, match="not a configuration of timm or transformers"):
        read(TRANSFORMERS, {**PROCESSOR, "rescale_factor": 0})
