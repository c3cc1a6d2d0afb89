"""Every export gives the logits of the run in its target program, from the file and its sidecar alone."""

import builtins
import dataclasses
import json
import os
import stat
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import sidecar as sidecars
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from cifar_jax import pretrained
from cifar_jax.config import load_config
from cifar_jax.data.decode import read_image
from cifar_jax.errors import UsageError
from cifar_jax.experiment import without_data
from cifar_jax.modes import export as exports
from cifar_jax.modes.export import SUFFIXES, export
from cifar_jax.preprocessing.preprocess import Preprocessing

pytestmark = pytest.mark.slow

SMALL_RESNET = {"stage_sizes": (2, 1, 1, 1), "image_size": 64}  # the stem of Keras and torchvision has 64 channels
NETWORKS = {
    "v1": ("resnet50_pretrain", {"variant": "v1", **SMALL_RESNET}),
    "v1.5": ("resnet50_pretrain", {"variant": "v1.5", **SMALL_RESNET}),
    "cnn": ("cnn_scratch", {"widths": (8, 12), "image_size": 40}),
    "cnn at the stored size": ("cnn_scratch", {"widths": (8, 12), "image_size": 32}),
}
STORED_SIZE = 32


def random_array(path, shape):
    """Parameters and statistics that keep the scale of the activations."""
    random = np.random.default_rng(list(path.encode()))
    array = random.normal(scale=np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.2, size=shape)
    positive = path.endswith(("/scale", "/var"))
    return ((array + 1).clip(0.3) if positive else array).astype(np.float32)


@pytest.fixture
def network(request, monkeypatch):
    """An experiment with random variables instead of those of a run."""
    recipe, changes = NETWORKS[request.param]
    config = load_config(recipe)
    config.data.name = "shapes"
    config.model.update(changes)
    config.mesh.devices = 1
    preprocessing = Preprocessing((0.3, 0.45, 0.6), (0.2, 0.25, 0.3), changes["image_size"], "bicubic")
    experiment = dataclasses.replace(without_data(config), preprocessing=preprocessing)
    shapes = flatten_dict(experiment.abstract_variables, sep="/")
    variables = unflatten_dict({path: random_array(path, leaf.shape) for path, leaf in shapes.items()}, sep="/")
    state = types.SimpleNamespace(variables=variables)
    restored = types.SimpleNamespace(state=state, metadata={"stored_size": STORED_SIZE}, step=7)
    monkeypatch.setattr(exports, "restore_network", lambda workdir, *, checkpoint: (experiment, restored))
    return experiment, variables


