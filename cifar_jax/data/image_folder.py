"""An image folder `split/class/file`, or an archive of one."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from cifar_jax.data import archives, decode
from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.data.splits import assemble
from cifar_jax.errors import DataError, UsageError

TRAIN, TEST = "train", "test"
VALIDATION = ("val", "valid", "validation")
CLASS_NAMES = "class_names.txt"

Parts = tuple[str, ...]  # of a path within the source


def find(path: Path, *, name: str) -> Path | None:
    return path if path.is_dir() or archives.is_archive(path) else None


def read(path: Path, *, image_size: int) -> Dataset:
    """Decodes every image of an image folder or of a .tar, .tar.gz, .tar.xz or .zip of one.

    One outer folder, hidden files and other files than images are ignored. Splits are `train`, `test` and `val` (or
    `valid`, `validation`), see `splits.assemble`; classes at the top are all `train`, sorted by their folder names.
    `class_names.txt` beside the splits, with lines 'folder words', gives the names to print if it has every class.

    Args:
        image_size: pixels; images become this square, see `decode_image`. 0: all must have one size.

    Raises:
        DataError: a damaged archive, an unreadable image, a class folder without images, no training images, or a
            class that only the test or validation split has.
        UsageError: the images differ in size and `image_size` is 0.
    """
    images, folders, texts = _decode_all(path, image_size=image_size)
    outer = _outer_folder(images)
    by_split = _by_split(images, folders, outer, path)
    class_folders = sorted({folder for folder, _ in by_split[TRAIN]})
    class_names = _class_names(class_folders, texts.get((*outer, CLASS_NAMES), ""))
    sets = {
        split: _image_set(entries, class_folders, class_names, f"{path}: {split}")
        for split, entries in by_split.items()
    }
    validation = next((sets[name] for name in VALIDATION if name in sets), None)
    name = re.sub(r"\.(zip|tar|tgz|txz|tar\.gz|tar\.xz|tar\.bz2)$", "", path.name)
    return assemble(name=name, source=str(path), train=sets[TRAIN], validation=validation, test=sets.get(TEST))


def _decode_all(path: Path, *, image_size: int) -> tuple[dict[Parts, np.ndarray], set[Parts], dict[Parts, str]]:
    """Images uint8 (H, W, 3), folders, and the text of every class_names.txt."""
    images, folders, texts, sizes = {}, set(), {}, {}
    for name, data in archives.members(path, endings=(*decode.SUFFIXES, CLASS_NAMES)):
        parts = PurePosixPath(name).parts
        folders.update(parts[:depth] for depth in range(1, len(parts) + (data is None)))
        if data is None:
            continue
        if parts[-1] == CLASS_NAMES:
            texts[parts] = data.decode("utf-8", "replace")
        elif name.lower().endswith(decode.SUFFIXES):
            images[parts] = image = decode.decode_image(data, where=f"{path}/{name}", size=image_size)
            sizes.setdefault(f"{image.shape[1]}x{image.shape[0]}", name)
            if len(sizes) > 1:
                examples = " and ".join(f"{size} ({example})" for size, example in sizes.items())
                raise UsageError(
                    f"{path}: images of different sizes, {examples}; set --config.data.image_size=N to resize them all"
                )
    if not images:
        raise DataError(f"{path}: contains no images; expected split/class/file, e.g. train/cat/0001.png")
    return images, folders, texts


def _outer_folder(images: dict[Parts, np.ndarray]) -> Parts:
    """The folder that contains all splits or all classes; () if that is the source."""
    top = {parts[0] for parts in images}
    return () if len(top) > 1 or TRAIN in top or min(map(len, images)) < 3 else tuple(top)


def _by_split(
    images: dict[Parts, np.ndarray], folders: set[Parts], outer: Parts, path: Path
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """For each split its (class folder, image), sorted by path, so that the order in an archive does not matter."""
    top = len(outer)
    has_splits = any(parts[top] == TRAIN and len(parts) > top + 2 for parts in images)

    def inner(parts: Parts) -> Parts:
        """Split, class folder and the parts below."""
        return parts[top:] if has_splits else (TRAIN, *parts[top:])

    by_split: dict[str, list] = {}
    for parts in sorted(images):
        split, *below = inner(parts)
        if split in (TRAIN, TEST, *VALIDATION) and len(below) > 1:
            by_split.setdefault(split, []).append((below[0], images[parts]))
    if TRAIN not in by_split:
        raise DataError(f"{path}: no class folder with images; expected split/class/file or class/file")
    filled = {inner(parts)[:2] for parts in images}
    for parts in sorted(folders):
        class_folder = inner(parts)
        is_class = parts[:top] == outer and len(class_folder) == 2 and class_folder[0] in by_split
        if is_class and class_folder not in filled:
            raise DataError(f"{path}/{'/'.join(parts)}: class folder without images; remove it or fill it")
    return by_split


def _class_names(class_folders: list[str], text: str) -> tuple[str, ...]:
    """Names to print: those of class_names.txt if it has all classes, else those of the folders."""
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    words = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    if not words.keys() >= set(class_folders):
        return tuple(class_folders)
    names = [words[folder] for folder in class_folders]
    # two classes may share a name ('crane' is a bird and a machine)
    return tuple(
        f"{name} ({folder})" if names.count(name) > 1 else name
        for name, folder in zip(names, class_folders, strict=True)
    )


def _image_set(entries: list, class_folders: list[str], class_names: tuple[str, ...], where: str) -> ImageSet:
    folders = [folder for folder, _ in entries]
    if unknown := sorted(set(folders) - set(class_folders)):
        raise DataError(f"{where}/{unknown[0]}: no such class in train; rename or remove the folder")
    labels_N = np.searchsorted(class_folders, folders).astype(np.int32)
    return ImageSet(np.stack([image for _, image in entries]), labels_N, class_names)
