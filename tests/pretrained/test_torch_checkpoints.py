"""Checkpoints as training programs save them: written by PyTorch where it is installed, and without it."""

import argparse
import collections
import datetime
import decimal
import pathlib
import re
import zipfile

import numpy as np
import pytest
import torch_writer

from cifar_jax.errors import DataError
from cifar_jax.pretrained import weight_files
from cifar_jax.pretrained.torch_pickle import Placeholder


def arrays(*names, offset=0):
    """{name: array} with one kernel each, all different."""
    return {name: np.full((2, 3), number + offset, np.float32) for number, name in enumerate(names)}


def tensors(named):
    return collections.OrderedDict((name, torch_writer.Tensor(array)) for name, array in named.items())


def assert_equal(read, expected):
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array)


class Config(dict):
    """A dictionary of another class, like Lightning's AttributeDict."""


OBJECTS = {
    "args": argparse.Namespace(lr=0.1, model="resnet50"),
    "milestones": collections.Counter({30: 1}),
    "history": collections.defaultdict(list, {"loss": [1.0]}),
    "time": datetime.datetime(2024, 1, 1),
    "path": pathlib.PurePosixPath("/data"),
    "best": np.float64(0.5),
    "classes": np.array(["cat", "dog"]),
    "objects": np.array([{}], object),
    "complex": 1j,
    "decimal": decimal.Decimal("0.1"),
    "config": Config(a=1),
    "function": re.sub,
    "nested": {(1, (2, "x")): {1, 2}},
}


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_of_other_classes_do_not_matter(legacy, tmp_path, torch_names):
    expected = arrays("a.weight", "b.weight")
    torch_writer.save(tmp_path / "x.pth", {"net": tensors(expected), **OBJECTS}, torch_names, legacy=legacy)
    assert_equal(weight_files.read(tmp_path / "x.pth")[0], expected)


EXPECTED = arrays("a.weight", "b.weight", "c.weight")
OTHER = arrays("a.weight", "b.weight", "c.weight", offset=10)
OPTIMIZER = {"state": {0: {"exp_avg": OTHER["a.weight"]}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("value", "aside"),
    [
        (EXPECTED, []),
        *(({name: EXPECTED, "epoch": 3}, [name]) for name in ("model_state_dict", "net", "state_dict", "model", "ema")),
        *(({name: EXPECTED}, [name]) for name in ("state_dict_ema", "model_ema", "anything")),
        ({"checkpoint": {"model": EXPECTED, "optimizer": OPTIMIZER}}, ["checkpoint.model"]),
        ([EXPECTED, OPTIMIZER], ["0"]),
        ({"model_ema": OTHER, "model": EXPECTED}, ["model", "model_ema (3)"]),
        ({"ema": {"model": OTHER}, "model": EXPECTED}, ["model", "ema.model (3)"]),
        ({"state_dict": EXPECTED, "state_dict_ema": OTHER}, ["state_dict", "state_dict_ema (3)"]),
        ({"head": arrays("w"), "backbone": EXPECTED}, ["backbone", "head (1)"]),
        ({"projector": arrays("w"), "resnet": EXPECTED}, ["resnet", "projector (1)"]),
        ({"metrics": {"accuracy": np.float32(1)}, "resnet": EXPECTED}, ["resnet"]),
        (
            {"callbacks": {"best": {"score": np.ones(1, np.float32)}}, "state_dict": EXPECTED},
            ["state_dict", "callbacks.best (1)"],
        ),
        ({"hyper_parameters": Config(x=1), "m": Config(EXPECTED)}, ["m"]),
    ],
)
def test_the_state_dict_is_found_and_named(value, aside, tmp_path, torch_names):
    def written(part):
        if isinstance(part, np.ndarray):
            return torch_writer.Tensor(part)
        if isinstance(part, dict):
            return type(part)((key, written(item)) for key, item in part.items())
        return [written(item) for item in part] if isinstance(part, list) else part

    torch_writer.save(tmp_path / "x.pth", written(value), torch_names)
    read, _, left_aside = weight_files.read(tmp_path / "x.pth")
    assert_equal(read, EXPECTED)
    assert left_aside == ([f"all but {aside[0]}", *aside[1:]] if aside else [])


def test_networks_of_equal_rank_are_refused(tmp_path, torch_names):
    torch_writer.save(tmp_path / "x.pth", {"a": tensors(EXPECTED), "b": tensors(OTHER)}, torch_names)
    with pytest.raises(DataError, match=r"x\.pth: weights of several networks, a and b; save one of them alone"):
        weight_files.read(tmp_path / "x.pth")


def test_a_dictionary_that_contains_itself_is_searched_once(tmp_path, torch_names):
    value = {"state_dict": tensors(EXPECTED)}
    value["itself"] = [value]
    torch_writer.save(tmp_path / "x.pth", value, torch_names)
    assert_equal(weight_files.read(tmp_path / "x.pth")[0], EXPECTED)


def test_the_zip_must_be_one_that_pytorch_writes(tmp_path, torch_names):
    torch_writer.save(tmp_path / "x.pth", tensors(EXPECTED), torch_names)
    with zipfile.ZipFile(tmp_path / "x.pth") as stored, zipfile.ZipFile(tmp_path / "y.pth", "w", 8) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(DataError, match=r"y\.pth: a zip that PyTorch did not write"):
        weight_files.read(tmp_path / "y.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(DataError, match="big-endian"):
        weight_files.read(tmp_path / "x.pth")


def test_placeholders_are_equal_and_hashed_by_identity():
    assert Placeholder() != Placeholder() and len({Placeholder(), Placeholder()}) == 2


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def network(torch):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.norm = torch.nn.BatchNorm2d(4)
            self.tied = self.conv

    return torch.nn.Sequential(Block(), torch.nn.Linear(4, 2))


def state_dict(network):
    return {name: tensor.detach().float().numpy() for name, tensor in network.state_dict().items()}


@pytest.mark.torch
@pytest.mark.parametrize("new", [True, False])
def test_a_training_checkpoint_of_pytorch(torch, network, tmp_path, new):
    optimizer = torch.optim.Adam(network.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4])
    value = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "shape": torch.Size([1, 2]),
        "device": torch.device("cuda:0"),
        "dtype": torch.bfloat16,
        "rng": torch.get_rng_state(),
        "generator": [torch.Generator().get_state()],
        **OBJECTS,
    }
    torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    assert_equal(weight_files.read(tmp_path / "x.pth")[0], state_dict(network))


