"""Arrays in one `.npz`, named as by Keras (x_train, y_train, ...) or images_train, labels_train, ..."""

import logging
from pathlib import Path

import numpy as np

from cifar_jax.data.dataset import Dataset, ImageSet, require_stored_size
from cifar_jax.errors import DataError, one_line
from cifar_jax.files.arrays import read_npz
from cifar_jax.files.untrusted import open_regular

_SPLITS = ("train", "test", "val")
_NAMES = (("x", "y"), ("images", "labels"))
_EXPECTED = "x_train, y_train, x_test, y_test (uint8 images)"

log = logging.getLogger(__name__)


def find(path: Path, *, name: str) -> Path | None:
    return path if path.suffix == ".npz" else None


def read(path: Path, *, image_size: int) -> Dataset:
    """Reads train and test, and validation (x_val, y_val or images_val, labels_val) if there is one.

    Images are uint8 (N, H, W, 3) RGB; (N, 3, H, W) and gray (N, H, W) or (N, H, W, 1) are converted, which is logged.
    Labels are integers (N,) or (N, 1) from 0; `class_names` is optional. Other arrays in the file are not read.

    Raises:
        DataError: a damaged file, a missing key, a wrong dtype or shape, or a class without training images.
        UsageError: `image_size` is not that of the images.
    """
    known = {f"{name}_{split}" for names in _NAMES for name in names for split in _SPLITS} | {"class_names"}
    with open_regular(path) as file:
        try:
            arrays = read_npz(file, names=known)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except Exception as error:  # damage makes zipfile and numpy raise almost any exception
            raise DataError(f"{path}: not a readable .npz ({one_line(error)}); write it again with np.savez") from error
    images, labels = _NAMES[0] if "x_train" in arrays else _NAMES[1]
    splits = [split for split in _SPLITS if split != "val" or f"{images}_val" in arrays]
    if missing := [key for split in splits for key in (f"{images}_{split}", f"{labels}_{split}") if key not in arrays]:
        raise DataError(f"{path}: lacks {', '.join(missing)}; expected {_EXPECTED}")
    for split in splits:
        arrays[f"{images}_{split}"] = _rgb(arrays[f"{images}_{split}"], f"{images}_{split}", path)
        arrays[f"{labels}_{split}"] = _integers(arrays, f"{images}_{split}", f"{labels}_{split}", path)
    class_names = _class_names(arrays, f"{labels}_train", path)
    shape = arrays[f"{images}_train"].shape[1:]
    sets = [_image_set(arrays, f"{images}_{split}", f"{labels}_{split}", shape, class_names, path) for split in splits]
    return require_stored_size(Dataset(path.stem, str(path), *sets), image_size)


def _rgb(images: np.ndarray, key: str, path: Path) -> np.ndarray:
    """uint8 (N, H, W, 3), or DataError with the conversion that only the user can choose."""
    fixes = {
        "f": f"convert it: ({key} * 255).round().astype(np.uint8) if its values are 0 to 1",
        "b": f"convert it: {key}.astype(np.uint8) * 255",
        "iu": f"convert it: {key}.astype(np.uint8) if its values are 0 to 255",
    }
    if images.dtype != np.uint8:
        fix = next((fix for kinds, fix in fixes.items() if images.dtype.kind in kinds), "write it again")
        raise DataError(f"{_shown(path, key, images)}; expected uint8 (N, H, W, 3): {fix}")
    if 0 in images.shape or images.ndim < 3:
        flat = images.ndim == 2 and images.shape[1] == 3072
        fix = f": convert it: {key}.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) if it is CIFAR" if flat else ""
        raise DataError(f"{_shown(path, key, images)}; expected uint8 (N, H, W, 3), N > 0{fix}")
    if images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1):
        log.info("%s: %s is gray %s; each value is used for red, green and blue", path, key, images.shape)
        return np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=3)
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        log.info("%s: %s is %s; its second axis is taken for the channels", path, key, images.shape)
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if images.ndim != 4 or images.shape[3] != 3:
        fix = f": drop the alpha channel: {key}[..., :3]" if images.shape[3:] == (4,) else ""
        raise DataError(f"{_shown(path, key, images)}; expected uint8 (N, H, W, 3){fix}")
    return images


def _integers(arrays: dict[str, np.ndarray], images_key: str, key: str, path: Path) -> np.ndarray:
    """Labels (N,) >= 0, or DataError with the conversion."""
    labels, count = arrays[key], len(arrays[images_key])
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    fix = {
        "f": f": convert them: {key}.astype(int)",
        "b": f": convert them: {key}.astype(int)",
        "U": f": convert them: class_names, {key} = np.unique({key}, return_inverse=True)",
    }.get(labels.dtype.kind, "")
    if one_hot:
        fix = f": convert them: {key}.argmax(1) if they are one-hot"
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise DataError(f"{_shown(path, key, labels)}; expected integers ({count},){fix}")
    if labels.min() < 0:
        raise DataError(f"{path}: {key} has labels from {labels.min()}; expected labels from 0")
    return labels.reshape(count)


def _class_names(arrays: dict[str, np.ndarray], labels_key: str, path: Path) -> tuple[str, ...]:
    """One for each label; without `class_names`, the numbers, each of which must occur in training."""
    labels_N, names = arrays[labels_key], arrays.get("class_names")
    if names is None:
        used = np.unique(labels_N)
        if used[-1] >= len(used):
            absent = next(number for number in range(len(used)) if number != used[number])
            raise DataError(
                f"{path}: {labels_key} has {len(used)} classes, labels up to {used[-1]}, and none with {absent}; add "
                f"class_names, or number them: np.unique({labels_key}, return_inverse=True)[1]"
            )
        return tuple(map(str, range(len(used))))
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) > len(labels_N):
        raise DataError(f"{_shown(path, 'class_names', names)}; expected strings (K,), no more than images")
    return tuple(names.tolist())


def _image_set(
    arrays: dict[str, np.ndarray],
    key: str,
    labels_key: str,
    shape: tuple[int, ...],
    class_names: tuple[str, ...],
    path: Path,
) -> ImageSet:
    images_NHWC, labels_N = arrays[key], arrays[labels_key]
    if images_NHWC.shape[1:] != shape:
        raise DataError(f"{_shown(path, key, images_NHWC)}; expected uint8 (N, {', '.join(map(str, shape))})")
    if labels_N.max() >= len(class_names):
        raise DataError(
            f"{path}: {labels_key} has {labels_N.min()} to {labels_N.max()}; "
            f"expected labels 0 to {len(class_names) - 1}"
        )
    return ImageSet(images_NHWC, labels_N.astype(np.int32), class_names)


def _shown(path: Path, key: str, array: np.ndarray) -> str:
    return f"{path}: {key} is {array.dtype} {array.shape}"
