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
    sets = [
        ImageSet(
            _images(arrays, f"{images}_{split}", arrays[f"{images}_train"].shape[1:], path),
            _labels(arrays, f"{labels}_{split}", len(arrays[f"{images}_{split}"]), len(class_names), path),
            class_names,
        )
        for split in splits
    ]
    return require_stored_size(Dataset(path.stem, str(path), *sets), image_size)


def _images(arrays: dict, key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    images = arrays[key]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1:] != shape:
        size = f"{shape[0]}, {shape[1]}" if len(shape) == 3 else "H, W"
        raise DataError(_wrong(path, key, images, f"uint8 (N, {size}, 3)"))
    if not len(images):
        raise DataError(f"{path}: {key} is empty; expected at least one image")
    return images


def _labels(arrays: dict, key: str, count: int, classes: int, path: Path) -> np.ndarray:
    labels = arrays[key]
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise DataError(_wrong(path, key, labels, f"integers ({count},)"))
    labels_N = labels.reshape(count)
    if count and (labels_N.min() < 0 or labels_N.max() >= classes):
        raise DataError(f"{path}: {key} holds {labels_N.min()} to {labels_N.max()}; expected labels 0 to {classes - 1}")
    return labels_N.astype(np.int32)


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
