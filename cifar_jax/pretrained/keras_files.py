"""Keras's weight files: the legacy HDF5 of `keras.applications` and Keras 2, and Keras 3's .weights.h5 and .keras.

The legacy layout has one group per layer, under its name. Keras 3 numbers the layers of each class instead
(`layers/conv2d_7/vars/0`) and keeps the names, if at all, in an attribute (.weights.h5) or in config.json (.keras).
"""

import collections
import json
import re
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.pretrained.backbone import METADATA_KEY

_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
_LEAVES = tuple(dict.fromkeys(leaf for leaves in _VARIABLES.values() for leaf in leaves))
_CLASSES = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}
_GENERIC = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d+))?")
_HEADS = ("probs", "fc1000")  # names of the layer `predictions` in published files

Layers = dict[str, dict[str, np.ndarray]]


def read(file: BinaryIO, *, config: bytes = b"") -> tuple[dict[str, np.ndarray], str]:
    """Tensors as 'layer/leaf', layers named as in `keras.applications`, and the metadata of `write_legacy` or ''.

    Layers without names (conv2d_7) are identified by their order. `config` is the config.json of a .keras file.
    """
    with h5py.File(file) as stored:
        metadata = str(stored.attrs.get(METADATA_KEY, ""))
        layers = _numbered(stored["layers"], config) if "layers" in stored else _named(stored)
    if any(_GENERIC.fullmatch(layer) and "conv" in layer for layer in layers):
        try:
            layers = _named_by_order(layers)
        except (IndexError, KeyError, ValueError) as error:
            raise DataError("unnamed layers that are not in the order of a keras.applications ResNet") from error
    layers = {"predictions" if layer in _HEADS else layer: leaves for layer, leaves in layers.items()}
    return {f"{layer}/{leaf}": array for layer, leaves in layers.items() for leaf, array in leaves.items()}, metadata


def _named(stored: h5py.File) -> Layers:
    """The legacy layout: [model_weights/]layer/.../leaf[:0]."""
    layers: Layers = {}

    def add(path: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            parts = path.split("/")
            layers.setdefault(parts[0], {})[parts[-1].removesuffix(":0")] = item[()]

    stored.get("model_weights", stored).visititems(add)
    return layers


def _numbered(stored: h5py.Group, config: bytes) -> Layers:
    """Keras 3's layout: class[_number]/vars/number."""
    names = _names_in_config(json.loads(config)) if config else {}
    layers: Layers = {}
    for group, item in stored.items():
        if generic := _GENERIC.fullmatch(group):
            name = item.attrs.get("name") or names.get(group) or group
            leaves = zip(_VARIABLES[generic[1]], sorted(item["vars"], key=int), strict=False)
            layers[name] = {leaf: item["vars"][number][()] for leaf, number in leaves}
    return layers


def _names_in_config(config: dict) -> dict[str, str]:
    """Keras 3's numbered name -> name of each layer with weights; numbers follow the order of the model."""
    names, counts = {}, collections.Counter()
    for layer in config["config"]["layers"]:
        if generic := _CLASSES.get(layer["class_name"]):
            number = counts[generic]
            names[f"{generic}_{number}" if number else generic] = layer["config"]["name"]
            counts[generic] += 1
    return names


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
    return {
        **dict(zip(convs, ordered["conv2d"], strict=True)),
        **dict(zip(norms, ordered["batch_normalization"], strict=True)),
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
    with h5py.File(path, "w") as file:
        file.attrs.update({"layer_names": [layer.encode() for layer in order], METADATA_KEY: metadata})
        for layer in order:
            names = [name for leaf in _LEAVES if (name := f"{layer}/{leaf}") in tensors]
            file.create_group(layer).attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                file[layer].create_dataset(f"{name}:0", data=tensors[name])
