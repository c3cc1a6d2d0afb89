"""What every data source is read into."""

import dataclasses
import functools
import hashlib

import numpy as np

from cifar_jax.data.encoded import EncodedImages
from cifar_jax.errors import DataError, UsageError, printable

ORIGIN = "from the splits of the source"


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """One split: images and their labels."""

    images_NHWC: np.ndarray | EncodedImages  # uint8, 0 to 255, RGB; the latter are decoded when they are read
    labels_N: np.ndarray  # int32, indices into class_names
    class_names: tuple[str, ...]  # in label order

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, indices_N: np.ndarray) -> "ImageSet":
        """The images at `indices_N`, in that order."""
        return ImageSet(self.images_NHWC.take(indices_N, axis=0), self.labels_N[indices_N], self.class_names)

    @property
    def is_streamed(self) -> bool:
        """Whether the images are decoded when they are read."""
        return isinstance(self.images_NHWC, EncodedImages)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of shape, pixels and labels; of streamed images, names and sizes of the files for the pixels."""
        sha256 = hashlib.sha256(repr(self.images_NHWC.shape).encode())
        sha256.update(self.images_NHWC.identity if self.is_streamed else np.ascontiguousarray(self.images_NHWC))
        sha256.update(np.ascontiguousarray(self.labels_N.astype("<i4")))
        return sha256.hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set as loaded; `experiment.assemble` then splits validation images off."""

    name: str  # as printed in every table, plot and file, e.g. 'CIFAR-10' or 'shapes (stand-in for cifar10)'
    source: str  # a path, or 'drawn by the program'
    train: ImageSet  # for training and validation
    test: ImageSet  # used by neither training nor any choice
    validation: ImageSet | None = None  # the source's own, if it has one besides a test split
    is_fallback: bool = False  # whether these images replace a data set that was not found
    origin: str = ORIGIN  # how the splits came about
    passed_over: tuple[str, ...] = ()  # what the source holds besides, in words
    warnings: tuple[str, ...] = ()  # about images that are not used, one line each

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    def is_streamed(self) -> bool:
        """Whether the images are decoded when they are read."""
        return self.train.is_streamed

    @property
    def nbytes(self) -> int:
        """Of all images, decoded."""
        return sum(images.images_NHWC.nbytes for images in self.splits.values())

    @property
    def splits(self) -> dict[str, ImageSet]:
        """The images of 'train', 'validation' (if there are any) and 'test'."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images for name, images in splits.items() if images is not None}

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {len(images):,}" for name, images in self.splits.items())
        passed_over = f"; passed over: {', '.join(self.passed_over)}" if self.passed_over else ""
        classes = f"{len(self.class_names)} classes"
        return printable(f"{self.name}: {classes}, {counts} ({self.origin}){passed_over}; source: {self.source}")


def require_stored_size(dataset: Dataset, image_size: int) -> Dataset:
    """The same data set; UsageError if it has another size than `image_size` (0 = any): arrays are not resized."""
    height, width = dataset.train.images_NHWC.shape[1:3]
    if image_size and (height, width) != (image_size, image_size):
        raise UsageError(
            f"{dataset.source}: arrays of {width}x{height} pixels; --config.data.image_size is for image files, "
            f"use --config.model.image_size={image_size}"
        )
    return dataset


def require_two_classes(dataset: Dataset) -> Dataset:
    """The same data set; DataError if all its training images have one label: there is nothing to learn."""
    labels = np.unique(dataset.train.labels_N)
    if len(labels) < 2:
        count = f"all {len(dataset.train):,} training images are of one class, {dataset.class_names[labels[0]]}"
        raise DataError(f"{dataset.source}: {count}; training needs images of two classes or more")
    return dataset
