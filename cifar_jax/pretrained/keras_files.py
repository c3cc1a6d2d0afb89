"""Keras's weight files: the legacy HDF5 of `keras.applications` and Keras 2, and Keras 3's .weights.h5 and .keras.

The legacy layout has one group per layer, under its name. Keras 3 numbers the layers of each class instead
(`layers/conv2d_7/vars/0`) and keeps the names, if at all, in an attribute (.weights.h5) or in config.json (.keras).
Models contain models: the ResNet may be any number of levels below the top, next to layers of the user.
"""

import collections
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.files.untrusted import require_plausible_size
from cifar_jax.pretrained import hdf5
from cifar_jax.pretrained.backbone import METADATA_KEY

ZIP_MEMBER = "model.weights.h5"  # of a .keras file
_CONFIG_MEMBER = "config.json"
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
_LEAVES = tuple(dict.fromkeys(leaf for leaves in _VARIABLES.values() for leaf in leaves))
_GENERIC = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d+))?")
_OF_RESNET = re.compile(r"conv\d+_.+|post_bn|predictions")  # layers of keras.applications
_HEADS = ("probs", "fc1000")  # names of the layer `predictions` in published files
_OPTIMIZER = ("optimizer", "optimizer_weights")

Layers = dict[str, dict[str, np.ndarray]]
Place = tuple[str, ...]


def read_zip(archive: zipfile.ZipFile) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """The tensors of a .keras file; see `read`."""
    for name in (ZIP_MEMBER, _CONFIG_MEMBER):
        info = archive.getinfo(name)
        require_plausible_size(info.file_size, stored=info.compress_size, where=name)
    return read(io.BytesIO(archive.read(ZIP_MEMBER)), config=archive.read(_CONFIG_MEMBER))


def read(file: BinaryIO, *, config: bytes = b"") -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Tensors as 'layer/leaf', layers named as in `keras.applications`, and the metadata of `write_legacy`.

    Layers without names (conv2d_7) are identified by their order. The third value is what is left aside: the user's
    own layers, the optimizer.

    Args:
        config: the config.json of a .keras file.
    """
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    hdf5.rehearse(file.read())
    file.seek(0)
    with h5py.File(file) as stored:
        metadata = hdf5.text(stored, METADATA_KEY)
        names = dict(_names_in_config(json.loads(config))) if config else {}
        network, aside = _network(_models(stored, names, file_bytes))
        layers = {layer: {leaf: item[()] for leaf, item in leaves.items()} for layer, leaves in network.items()}
        aside += [name for name in _OPTIMIZER if name in stored]
    if any(_GENERIC.fullmatch(layer) and "conv" in layer for layer in layers):
        try:
            layers = _named_by_order(layers)
        except (IndexError, KeyError, ValueError) as error:
            raise DataError("unnamed layers that are not in the order of a keras.applications ResNet") from error
    return (
        {f"{layer}/{leaf}": array for layer, leaves in layers.items() for leaf, array in leaves.items()},
        {METADATA_KEY: metadata} if metadata else {},
        aside,
    )


def _models(stored: h5py.File, names: dict[Place, str], file_bytes: int) -> dict[Place, dict[str, dict]]:
    """{place of a model in the file: {layer: {leaf: dataset}}}, without the optimizer."""
    models: dict[Place, dict] = collections.defaultdict(lambda: collections.defaultdict(dict))
    for path, item in hdf5.datasets(stored, file_bytes=file_bytes):
        if any(part in _OPTIMIZER for part in path):
            continue
        if len(path) >= 3 and path[-2] == "vars":  # Keras 3: layers/functional/layers/conv2d_7/vars/0
            place, group, number = path[:-3], path[-3], path[-1]
            generic = _GENERIC.fullmatch(group)
            name = (
                hdf5.text(item.parent, "name") or hdf5.text(item.parent.parent, "name") or names.get(path[:-2], group)
            )
            leaves = _VARIABLES[generic[1]] if generic else ()
            leaf = leaves[int(number)] if number.isdecimal() and int(number) < len(leaves) else number
        else:  # legacy: [model_weights/][model/]layer/[layer/]leaf[:0]
            place, name, leaf = (), path[-2] if len(path) > 1 else path[-1], path[-1].removesuffix(":0")
        if leaf in models[place][name]:
            raise DataError(f"the layer {name!a} twice; save one of the two networks alone")
        models[place]["predictions" if name in _HEADS else name][leaf] = item
    return models


def _names_in_config(config: dict, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """(path in the file, name) of each layer of Keras 3; the numbers in a path follow the order in the model."""
    counts: collections.Counter[str] = collections.Counter()
    for layer in config["config"]["layers"]:
        generic = re.sub(r"(?<!^)(?<![A-Z\d_])(?=[A-Z])", "_", layer["class_name"]).lower()
        number, counts[generic] = counts[generic], counts[generic] + 1
        path = (*place, "layers", f"{generic}_{number}" if number else generic)
        yield path, layer["config"]["name"]
        if isinstance(layer["config"].get("layers"), list):
            yield from _names_in_config(layer, path)


def _network(models: dict[Place, dict[str, dict]]) -> tuple[dict[str, dict], list[str]]:
    """The layers of the ResNet, and what else the file has: the user's layers, as 'dense (2)'."""
    kernels = {
        place: sum(item.ndim == 4 for leaves in layers.values() for item in leaves.values())
        for place, layers in models.items()
    }
    place = max(kernels, key=kernels.get, default=())
    if list(kernels.values()).count(kernels.get(place)) > 1 and kernels[place]:
        raise DataError("two networks of the same size; save one of them alone")
    network = dict(models.get(place, {}))
    if any(_OF_RESNET.fullmatch(layer) for layer in network):
        network = {layer: leaves for layer, leaves in network.items() if _OF_RESNET.fullmatch(layer)}
    others = {
        layer: leaves
        for other, layers in models.items()
        for layer, leaves in layers.items()
        if other != place or layer not in network
    }
    kernels_of_network = [item for leaves in network.values() for item in leaves.values() if item.ndim == 4]
    features = max((kernel.shape[-1] for kernel in kernels_of_network), default=0)
    head = network.get("predictions", {}).get("kernel")
    if head is not None and head.shape[0] != features:  # the user's, behind other layers
        others["predictions"] = network.pop("predictions")
    return network, [f"{layer} ({len(leaves)})" for layer, leaves in others.items()]


