"""From a name or a path to a `Backbone`, and from a `Backbone` to a file that other programs read."""

import collections
import dataclasses
import difflib
import json
import logging
import re
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
from cifar_jax.pretrained import convert, header, hub_config, keras_files, weight_files
from cifar_jax.pretrained.backbone import METADATA_KEY, Backbone
from cifar_jax.pretrained.catalog import CATALOG, published_as
from cifar_jax.pretrained.families import KERAS_V1, TORCHVISION

_MAX_LISTED = 8
NAMINGS = {"torchvision": TORCHVISION, "keras": KERAS_V1}  # what `write` can write
CACHE_FORMAT = 5  # raise it when conversion changes: cached weights are then converted again


def load(name_or_path: str | Path) -> Backbone:
    """Published weights by their name in `catalog.CATALOG`, or the weights in a file with the names of any family.

    Downloads and converted weights are kept in `cache_root() / "pretrained"`, by their checksums. The preprocessing of
    a file is the one that it states itself (`write`), that of the catalog if it has the checksum of a published file,
    or that of the config.json next to it (timm, transformers); otherwise it is assumed from the names of the tensors.
    A file with torchvision's names is read as v1.5 (stride in the 3x3 convolutions) unless one of these says otherwise
    or its stem is wider than its first stage, as in the Caffe release.

    Raises:
        UsageError: neither a name in the catalog nor a file.
        DataError: the download failed, or the file is damaged, not a complete ResNet, or not the architecture that its
            name, checksum or config.json states.
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
    backbone = dataclasses.replace(backbone, source=source)
    if entry is not None:
        return _as_published(backbone, source, path)
    if backbone.states_preprocessing:
        return backbone
    if (name := published_as(path, sha256)) is not None:
        return _as_published(backbone, name, path)
    return _as_configured(backbone, path)


def read(path: Path, *, sha256: str) -> Backbone:
    """The weights in a file, without the cache; raises as `load`."""
    tensors, metadata, aside = weight_files.read(path)
    try:
        stated = None if METADATA_KEY in metadata else header.read(metadata)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    variant = stated.architecture.get("variant", "") if stated else ""
    family, architecture, params, batch_stats = convert.convert(tensors, where=str(path), variant=variant)
    weights = {"params": params, "batch_stats": batch_stats, "left_aside": _left_aside(tensors, aside)}
    preprocessing = family.preprocessing
    keys = "--config.model.input_mean and input_std"
    origin = f"assumed, as usual for {family.publisher}'s tensor names; for others set {keys}"
    if METADATA_KEY in metadata:
        origin = "stated in the file"
        try:
            preprocessing = Preprocessing.from_json(json.loads(metadata[METADATA_KEY]))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: its preprocessing cannot be read ({error!r}); write the file again") from error
    identity = {"source": str(path), "sha256": sha256, "channels": "BGR" if family.caffe else "RGB"}
    by_itself = {"preprocessing_from": origin, "states_preprocessing": METADATA_KEY in metadata}
    backbone = Backbone(**architecture, **weights, **identity, preprocessing=preprocessing, **by_itself)
    return _as_stated(backbone, stated, path, "stated in the file", states_preprocessing=True) if stated else backbone


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


def _left_aside(tensors: convert.Tensors, aside: list[str]) -> str:
    """Top-level names with their numbers of tensors, after what the reader left; counters of batches are no news."""
    names = [name for name in tensors if not name.endswith(".num_batches_tracked")]
    counts = collections.Counter(re.split(r"[./]", name)[0] for name in names)
    listed = aside + [f"{ascii(name)[1:-1][:40]} ({count})" for name, count in counts.most_common()]
    return ", ".join(listed[:_MAX_LISTED] + [f"{len(listed) - _MAX_LISTED} more"] * (len(listed) > _MAX_LISTED))


def _as_published(backbone: Backbone, name: str, path: Path) -> Backbone:
    """With the preprocessing of the catalog. Not every publisher states a hash, but every file has an architecture."""
    entry = CATALOG[name]
    expected = {field: getattr(entry, field) for field in backbone.architecture}
    if backbone.architecture != expected:
        raise DataError(f"{path}: {backbone.architecture}, but {entry.url} should be {expected}; delete the file")
    origin = "as published" if name == backbone.source else f"of {name}, which has the same checksum"
    stated = {"preprocessing_from": origin, "states_preprocessing": True}
    return dataclasses.replace(backbone, preprocessing=entry.preprocessing, **stated)


def _as_configured(backbone: Backbone, path: Path) -> Backbone:
    """Checked against the config.json next to the file, with the preprocessing that it states."""
    stated = hub_config.read(path)
    return _as_stated(backbone, stated, path, f"stated by {stated.place}") if stated else backbone


def _as_stated(backbone: Backbone, stated: hub_config.Stated, path: Path, origin: str, **fields) -> Backbone:
    found = backbone.architecture | {"stem_width": backbone.stem_width or backbone.width}
    differing = [f"{key} {value}" for key, value in stated.architecture.items() if found[key] != value]
    if differing:
        raise DataError(
            f"{path}: {backbone.name}, but {stated.place} states {', '.join(differing)}; use the weights that this "
            "describes, or remove it"
        )
    if stated.preprocessing is None:
        return backbone
    backbone = backbone.with_channels(stated.channels)
    return dataclasses.replace(backbone, preprocessing=stated.preprocessing, preprocessing_from=origin, **fields)


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
    tensors, metadata, _ = weight_files.read(converted)
    backbone = Backbone.from_description(json.loads(metadata[METADATA_KEY]))
    return dataclasses.replace(backbone, **unflatten_dict(tensors, sep="/"))
