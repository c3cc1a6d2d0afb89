"""From a name or a path to a `Backbone`, and from a `Backbone` to a file that other programs read."""

import dataclasses
import difflib
import json
import logging
from pathlib import Path
from typing import Literal

import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.files import download
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.cache import cache_root, expanded
from cifar_jax.files.checksums import checksum, record, recorded
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained import convert, keras_files, weight_files
from cifar_jax.pretrained.backbone import METADATA_KEY, Backbone
from cifar_jax.pretrained.catalog import CATALOG
from cifar_jax.pretrained.families import KERAS_V1, TORCHVISION

NAMINGS = {"torchvision": TORCHVISION, "keras": KERAS_V1}  # what `write` can write
CACHE_FORMAT = 2  # raise it when conversion changes: cached weights are then converted again


def load(name_or_path: str | Path) -> Backbone:
    """Published weights by their name in `catalog.CATALOG`, or the weights in a file with the names of any family.

    Downloads and converted weights are kept in `cache_root() / "pretrained"`, by their checksums. A file with
    torchvision's names is read as v1.5 (stride in the 3x3 convolutions), because nothing in it states the variant.

    Raises:
        UsageError: neither a name in the catalog nor a file.
        DataError: the download failed, or the file is damaged or not a complete ResNet.
    """
    source, cache = str(name_or_path), cache_root() / "pretrained"
    entry = CATALOG.get(source)
    if entry is None:
        path = _existing_file(source)
        sha256 = checksum(path)
    else:
        path = cache / "downloads" / "/".join(entry.url.split("/")[3:])  # the same file name may be in several folders
        try:
            sha256 = download.fetch(entry.url, path, published=entry.hash)
        except OSError as error:
            raise DataError(
                f"{entry.url} cannot be downloaded ({one_line(error)}); "
                "download it elsewhere and set --config.model.pretrained to the file"
            ) from error
    converted = cache / "converted" / f"{sha256}-{CACHE_FORMAT}.safetensors"
    backbone = _from_cache(converted)
    if backbone is None:
        backbone = read(path, sha256=sha256)
        _to_cache(converted, backbone)
    if entry is not None:
        # Not every publisher states a hash, but the architecture can be checked for every file.
        expected = {name: getattr(entry, name) for name in backbone.architecture}
        if backbone.architecture != expected:
            raise DataError(f"{path}: {backbone.architecture}, but {entry.url} should be {expected}; delete the file")
        backbone = dataclasses.replace(backbone, preprocessing=entry.preprocessing)
    return dataclasses.replace(backbone, source=source)


def read(path: Path, *, sha256: str) -> Backbone:
    """The weights in a file, without the cache; raises as `load`."""
    tensors, metadata = weight_files.read(path)
    family, architecture, params, batch_stats = convert.convert(tensors, where=str(path))
    weights = {"params": params, "batch_stats": batch_stats}
    preprocessing = family.preprocessing
    if metadata:
        try:
            preprocessing = Preprocessing.from_json(json.loads(metadata))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: its preprocessing cannot be read ({error!r}); write the file again") from error
    return Backbone(**architecture, **weights, preprocessing=preprocessing, source=str(path), sha256=sha256)


def write(backbone: Backbone, path: Path, *, naming: Literal["torchvision", "keras"]) -> None:
    """Writes weights under the names of torchvision (.safetensors; v1.5) or of Keras (legacy .h5; v1) for `load`.

    Raises:
        UsageError: the naming has no names for this variant.
    """
    family = NAMINGS[naming]
    if family.variant != backbone.variant:
        raise UsageError(f"{naming}'s names are for variant {family.variant}, and this is variant {backbone.variant}")
    if naming == "keras" and backbone.block != "bottleneck":
        raise UsageError("Keras has names for bottleneck blocks only: use torchvision's names and variant v1.5")
    tensors = convert.foreign(backbone.params, backbone.batch_stats, family)
    metadata = json.dumps(dataclasses.asdict(backbone.preprocessing))
    with atomic_path(path) as temporary:
        if naming == "torchvision":
            safetensors.numpy.save_file(tensors, temporary, {METADATA_KEY: metadata})
        else:
            order = keras_files.layer_order(backbone.stage_sizes, preactivation=False)
            order += ["predictions"] if "head" in backbone.params else []
            keras_files.write_legacy(temporary, tensors, order, metadata=metadata)


def _existing_file(source: str) -> Path:
    path = expanded(source)
    if path.is_file():
        return path
    nearest = difflib.get_close_matches(source, CATALOG, n=1, cutoff=0.0)[0]
    raise UsageError(
        f"{source}: neither a file nor the name of published weights; did you mean {nearest}? "
        f"Known names: {', '.join(CATALOG)}"
    )


def _to_cache(converted: Path, backbone: Backbone) -> None:
    metadata = {METADATA_KEY: json.dumps(backbone.description)}
    tensors = flatten_dict({"params": backbone.params, "batch_stats": backbone.batch_stats}, sep="/")
    try:
        with atomic_path(converted) as temporary:
            safetensors.numpy.save_file(tensors, temporary, metadata)
            record(converted, checksum(temporary))
    except OSError as error:
        logging.warning("converted weights could not be cached, the next run converts them again: %s", error)


def _from_cache(converted: Path) -> Backbone | None:
    """None if the file is missing or damaged."""
    if not converted.exists() or checksum(converted) != recorded(converted):
        return None
    tensors, description = weight_files.read(converted)
    backbone = Backbone.from_description(json.loads(description))
    return dataclasses.replace(backbone, **unflatten_dict(tensors, sep="/"))