@pytest.mark.torch
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: {"epoch": 1, "model": network}])
def test_whole_networks_are_read_without_their_classes(torch, tmp_path, new, wrap):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    torch.save(wrap(network), tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    assert_equal(weight_files.read(tmp_path / "x.pth")[0], state_dict(network))


@pytest.mark.torch
def test_half_precision_parameters_and_views(torch, tmp_path):
    value = {
        "half": torch.arange(6.0).half(),
        "bfloat16": torch.arange(6.0).bfloat16(),
        "parameter": torch.nn.Parameter(torch.arange(6.0)),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "slice": torch.arange(10.0)[2:8],
        "channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(3),
    }
    torch.save(value, tmp_path / "x.pth")
    assert_equal(weight_files.read(tmp_path / "x.pth")[0], {n: t.detach().float().numpy() for n, t in value.items()})


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda torch: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "quantized"),
        (lambda torch: torch.eye(2).to_sparse(), "sparse"),
        (lambda torch: torch.ones(2, 2, dtype=torch.complex64), "of type 'ComplexFloat'"),
        (lambda torch: torch.ones(2, 2, device="meta"), "without data"),
        (lambda torch: torch.ones(2, 2).to(torch.float8_e5m2), "of a type that NumPy lacks"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, about its prototypes
def test_tensors_that_cannot_be_read_are_named_with_their_kind(torch, make, kind, tmp_path):
    torch.save({"layer.weight": make(torch)}, tmp_path / "x.pth")
    with pytest.raises(DataError, match=rf"x\.pth: 1 tensors that cannot be read, e.g. layer.weight is {kind}"):
        weight_files.read(tmp_path / "x.pth")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_with_the_way_to_its_weights(torch, tmp_path):
    network = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.script(network), str(tmp_path / "x.pt"))
    with pytest.raises(DataError, match=r"x\.pt: a TorchScript archive; save its weights: torch.save\(") as caught:
        weight_files.read(tmp_path / "x.pt")
    command = re.search(r"torch\.save.*\)", str(caught.value)).group()
    scope = {"torch": torch, "FILE": str(tmp_path / "x.pt"), "NEW_FILE": str(tmp_path / "new.pth")}
    eval(command, scope)
    assert_equal(weight_files.read(tmp_path / "new.pth")[0], state_dict(network))
