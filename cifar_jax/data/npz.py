"""Arrays in one `.npz`, named as by Keras (x_train, y_train, ...) or images_train, labels_train, ..."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from cifar_jax.data.dataset import Dataset, ImageSet, require_stored_size
from cifar_jax.errors import DataError


def find(path: Path, *, name: str) -> Path | None:
    return path if path.suffix == ".npz" else None


def read(path: Path, *, image_size: int) -> Dataset:
    """Reads train and test, and validation (x_val, y_val or images_val, labels_val) if there is one.

    Images are uint8 (N, H, W, 3) RGB, labels integers (N,) or (N, 1) from 0; `class_names` is optional.

    Raises:
        DataError: a damaged file, a missing key, or a wrong dtype or shape.
        UsageError: `image_size` is not that of the images.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {key: members[key] for key in members.files}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz of plain arrays ({error}); write it again") from error

    images, labels = ("x", "y") if "x_train" in arrays else ("images", "labels")
    splits = ["train", "test"] + ["val"] * (f"{images}_val" in arrays)
    missing = [key for split in splits for key in (f"{images}_{split}", f"{labels}_{split}") if key not in arrays]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; expected x_train, y_train, x_test, y_test (uint8 images)")
    class_names = _class_names(arrays, f"{labels}_train", path)
    shape = arrays[f"{images}_train"].shape[1:]
    sets = [_image_set(arrays, f"{images}_{split}", f"{labels}_{split}", shape, class_names, path) for split in splits]
    return require_stored_size(Dataset(path.stem, str(path), *sets), image_size)


def _image_set(
    arrays: dict, key: str, labels_key: str, shape: tuple[int, ...], class_names: tuple[str, ...], path: Path
) -> ImageSet:
    images, labels = arrays[key], arrays[labels_key]
    is_rgb = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1:] == shape and shape[2] == 3
    if not is_rgb or not len(images):
        size = f"{shape[0]}, {shape[1]}" if len(shape) == 3 else "H, W"
        raise DataError(_wrong(path, key, images, f"uint8 (N, {size}, 3), N > 0"))
    count, classes = len(images), len(class_names)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise DataError(_wrong(path, labels_key, labels, f"integers ({count},)"))
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path}: {labels_key} has {labels.min()} to {labels.max()}; expected labels 0 to {classes - 1}"
        )
    return ImageSet(images, labels.reshape(count).astype(np.int32), class_names)


def _class_names(arrays: dict, labels_key: str, path: Path) -> tuple[str, ...]:
    if "class_names" not in arrays:
        labels = arrays[labels_key]
        if labels.dtype.kind not in "iu" or not labels.size:
            raise DataError(_wrong(path, labels_key, labels, "integers (N,)"))
        return tuple(str(label) for label in range(int(labels.max()) + 1))
    if arrays["class_names"].dtype.kind != "U" or arrays["class_names"].ndim != 1:
        raise DataError(_wrong(path, "class_names", arrays["class_names"], "strings (K,)"))
    return tuple(arrays["class_names"].tolist())


def _wrong(path: Path, key: str, array: np.ndarray, expected: str) -> str:
    return f"{path}: {key} is {array.dtype} {array.shape}; expected {expected}"
