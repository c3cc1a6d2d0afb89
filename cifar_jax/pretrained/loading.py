"""From a name or a path to a `Backbone`, and from a `Backbone` to a file that others can read."""

import dataclasses
import difflib
import json
import logging
from pathlib import Path
from typing import Literal

import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.files import download
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.cache import cache_root
from cifar_jax.files.checksums import checksum, record, recorded
from cifar_jax.pretrained import convert, keras_files, weight_files
from cifar_jax.pretrained.backbone import ABOUT, Backbone, Preprocessing
from cifar_jax.pretrained.catalogue import CATALOGUE, Entry
from cifar_jax.pretrained.families import KERAS_V1, TORCHVISION

FORMAT = 1  # raise it when conversion changes: what the cache holds is then converted anew


def default_cache_dir() -> Path:
    """The folder `pretrained` of the cache."""
    return cache_root() / "pretrained"


def load(name_or_path: str | Path, *, cache_dir: Path | None = None) -> Backbone:
    """Published weights by their name in `catalogue.CATALOGUE`, or those in a file of any of its families.

    What was downloaded and converted is kept in the cache, by its hash. A file with torchvision's names is taken for
    v1.5, with the stride in the 3x3 convolutions: nothing in it says so.

    Args:
        cache_dir: `default_cache_dir()` where it is not given.

    Raises:
        UsageError: neither a name of the catalogue nor a file.
        DataError: it cannot be downloaded, is damaged, or holds no whole ResNet; names every tensor that does not fit.
    """
    source, cache_dir = str(name_or_path), cache_dir or default_cache_dir()
    entry = CATALOGUE.get(source)
    if entry is None:
        path = _existing(source)
        sha256 = checksum(path)
    else:
        path, sha256 = _fetch(entry, cache_dir / "downloads")
    converted = cache_dir / "converted" / f"{sha256}-{FORMAT}.safetensors"
    backbone = _from_cache(converted)
    if backbone is None:
        backbone = _read(path, sha256)
        _to_cache(converted, backbone)
    if entry is not None:
        _require_published(backbone, entry, path)
        backbone = dataclasses.replace(backbone, preprocessing=entry.preprocessing)
    return dataclasses.replace(backbone, source=source)


def write(backbone: Backbone, path: str | Path, *, naming: Literal["torchvision", "keras"]) -> None:
    """Writes weights under the names of torchvision (.safetensors; v1.5) or of Keras (legacy .h5; v1).

    `load(path)` gives the very same trees and preprocessing back; torchvision, timm and Keras read the file too.

    Raises:
        UsageError: the naming has no names for this variant.
    """
    path = Path(path)
    family = {"torchvision": TORCHVISION, "keras": KERAS_V1}[naming]
    if family.variant != backbone.variant:
        raise UsageError(f"{naming}'s names are for the variant {family.variant}, and this is {backbone.variant}")
    tensors = convert.foreign(backbone.params, backbone.batch_stats, family)
    about = json.dumps(dataclasses.asdict(backbone.preprocessing))
    with atomic_path(path) as temporary:
        if naming == "torchvision":
            save_file(tensors, temporary, {ABOUT: about})
        else:
            order = keras_files.layer_order(backbone.stage_sizes, preactivation=False)
            order += ["predictions"] if "head" in backbone.params else []
            keras_files.write_legacy(temporary, tensors, order, about=about)


def _fetch(entry: Entry, folder: Path) -> tuple[Path, str]:
    path = folder / "/".join(entry.url.split("/")[3:])  # files of different folders may have the same name
    try:
        return path, download.fetch(entry.url, path, published=entry.hash)
    except OSError as error:
        raise DataError(
            f"{entry.url} cannot be downloaded ({one_line(error)}); "
            "download it elsewhere and set --config.model.pretrained to the file"
        ) from error


def _existing(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    nearest = difflib.get_close_matches(source, CATALOGUE, n=1, cutoff=0.0)[0]
    raise UsageError(
        f"{source}: neither a file nor the name of published weights; did you mean {nearest}? "
        f"Known: {', '.join(CATALOGUE)}"
    )


def _read(path: Path, sha256: str) -> Backbone:
    tensors, about = weight_files.read(path)
    family, architecture, params, batch_stats = convert.convert(tensors, where=str(path))
    preprocessing = _preprocessing(about, where=path) if about else family.preprocessing
    return Backbone(
        **architecture,
        params=params,
        batch_stats=batch_stats,
        preprocessing=preprocessing,
        source=str(path),
        sha256=sha256,
    )


def _preprocessing(text: str, *, where: Path) -> Preprocessing:
    """As `write` noted it."""
    try:
        fields = json.loads(text)
        return Preprocessing(**fields | {name: tuple(map(float, fields[name])) for name in ("mean", "std")})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where}: its preprocessing cannot be read ({error!r}); write it again") from error


def _require_published(backbone: Backbone, entry: Entry, path: Path) -> None:
    """A hash is not published for every file; that it is the network it should be can be seen of each."""
    found = (backbone.variant, backbone.stage_sizes, backbone.width, backbone.block)
    if found != (entry.variant, (3, 4, 6, 3), 64, "bottleneck"):
        raise DataError(f"{path}: {found}, where {entry.url} should be a {entry.variant} ResNet-50; delete it")


_ABOUT_BACKBONE = ("variant", "stage_sizes", "width", "block", "source", "sha256")


def _to_cache(converted: Path, backbone: Backbone) -> None:
    fields = {name: getattr(backbone, name) for name in _ABOUT_BACKBONE}
    about = json.dumps(fields | {"preprocessing": dataclasses.asdict(backbone.preprocessing)})
    tensors = flatten_dict({"params": backbone.params, "batch_stats": backbone.batch_stats}, sep="/")
    try:
        with atomic_path(converted) as temporary:
            save_file(tensors, temporary, {ABOUT: about})
            record(converted, checksum(temporary))
    except OSError as error:
        logging.warning("converted weights could not be cached, the next run converts again: %s", error)


def _from_cache(converted: Path) -> Backbone | None:
    """None where it was never converted, or is damaged."""
    if not converted.exists() or checksum(converted) != recorded(converted):
        return None
    with safetensors.safe_open(converted, framework="numpy") as file:
        about = json.loads(file.metadata()[ABOUT])
        tensors = {path: file.get_tensor(path) for path in file.keys()}  # noqa: SIM118 (not a dict)
    tree = unflatten_dict(tensors, sep="/")
    about |= {"stage_sizes": tuple(about["stage_sizes"])}
    preprocessing = _preprocessing(json.dumps(about.pop("preprocessing")), where=converted)
    return Backbone(
        **about, params=tree["params"], batch_stats=tree.get("batch_stats", {}), preprocessing=preprocessing
    )