def _named_by_order(layers: Layers) -> Layers:
    """Names layers with generic names by their position in a ResNet of keras.applications."""
    ordered: dict[str, list] = {generic: [] for generic in _VARIABLES}
    matched = [(_GENERIC.fullmatch(layer), leaves) for layer, leaves in layers.items()]
    for generic, leaves in sorted(matched, key=lambda item: int(item[0][2] or 0)):
        ordered[generic[1]].append(leaves)
    outputs = [leaves["kernel"].shape[-1] for leaves in ordered["conv2d"]]
    stage_sizes, first = [], 1
    while first < len(outputs):
        # The first block of a stage has a fourth convolution, in its shortcut, as wide as the third one.
        starts_stage = outputs[first + 2] == (outputs[first + 3] if first + 3 < len(outputs) else None)
        stage_sizes += [0] if starts_stage else []
        stage_sizes[-1] += 1
        first += 4 if starts_stage else 3
    preactivation = "bias" not in ordered["conv2d"][1]
    names = layer_order(tuple(stage_sizes), preactivation=preactivation)
    convs, norms = ([name for name in names if name.endswith(kind)] for kind in ("_conv", "_bn"))
    if len(ordered["batch_normalization"]) < len(norms):
        raise ValueError("too few norms")
    return {
        **dict(zip(convs, ordered["conv2d"], strict=True)),
        **dict(zip(norms, ordered["batch_normalization"], strict=False)),  # the user's own follow
        **dict(zip(("predictions",), ordered["dense"], strict=False)),
    }


def layer_order(stage_sizes: tuple[int, ...], *, preactivation: bool) -> list[str]:
    """The convolutions and norms of `keras.applications.ResNet50` (or V2) in Keras's order, which is by depth."""
    names = ["conv1_conv"] if preactivation else ["conv1_conv", "conv1_bn"]
    for stage, blocks in enumerate(stage_sizes, start=2):
        for block in range(1, blocks + 1):
            layers = ["1_conv", "1_bn", "2_conv", "2_bn", "3_conv"]
            if block == 1:
                layers.insert(4, "0_conv")
            if preactivation:
                layers.insert(0, "preact_bn")
            else:
                layers += ["0_bn", "3_bn"] if block == 1 else ["3_bn"]
            names += [f"conv{stage}_block{block}_{layer}" for layer in layers]
    return [*names, "post_bn"] if preactivation else names


def write_legacy(path: Path, tensors: dict[str, np.ndarray], order: list[str], *, metadata: str) -> None:
    """Writes 'layer/leaf' tensors in the order of the layers, which is how `keras.Model.load_weights` matches them."""
    with h5py.File(path, "w", locking=False) as file:  # `atomic_path` has locked it
        file.attrs.update({"layer_names": [layer.encode() for layer in order], METADATA_KEY: metadata})
        for layer in order:
            names = [name for leaf in _LEAVES if (name := f"{layer}/{leaf}") in tensors]
            file.create_group(layer).attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                file[layer].create_dataset(f"{name}:0", data=tensors[name])
