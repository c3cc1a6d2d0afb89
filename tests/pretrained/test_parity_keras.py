"""Keras's weights give Keras's numbers: every stage, the logits, and a step of training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from cifar_jax.pretrained import convert, load, write
from cifar_jax.pretrained.families import KERAS_V1

pytestmark = pytest.mark.slow

# Keras runs in a separate process: here, its warnings would be errors.
ORACLE = Path(__file__).with_name("keras_oracle.py")


def ask_keras(*arguments):
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, ORACLE, *map(str, arguments)], check=True, env=environment)


@pytest.fixture(scope="session")
def keras_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    ask_keras("write_all", folder)
    yield folder
    shutil.rmtree(folder)  # 1 GB


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_resnet50(version, keras_folder, stages_of, relative_error):
    backbone = load(keras_folder / f"{version}.h5")
    assert (backbone.variant, backbone.stage_sizes, backbone.width) == (version, (3, 4, 6, 3), 64)
    for size in (97, 224):
        with np.load(keras_folder / f"{version}_{size}.npz") as expected:
            outputs = stages_of(backbone, expected["images"])
            errors = {name: relative_error(outputs[name], expected[name]) for name in outputs}
        print(version, size, {name: f"{error:.1e}" for name, error in errors.items()})
        assert len(errors) == 7
        assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("version", ["v1", "v2", "small_v1", "small_v2"])
@pytest.mark.parametrize("kind", [".weights.h5", ".keras", "published", "unnamed"])
def test_every_kind_of_file_contains_the_same(version, kind, keras_folder, tmp_path):
    path = keras_folder / f"{version}{kind}"
    if kind == "published":
        path = tmp_path / "published.h5"
        as_published(keras_folder / f"{version}.h5", path)
    elif kind == "unnamed":  # as Keras before 3.10 writes it
        path = tmp_path / "unnamed.weights.h5"
        shutil.copy(keras_folder / f"{version}.weights.h5", path)
        with h5py.File(path, "r+") as file:
            for layer in file["layers"].values():
                layer.attrs.pop("name", None)
    loaded, expected = load(path), load(keras_folder / f"{version}.h5")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.batch_stats, expected.batch_stats)
    assert loaded.preprocessing == expected.preprocessing


def as_published(path, published):
    """Like the files that keras.applications downloads: weights only, names with ':0', another name for the head."""
    with h5py.File(path) as file, h5py.File(published, "w") as copy:

        def copy_dataset(name, item):
            if isinstance(item, h5py.Dataset):
                copy.create_dataset(f"{name.replace('predictions', 'probs')}:0", data=item[()])

        file["model_weights"].visititems(copy_dataset)


def test_keras_reads_what_we_write(keras_folder, relative_error):
    backbone = load(keras_folder / "small_v1.h5")
    write(backbone, keras_folder / "ours.h5", naming="keras")
    ask_keras("read_back", keras_folder)
    with np.load(keras_folder / "read_back.npz") as outputs, np.load(keras_folder / "small_v1_64.npz") as expected:
        errors = {name: relative_error(outputs[name], expected[name]) for name in expected if name != "images"}
    assert len(errors) == 7 and max(errors.values()) < 1e-5


def test_a_step_of_training(keras_folder, training_step, relative_error):
    ask_keras("write_step", keras_folder)
    with np.load(keras_folder / "step.npz") as file:
        step = dict(file)
    backbone = load(keras_folder / "small_v1.h5")
    # Keras's momentum. Keras, like Flax, computes the biased variance.
    loss, gradients, batch_stats = training_step(backbone, step["images"], step["labels"], norm_momentum=0.99)
    assert abs(loss - step["loss"]) < 1e-5 * abs(step["loss"])

    converted = convert.foreign(gradients, batch_stats, KERAS_V1)
    errors = {"gradient": {}, "statistic": {}}
    for name, expected in step.items():
        kind, _, tensor = name.partition("/")
        if kind not in errors or tensor.endswith("_conv/bias"):  # its exact gradient is 0
            continue
        value = converted[tensor]
        if tensor.endswith("moving_mean"):  # Keras's mean includes the bias of the convolution
            layer = tensor.split("/")[0].replace("_bn", "_conv")
            with h5py.File(keras_folder / "small_v1.h5") as file:
                value = value + file[f"model_weights/{layer}/{layer}/bias"][()]
        errors[kind][tensor] = relative_error(value, expected)
    print({kind: f"{max(values.values()):.1e}" for kind, values in errors.items()})
    assert len(errors["gradient"]) == 89 and len(errors["statistic"]) == 58
    assert max(errors["gradient"].values()) < 1e-4
    assert max(errors["statistic"].values()) < 1e-5
