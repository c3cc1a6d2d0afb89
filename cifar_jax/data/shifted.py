"""Published test sets of CIFAR under a shift, in files that the user has: CIFAR-10-C, CIFAR-100-C and CIFAR-10.1.

CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich 2019, doi.org/10.5281/zenodo.2535967): one file per corruption with
the test images at severity 1, then at 2 to 5, and labels.npy. CIFAR-10.1 (Recht et al. 2018,
github.com/modestyachts/CIFAR-10.1): 2,000 new images in cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cifar_jax.data.dataset import ImageSet
from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.files.untrusted import open_regular

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = 5
_NEW_IMAGES = "cifar10.1_v6"


def find(path: Path) -> str:
    """'CIFAR-C' or 'CIFAR-10.1', by the files in a folder.

    Raises:
        UsageError: not a folder with these files.
    """
    if (path / "labels.npy").is_file():
        return "CIFAR-C"
    if (path / f"{_NEW_IMAGES}_data.npy").is_file():
        return "CIFAR-10.1"
    raise UsageError(
        f"--suite={path}: must be corruptions, or a folder with the files of CIFAR-10-C or CIFAR-100-C (labels.npy, "
        f"fog.npy, ...) or of CIFAR-10.1 ({_NEW_IMAGES}_data.npy)"
    )


def read(path: Path, class_names: tuple[str, ...]) -> Iterator[tuple[str, ImageSet]]:
    """The sets of images in a folder with their names: of CIFAR-C, each corruption five times, severity 1 first.

    Images are read one set at a time.

    Args:
        path: a folder that `find` knows.
        class_names: of the run. The labels must be of the same number of classes; they are taken to be in this order.

    Raises:
        DataError: a file is missing or damaged, or has other shapes, types or classes.
    """
    if find(path) == "CIFAR-10.1":
        labels_N = _labels(path / f"{_NEW_IMAGES}_labels.npy", class_names)
        yield _NEW_IMAGES, ImageSet(_images(path / f"{_NEW_IMAGES}_data.npy", len(labels_N))[:], labels_N, class_names)
        return
    labels_N = _labels(path / "labels.npy", class_names)
    if len(labels_N) % SEVERITIES:
        raise DataError(f"{path / 'labels.npy'}: {len(labels_N):,} labels; expected five severities of equal size")
    if missing := [f"{name}.npy" for name in CORRUPTIONS if not (path / f"{name}.npy").is_file()]:
        raise DataError(f"{path}: lacks {', '.join(missing)}; unpack the whole archive of CIFAR-10-C")
    size = len(labels_N) // SEVERITIES
    for name in CORRUPTIONS:
        images_NHWC = _images(path / f"{name}.npy", len(labels_N))
        for start in range(0, len(labels_N), size):
            rows = slice(start, start + size)
            yield name, ImageSet(np.array(images_NHWC[rows]), labels_N[rows], class_names)


def _images(path: Path, size: int) -> np.ndarray:
    """uint8 (size, H, W, 3), in the file until it is used."""
    images_NHWC = _array(path)
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or images_NHWC.shape[::3] != (size, 3):
        raise DataError(f"{path} is {images_NHWC.dtype} {images_NHWC.shape}; expected uint8 ({size}, H, W, 3)")
    return images_NHWC


def _labels(path: Path, class_names: tuple[str, ...]) -> np.ndarray:
    labels_N = _array(path)
    if labels_N.dtype.kind not in "iu" or labels_N.ndim != 1 or not len(labels_N):
        raise DataError(f"{path} is {labels_N.dtype} {labels_N.shape}; expected integers (N,)")
    if labels_N.min() < 0 or labels_N.max() + 1 != len(class_names):
        raise DataError(
            f"{path} has labels {labels_N.min()} to {labels_N.max()}, the run has {len(class_names)} classes: "
            "evaluate a run that was trained on the same classes"
        )
    return labels_N.astype(np.int32)


def _array(path: Path) -> np.ndarray:
    try:
        open_regular(path).close()
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    except ValueError as error:  # damaged, or pickled objects
        raise DataError(f"{path} is not a readable array ({one_line(error)}); download it again") from error
