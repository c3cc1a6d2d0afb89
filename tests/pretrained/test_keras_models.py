"""Models as transfer-learning notebooks leave them: a ResNet within models of the user's own."""

import io
import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from cifar_jax.errors import DataError
from cifar_jax.pretrained import convert, keras_files, weight_files

STAGES = (1, 1)


def resnet():
    """{layer: {leaf: array}} of a small ResNet v1 without its top, named as in keras.applications."""
    layers, channels = {}, {"conv1": (3, 4), "1": (None, 4), "2": (4, 4), "3": (4, 16), "0": (None, 16)}
    inputs = 4
    for number, name in enumerate(keras_files.layer_order(STAGES, preactivation=False), start=1):
        kind = "conv1" if name.startswith("conv1_") else name.split("_")[-2]
        if name.endswith("_conv"):
            fan_in, fan_out = channels[kind]
            size = {"conv1": 7, "2": 3}.get(kind, 1)
            kernel = np.full((size, size, fan_in or inputs, fan_out), number, np.float32)
            layers[name] = {"kernel": kernel, "bias": np.full(fan_out, number, np.float32)}
        else:
            fan_out = channels[kind][1]
            leaves = ("gamma", "beta", "moving_mean", "moving_variance")
            layers[name] = {leaf: np.full(fan_out, number + k / 8, np.float32) for k, leaf in enumerate(leaves)}
        if name.endswith("_3_bn"):
            inputs = 16
    return layers


HEAD = {"hidden": (16, 8), "predictions": (8, 3)}  # 'predictions' is also the name of the published head
OWN = {
    name: {"kernel": np.ones(shape, np.float32), "bias": np.ones(shape[1], np.float32)} for name, shape in HEAD.items()
}
NORM = {"gamma": 1, "beta": 2, "moving_mean": 3, "moving_variance": 4}
OWN["batch_normalization"] = {leaf: np.full(16, value, np.float32) for leaf, value in NORM.items()}


def keras3(file, place, layers, *, named):
    """Writes layers as Keras 3 does: by class, numbered in the order of the model."""
    counts = {}
    for name, leaves in layers.items():
        generic = "batch_normalization" if "gamma" in leaves else "conv2d" if leaves["kernel"].ndim == 4 else "dense"
        number = counts[generic] = counts.get(generic, -1) + 1
        variables = file.create_group(f"{place}layers/{generic}_{number}/vars".replace("_0/", "/"))
        if named:
            variables.attrs["name"] = name
        for index, array in enumerate(leaves.values()):
            variables[str(index)] = array


def configuration(depth):
    def layers(named):
        classes = {"kernel": "Dense", "gamma": "BatchNormalization"}
        return [
            {"class_name": "Conv2D" if "conv" in name and "kernel" in leaves else classes[next(iter(leaves))]}
            | {"config": {"name": name}}
            for name, leaves in named.items()
        ]

    inner = {"name": "resnet50", "layers": layers(resnet())}
    for _ in range(depth):
        wrapped = [{"class_name": "Rescaling", "config": {"name": "rescaling"}}]
        wrapped += [{"class_name": "Functional", "config": inner}, *layers(OWN)]
        inner = {"name": "outer", "layers": wrapped}
    return {"config": inner}


def written(folder, ending, depth, *, named=True):
    """The file of a model with the ResNet `depth` levels below the top, each level with layers of the user."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        if ending == ".h5":
            for name, leaves in resnet().items():
                place = f"model_weights/resnet50/{name}" if depth else f"model_weights/{name}/{name}"
                for leaf, array in leaves.items():
                    file[f"{place}/{leaf}:0"] = array
            for name, leaves in OWN.items():
                for leaf, array in leaves.items():
                    file[f"model_weights/{name}/model/{name}/{leaf}:0"] = array
            file["optimizer_weights/adam/conv1_conv/kernel_momentum:0"] = np.ones(3)
        else:
            for level in range(depth + 1):
                place = "layers/functional/" * level
                keras3(file, place, OWN if level < depth else resnet(), named=named)
            file["optimizer/vars/0"] = np.ones(3)
    path = folder / f"model{ending}"
    if ending == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(configuration(depth)))
            archive.writestr("model.weights.h5", content.getvalue())
    else:
        path.write_bytes(content.getvalue())
    return path


def assert_resnet(tensors):
    expected = {f"{layer}/{leaf}": array for layer, leaves in resnet().items() for leaf, array in leaves.items()}
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    ("ending", "named"), [(".h5", True), (".weights.h5", True), (".keras", True), (".keras", False)]
)
def test_the_resnet_is_found_at_any_depth_and_the_rest_is_reported(tmp_path, ending, named, depth):
    tensors, _, aside = weight_files.read(written(tmp_path, ending, depth, named=named))
    assert_resnet(tensors)
    own = OWN if depth or ending == ".h5" else {}
    optimizer = "optimizer_weights" if ending == ".h5" else "optimizer"
    assert set(aside) == {*(f"{name} ({len(leaves)})" for name, leaves in own.items()), optimizer}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_layers_without_names_are_found_by_their_order(tmp_path, depth):
    assert_resnet(weight_files.read(written(tmp_path, ".weights.h5", depth, named=False))[0])


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_two_networks_in_one_file_are_refused(tmp_path, ending):
    path = written(tmp_path, ending, 1)
    with h5py.File(path, "a") as file:
        old, new = {
            ".h5": ("model_weights/resnet50", "model_weights/resnet50_1"),
            ".weights.h5": ("layers/functional", "layers/functional_1"),
        }[ending]
        file.copy(old, new)
    with pytest.raises(DataError, match=r"save one of (the two networks|them) alone"):
        weight_files.read(path)


WRITES_MODELS = """
import sys
import keras, numpy as np
folder, wrap = sys.argv[1:]
keras.utils.set_random_seed(0)
layers, inputs = keras.layers, keras.Input((32, 32, 3))
base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
if wrap == "same model":
    hidden = layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, layers.Dense(3)(layers.Dense(8)(hidden)))
else:
    hidden = layers.Rescaling(1 / 255)(layers.RandomFlip()(inputs))
    hidden = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(base(hidden)))
    model = keras.Sequential([inputs, keras.Model(inputs, layers.Dense(5)(hidden)), layers.Dense(3)])
model.save(f"{folder}/x.keras")
model.save_weights(f"{folder}/x.weights.h5")
model.save(f"{folder}/x.h5")
np.savez(f"{folder}/expected.npz", **{variable.path: np.array(variable) for variable in base.variables})
"""


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["twice", "same model"])
def test_models_written_by_keras(tmp_path, wrap):
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", WRITES_MODELS, tmp_path, wrap], check=True, env=environment)
    expected = dict(np.load(tmp_path / "expected.npz"))
    for ending in (".keras", ".weights.h5", ".h5"):
        tensors, *_ = weight_files.read(tmp_path / f"x{ending}")
        assert tensors.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(tensors[name], array)
        family, architecture, _, _ = convert.convert(tensors, where="x")
        assert (family.variant, architecture["stage_sizes"]) == ("v1", (3, 4, 6, 3))