@pytest.fixture
def image_files(tmp_path):
    """Images of the stored size, larger, and not square."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, shape in zip(paths, ((32, 32, 3), (61, 47, 3), (40, 90, 3)), strict=True):
        Image.fromarray(np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return paths


def relative_error(how, network, file, image_files):
    """The largest difference from the logits of the run, as a fraction of their range."""
    experiment, variables = network
    program = Path(__file__).with_name("use_export.py")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, program, how, file, file.with_suffix(".npy"), *image_files]
    subprocess.run(list(map(str, command)), check=True, env=environment)
    images_NHWC = np.stack([read_image(path, size=STORED_SIZE) for path in image_files])
    with jax.default_matmul_precision("highest"):
        expected_NK = np.asarray(experiment.logits(variables, images_NHWC))
    error = np.abs(np.load(file.with_suffix(".npy")) - expected_NK).max() / np.ptp(expected_NK)
    print(how, f"{error:.1e}")
    return error


needs_torch = [pytest.mark.torch, pytest.mark.skipif(not find_spec("torch"), reason="needs pip install torch")]
needs_torchvision = [
    pytest.mark.torch,
    pytest.mark.skipif(not find_spec("torchvision"), reason="needs pip install torchvision"),
]
needs_onnx = pytest.mark.skipif(
    not find_spec("onnxruntime"), reason="jax2onnx pins Orbax and JAX: the extra `onnx` needs its own environment"
)


@pytest.mark.parametrize(
    ("network", "format", "how"),
    [
        ("v1", "keras", "small_keras"),
        pytest.param("v1.5", "safetensors", "plain_torch", marks=needs_torch),
        pytest.param("v1.5", "safetensors", "use", marks=needs_torchvision),
        ("cnn", "safetensors", "numpy_cnn"),
        ("cnn", "stablehlo", "use"),
        ("v1", "stablehlo", "use"),
        pytest.param("cnn", "onnx", "use", marks=needs_onnx),
        pytest.param("cnn at the stored size", "onnx", "use", marks=needs_onnx),
        pytest.param("v1.5", "onnx", "use", marks=needs_onnx),
    ],
    indirect=["network"],
)
def test_the_target_program_computes_the_logits_of_the_run(network, format, how, image_files, tmp_path):
    file, sidecar = export("run", output=tmp_path / f"x{SUFFIXES[format]}", format=format)
    assert sidecar == tmp_path / f"x{SUFFIXES[format]}.json"
    assert relative_error(how, network, file, image_files) < 1e-4
    content = sidecars.read(file)
    assert content["classes"] == list(network[0].dataset.class_names)
    assert content["source"]["checkpoint_step"] == 7


@pytest.mark.parametrize("network", ["v1"], indirect=True)
def test_the_sidecar_of_keras_states_its_channel_order(network, image_files, tmp_path):
    """With the other order, the logits differ from those of the run."""
    file, sidecar = export("run", output=tmp_path / "x.h5", format="keras")
    content = json.loads(sidecar.read_text())
    assert content["input"]["channel_order"] == "BGR" and content["input"]["value_range"] == [0, 255]
    content["input"]["channel_order"] = "RGB"
    for values in content["normalization"].values():
        values.reverse()
    sidecar.write_text(json.dumps(content))
    assert relative_error("small_keras", network, file, image_files) > 0.01


@pytest.mark.parametrize("network", ["v1"], indirect=True)
def test_a_keras_file_loads_as_the_backbone_of_the_run(network, tmp_path):
    experiment, variables = network
    file, _ = export("run", output=tmp_path / "x.h5", format="keras")
    backbone = pretrained.load(file)
    jax.tree.map(np.testing.assert_array_equal, backbone.params, variables["params"])
    jax.tree.map(np.testing.assert_array_equal, backbone.batch_stats, variables["batch_stats"])
    assert backbone.preprocessing == experiment.preprocessing


@pytest.mark.parametrize("network", ["v1"], indirect=True)
def test_exported_programs_contain_plain_convolutions(network, tmp_path):
    import jax.export

    file, _ = export("run", output=tmp_path / "x.stablehlo", format="stablehlo")
    program = jax.export.deserialize(bytearray(file.read_bytes())).mlir_module()
    kernels = [leaf for path, leaf in flatten_dict(network[1]["params"], sep="/").items() if leaf.ndim == 4]
    # XLA writes a convolution once, or once for each of three platforms.
    assert program.count("stablehlo.convolution") in (len(kernels), 3 * len(kernels))


@pytest.mark.parametrize("network", ["v1.5"], indirect=True)
def test_each_file_has_a_separate_sidecar_and_the_default_permissions(network, tmp_path):
    (tmp_path / "plain").touch()
    files = [*export("run", output=tmp_path / "x.safetensors", format="safetensors")]
    files += export("run", output=tmp_path / "x.stablehlo", format="stablehlo")
    assert len(set(files)) == 4
    modes = {stat.S_IMODE(file.stat().st_mode) for file in [*files, tmp_path / "plain"]}
    assert len(modes) == 1
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "plain"])


@pytest.mark.parametrize("network", ["cnn"], indirect=True)
def test_only_an_earlier_export_is_overwritten(network, tmp_path):
    output = tmp_path / "config.safetensors"
    first = [file.read_bytes() for file in export("run", output=output, format="safetensors")]
    second = [file.read_bytes() for file in export("run", output=output, format="safetensors")]
    assert first == second
    for name in ("config.safetensors", "config.safetensors.json"):
        for content in (b"mine", b"{}", b"[1]"):
            (tmp_path / "config.safetensors").unlink(missing_ok=True)
            (tmp_path / "config.safetensors.json").unlink(missing_ok=True)
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UsageError, match="choose another path"):
                export("run", output=output, format="safetensors")
            assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("network", ["cnn"], indirect=True)
def test_an_export_that_was_changed_or_a_file_that_appears_meanwhile_is_not_overwritten(network, tmp_path, monkeypatch):
    file, sidecar = export("run", output=tmp_path / "x.safetensors", format="safetensors")
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(UsageError, match="choose another path"):
        export("run", output=file, format="safetensors")
    assert file.read_bytes().endswith(b"more") and sidecar.exists()
    late, original = tmp_path / "late.safetensors", exports.checksum

    def appears(path):
        late.write_bytes(b"mine")
        return original(path)

    monkeypatch.setattr(exports, "checksum", appears)
    with pytest.raises(UsageError, match="choose another path"):
        export("run", output=late, format="safetensors")
    assert late.read_bytes() == b"mine" and {path.name for path in tmp_path.iterdir()} == {
        *("x.safetensors", "x.safetensors.json", "late.safetensors"),
    }


@pytest.mark.parametrize("output", ["", "folder.h5", "file/x.h5", "x.safetensors"])
def test_an_output_that_cannot_be_written(output, tmp_path):
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output"):
        export("run", output=tmp_path / output, format="keras")


@pytest.mark.parametrize("network", ["cnn", "v1.5"], indirect=True)
def test_keras_has_no_names_for_other_networks(network, tmp_path):
    with pytest.raises(UsageError, match="variant v1"):
        export("run", output=tmp_path / "x.h5", format="keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "module", "error", "command"),
    [
        ("onnx", "onnxruntime", ImportError, r"pip install '\.\[onnx\]'"),
        ("onnx", "onnxruntime", AttributeError, r"pip install '\.\[onnx\]'"),  # jax2onnx 0.17.1 with jax 0.12
        ("stablehlo", "flatbuffers", ImportError, r"pip install '\.\[export\]'"),
    ],
)
@pytest.mark.parametrize("network", ["cnn"], indirect=True)
def test_a_missing_library_is_named_with_its_command(network, format, module, error, command, tmp_path, monkeypatch):
    original = builtins.__import__

    def fail(name, *arguments, **keywords):
        if name == module:
            raise error(module)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(UsageError, match=command):
        export("run", output=tmp_path / f"x{SUFFIXES[format]}", format=format)
    assert not list(tmp_path.iterdir())
