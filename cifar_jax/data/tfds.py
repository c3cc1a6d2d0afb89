"""TensorFlow Datasets without TensorFlow: read prepared directories, and prepare CIFAR.

tensorflow_datasets is imported inside the functions, because that takes a second.
"""

import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_jax.data import cifar_archive, decode
from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.data.splits import assemble
from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.files import download
from cifar_jax.files.cache import cache_root, expanded
from cifar_jax.files.untrusted import open_regular

VERSIONS = {"cifar10": cifar_archive.CIFAR10_PYTHON, "cifar100": cifar_archive.CIFAR100_PYTHON}
URL = "https://www.cs.toronto.edu/~kriz/"
CHUNK = 1000  # records per read
_MOST_CLASSES = 1_000_000


class Unavailable(Exception):
    """The data could not be downloaded and prepared; the message is the cause."""


def default_data_dir() -> Path:
    """Where TFDS itself keeps its data sets."""
    if folder := os.environ.get("TFDS_DATA_DIR"):
        return expanded(folder)
    try:
        return expanded("~/tensorflow_datasets")
    except UsageError:  # no home directory
        return cache_root() / "tensorflow_datasets"


def find(path: Path, *, name: str) -> Path | None:
    """The version directory (with dataset_info.json) that `path` is, or the newest in it or in path/name."""
    folders = (path, *_newest_first(path), *_newest_first(path / name))
    return next((folder for folder in folders if (folder / "dataset_info.json").is_file()), None)


def _newest_first(path: Path) -> list[Path]:
    versions = [child for child in path.glob("*.*.*") if re.fullmatch(r"\d+\.\d+\.\d+", child.name)]
    return sorted(versions, key=lambda child: [int(number) for number in child.name.split(".")], reverse=True)


def read(path: Path, *, image_size: int) -> Dataset:
    """Reads the version directory `path` of any TFDS data set with the features `image` and `label`.

    Args:
        image_size: pixels; images become this square, see `decode_image`. 0: all must have one size.

    Raises:
        DataError: stored as TFRecord (only TensorFlow reads that), other features, or damaged.
        UsageError: the images differ in size and `image_size` is 0.
    """
    import tensorflow_datasets as tfds

    if not (any(path.glob("*array_record*")) or any(path.glob("*.parquet*"))):
        raise DataError(
            f"{path}: stored as TFRecord, which only TensorFlow reads; where that is installed, convert it: "
            f"tfds convert_format --dataset_version_dir={path} --out_file_format=array_record --out_dir=NEW"
        )
    try:
        _require_own_classes(path / "features.json")
        builder = tfds.builder_from_directory(path)
        features, splits = dict(builder.info.features), tuple(builder.info.splits)
    except DataError:
        raise
    except Exception as error:  # json, protobuf and tfds raise anything on damaged files
        raise DataError(f"{path}: damaged TFDS directory ({one_line(error)}); prepare it again") from error
    if not {"image", "label"} <= set(features) or "train" not in splits:
        raise DataError(f"{path}: features {', '.join(features)[:200]}; expected image, label and a split train")
    for name, kind in {"image": tfds.features.Image, "label": tfds.features.ClassLabel}.items():
        if not isinstance(features[name], kind):
            found = type(features[name]).__name__
            raise DataError(f"{path}: the feature {name} is {found}; expected {kind.__name__}, prepare it with that")
    if features["label"].num_classes > _MOST_CLASSES:
        raise DataError(f"{path}: {features['label'].num_classes:,} classes, at most {_MOST_CLASSES:,} are read")
    class_names = tuple(features["label"].names)
    image_sets = {
        split: _read_split(builder, split, class_names, image_size=image_size, where=f"{path}: {split}")
        for split in ("train", "validation", "test")
        if split in splits
    }
    others = (split for split in splits if split not in image_sets)
    notes = tuple(f"split {split} ({builder.info.splits[split].num_examples:,} images)" for split in others)
    warnings = tuple(f"{path}: {note} not used; train, validation and test are read" for note in notes)
    return assemble(name=builder.name, source=str(path), **image_sets, passed_over=notes, warnings=warnings)


