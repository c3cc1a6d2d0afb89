"""Every kind of file is read exactly, damage is reported in one line, and no pickle is executed."""

import collections
import os
import pickle
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_writer import Tensor, save

from cifar_jax.errors import DataError
from cifar_jax.pretrained import weight_files


@pytest.fixture
def tensors():
    random = np.random.default_rng(0)
    return {
        "conv.weight": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "half": random.normal(size=7).astype(np.float16),
        "bfloat": random.normal(size=(2, 5)).astype(ml_dtypes.bfloat16),
        "bn.num_batches_tracked": np.array(7),
    }


def assert_equal(read, expected):
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_formats_written_by_their_libraries(kind, tensors, tmp_path):
    path = tmp_path / "weights.any_suffix"
    if kind == "npz":
        del tensors["bfloat"]  # NumPy cannot write it
        with open(path, "wb") as file:
            np.savez(file, **tensors)
    else:
        save_file(tensors, path)
    read, metadata, aside = weight_files.read(path)
    assert_equal(read, tensors)
    assert (metadata, aside) == ({}, [])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_torch(legacy, nested, tensors, tmp_path, torch_names):
    value = collections.OrderedDict((name, Tensor(array)) for name, array in tensors.items())
    value._metadata = {"": {"version": 1}}  # as in every state dict of PyTorch
    if nested:  # a training checkpoint
        optimizer = {"state": {0: {"momentum_buffer": Tensor(np.ones(3, np.float32))}}, "param_groups": [{"lr": 0.1}]}
        value = {"model": value, "optimizer": optimizer, "epoch": 3, "accuracy": np.float64(0.5)}
    path = tmp_path / "weights.pth"
    save(path, value, torch_names, legacy=legacy)
    read, *_ = weight_files.read(path)
    assert_equal(read, tensors)


def test_torch_views_and_shared_storages(tmp_path, torch_names):
    elements = np.arange(12, dtype=np.float32)
    transposed = Tensor(elements, offset=1, shape=(3, 2), strides=(1, 4))
    save(tmp_path / "weights.pth", {"view": transposed}, torch_names)
    read, *_ = weight_files.read(tmp_path / "weights.pth")
    np.testing.assert_array_equal(read["view"], [[1, 5], [2, 6], [3, 7]])


@pytest.mark.parametrize(
    "place",
    [{"offset": 13}, {"offset": -1}, {"shape": (13,)}, {"shape": (2, 6), "strides": (7, 1)}, {"strides": (-1,)}],
)
def test_torch_tensor_outside_its_storage(place, tmp_path, torch_names):
    save(tmp_path / "weights.pth", {"x": Tensor(np.arange(12, dtype=np.float32), **place)}, torch_names)
    with pytest.raises(DataError, match="beyond its storage"):
        weight_files.read(tmp_path / "weights.pth")


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [(os.mkdir, "executed"), (eval, "1"), (exec, "")])
def test_pickles_are_not_executed(call, legacy, tmp_path, torch_names, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensor = Tensor(np.ones(3, np.float32))
    save("weights.pth", {"x": tensor, "y": Malicious(*call)}, torch_names, legacy=legacy)
    assert list(weight_files.read(tmp_path / "weights.pth")[0]) == ["x"]
    save("weights.pth", Malicious(*call), torch_names, legacy=legacy)
    with pytest.raises(DataError, match=r"weights\.pth: no dictionary of tensors"):
        weight_files.read(tmp_path / "weights.pth")
    assert os.listdir() == ["weights.pth"]


def test_npz_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([Malicious(os.getcwd)], object))
    with pytest.raises(DataError, match=r"x\.npz: 'x' is an array of object"):
        weight_files.read(tmp_path / "x.npz")


def written(kind, folder, torch):
    """A file of this kind with 4 kB of tensors."""
    path, array = folder / f"weights{kind}", np.random.default_rng(0).normal(size=1024).astype(np.float32)
    if kind == ".safetensors":
        save_file({"x": array}, path)
    elif kind == ".npz":
        np.savez(path, x=array)
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("conv1_conv/conv1_conv/kernel:0", data=array)
    elif kind == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", '{"config": {"layers": []}}')
            archive.write(written(".h5", folder, torch), "model.weights.h5")
    else:
        save(path, {"x": Tensor(array)}, torch, legacy=kind == ".old.pth")
    return path


KINDS = [".safetensors", ".npz", ".h5", ".keras", ".pth", ".old.pth"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated(kind, kept, tmp_path, torch_names):
    path = written(kind, tmp_path, torch_names)
    whole = path.read_bytes()
    assert weight_files.read(path)[0]
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=f"weights{kind}") as caught:
        weight_files.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [".npz", ".keras", ".pth"])
def test_a_flipped_bit_in_a_zip_is_noticed(kind, tmp_path, torch_names):
    path = written(kind, tmp_path, torch_names)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        weight_files.read(path)


def test_files_of_unknown_kinds_are_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no weights here")
    with pytest.raises(DataError, match=r"not a \.h5"):
        weight_files.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.png", b"")
    with pytest.raises(DataError, match="a zip file, but not"):
        weight_files.read(path)
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match=r"not a \.h5"):
        weight_files.read(path)


def keras3_weights(path, layers):
    """.weights.h5 of Keras before 3.10, which keeps no names: {'conv2d_1': [kernel, bias], ...}."""
    with h5py.File(path, "w") as file:
        for layer, arrays in layers.items():
            for number, array in enumerate(arrays):
                file.create_dataset(f"layers/{layer}/vars/{number}", data=array)


def test_keras_layers_without_names_that_are_no_resnet(tmp_path):
    kernels = {f"conv2d_{number}": [np.ones((3, 3, 4, 4))] for number in range(3)}
    keras3_weights(tmp_path / "x.weights.h5", {"conv2d": [np.ones((3, 3, 3, 4))], **kernels})
    with pytest.raises(DataError, match=r"x\.weights\.h5: unnamed layers that are not in the order"):
        weight_files.read(tmp_path / "x.weights.h5")


def test_hdf5_without_keras_layers(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["measurements"] = np.ones(3)
    read, *_ = weight_files.read(tmp_path / "x.h5")
    assert list(read) == ["measurements/measurements"]


def test_torch_tensor_larger_than_its_storage(tmp_path, torch_names):
    """A stride of 0 would let a small file take any amount of memory."""
    save(tmp_path / "x.pth", {"a": Tensor(np.zeros(1, np.float32), shape=(1 << 20,), strides=(0,))}, torch_names)
    with pytest.raises(DataError, match="larger than its storage"):
        weight_files.read(tmp_path / "x.pth")
