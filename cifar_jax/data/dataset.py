"""The plain record in which every source of images ends."""

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """One split: decoded images and their labels.

    Attributes:
        images_NHWC: uint8, 0 to 255, RGB.
        labels_N: int32, each an index into `class_names`.
        class_names: one name per class, in label order.
    """

    images_NHWC: np.ndarray
    labels_N: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, indices_N: np.ndarray) -> "ImageSet":
        """The images at `indices_N`, in that order."""
        return ImageSet(self.images_NHWC[indices_N], self.labels_N[indices_N], self.class_names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of shape, pixels and labels: equal exactly where the data are equal."""
        digest = hashlib.sha256(repr(self.images_NHWC.shape).encode())
        digest.update(np.ascontiguousarray(self.images_NHWC))
        digest.update(np.ascontiguousarray(self.labels_N.astype("<i4")))
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set as loaded: training images (validation not yet split off) and test images.

    Attributes:
        name: as printed in every table, plot and file, e.g. 'CIFAR-10' or 'shapes (stand-in for cifar10)'.
        source: where it came from, a path or 'drawn by the program'.
        train: everything that may be trained or validated on.
        test: never seen by training or by any choice.
        validation: the source's own validation split, where it has one besides a test split.
        is_fallback: True where another data set was asked for and could not be had.
    """

    name: str
    source: str
    train: ImageSet
    test: ImageSet
    validation: ImageSet | None = None
    is_fallback: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names