def _require_own_classes(features: Path) -> None:
    """TFDS imports whatever module features.json names; this raises DataError unless it is one of TFDS itself."""

    def check(pairs: list[tuple[str, object]]) -> None:
        for key, value in pairs:
            is_class = key in ("pythonClassName", "python_class_name") or (key == "type" and "." in str(value))
            if is_class and not str(value).startswith("tensorflow_datasets."):
                raise DataError(
                    f"{features}: a class from outside TFDS ({str(value)[:80]!a}); do not use this directory"
                )

    with open_regular(features) as file:
        json.load(file, object_pairs_hook=check)


def _read_split(builder, split: str, class_names: tuple[str, ...], *, image_size: int, where: str) -> ImageSet:
    import tensorflow_datasets as tfds

    images, labels = [], []
    try:
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for start in range(0, len(source), CHUNK):
            for record in source.__getitems__(range(start, min(start + CHUNK, len(source)))):
                images.append(decode.decode_image(record["image"], where=where, size=image_size))
                labels.append(record["label"])
    except DataError:
        raise
    except Exception as error:  # array_record's C++ reader has no exception type
        raise DataError(f"{where}: damaged ({one_line(error)}); prepare it again") from error
    if len({image.shape for image in images}) > 1:
        raise UsageError(f"{where}: images of different sizes; set --config.data.image_size=N")
    if not images or min(labels) < 0 or max(labels) >= len(class_names):
        found = f"labels {min(labels)} to {max(labels)}" if labels else "no images"
        raise DataError(f"{where}: {found}; expected images with labels 0 to {len(class_names) - 1}")
    return ImageSet(np.stack(images), np.array(labels, np.int32), class_names)


def download_and_prepare(name: str) -> Path:
    """Downloads cifar10 or cifar100 into TFDS's own directory and returns the version directory.

    Raises:
        Unavailable: no network, no answer within 10 s, a wrong checksum, or no space.
    """
    version, data_dir = VERSIONS[name], default_data_dir()
    archive = data_dir / "downloads" / version.archive
    try:
        download.fetch(URL + version.archive, archive, published=f"md5:{version.md5}")
        return prepare(name, archive=archive, data_dir=data_dir)
    except (OSError, DataError) as error:
        raise Unavailable(one_line(error)) from error


def prepare(name: str, *, archive: Path, data_dir: Path) -> Path:
    """Writes `archive` (any published version of `name`, also unpacked) as TFDS's own data set `name`, as ArrayRecord.

    The stock `tfds.data_source(name, data_dir=data_dir, download=False)` reads the result. The stock builder needs
    TensorFlow to unpack, to read the files and to encode PNG; the subclass replaces the two methods that do so. Keys,
    and thus the order of the records, are the stock ones.
    """
    import tensorflow_datasets as tfds

    stock = tfds.builder_cls(name)
    train, test, class_names = cifar_archive.read_contents(archive)

    class WithoutTensorFlow(stock, skip_registration=True):
        name = stock.name

        def _split_generators(self, dl_manager):
            for label, names in zip(self._cifar_info.label_keys, class_names, strict=True):
                self.info.features[label].names = list(names)
            return {
                "train": self._generate_examples("train_", train),
                "test": self._generate_examples("test_", test),
            }

        def _generate_examples(self, split_prefix, filepaths):
            images_NHWC, labels_LN = filepaths
            for index, (image_HWC, labels_L) in enumerate(zip(images_NHWC, labels_LN.T, strict=True)):
                png = io.BytesIO()
                Image.fromarray(image_HWC).save(png, "PNG")
                png.seek(0)
                labels = dict(zip(self._cifar_info.label_keys, labels_L.tolist(), strict=True))
                yield index, {"id": f"{split_prefix}{index:05d}", "image": png, **labels}

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = WithoutTensorFlow(data_dir=data_dir, file_format="array_record")
    # The default mode takes any existing directory, even an empty one, for the prepared data.
    rebuild = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
    builder.download_and_prepare(download_config=rebuild)
    return Path(builder.data_dir)
