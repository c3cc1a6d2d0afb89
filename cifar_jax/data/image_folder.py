"""An image folder `split/class/file`, or an archive of one."""

from pathlib import Path, PurePosixPath

import numpy as np

from cifar_jax.data import archives, decode
from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.data.splits import assemble
from cifar_jax.errors import DataError, UsageError

TRAIN, TEST = "train", "test"
VALIDATION = ("val", "valid", "validation")
CLASS_NAMES = "class_names.txt"

Images = dict[tuple[str, ...], np.ndarray]  # by the parts of their path; uint8 (H, W, 3)


def find(path: Path, *, name: str) -> Path | None:
    return path if path.is_dir() or archives.is_archive(path) else None


def read(path: Path, *, image_size: int) -> Dataset:
    """Decodes every image of an image folder or of a .tar, .tar.gz, .tar.xz or .zip of one.

    One outer folder, hidden files and other files than images are ignored. Splits: `train`, `test` and `val` (or
    `valid`, `validation`) as they are; without `test`, `val` is the test split; with neither, or with classes at the
    top, a stratified sixth is held out for test (see `splits.assemble`). Classes are in the order of their sorted
    folder names. `class_names.txt` beside the split folders, with lines 'folder words', gives the names to print if it
    covers every class.

    Args:
        image_size: pixels; images become this square, see `decode_image`. 0: all must have one size.

    Raises:
        DataError: a damaged archive, an unreadable image, a class folder without images, no training
            images, or a class that only the test or validation split has.
        UsageError: the images differ in size and `image_size` is 0.
    """
    images, folders, texts = _decode_all(path, image_size=image_size)
    images, folders, texts = _unwrapped(images, folders, texts)
    by_split = _splits(images, folders, path)
    class_folders = sorted({name for name, _, _ in by_split[TRAIN]})
    class_names = _class_names(class_folders, texts.get((CLASS_NAMES,), ""))
    sets = {
        split: _image_set(entries, class_folders, class_names, f"{path}: {split}")
        for split, entries in by_split.items()
    }
    validation = next((sets[name] for name in VALIDATION if name in sets), None)
    return assemble(name=_stem(path), source=str(path), train=sets[TRAIN], validation=validation, test=sets.get(TEST))


def _decode_all(path: Path, *, image_size: int):
    """Images, folders, and the text of every class_names.txt, by the parts of their paths."""
    images: Images = {}
    folders: set[tuple[str, ...]] = set()
    texts: dict[tuple[str, ...], str] = {}
    first = None
    for name, data in archives.members(path, endings=(*decode.SUFFIXES, CLASS_NAMES)):
        parts = PurePosixPath(name).parts
        folders.update(parts[:depth] for depth in range(1, len(parts) + (data is None)))
        if data is None:
            continue
        if parts[-1] == CLASS_NAMES:
            texts[parts] = data.decode("utf-8", "replace")
        elif name.lower().endswith(decode.SUFFIXES):
            images[parts] = image = decode.decode_image(data, where=f"{path}/{name}", size=image_size)
            first = first or (name, image.shape)
            if image.shape != first[1]:
                raise UsageError(
                    f"{path}: images of different sizes, {_size(first[1])} ({first[0]}) and "
                    f"{_size(image.shape)} ({name}); set --config.data.image_size=N to resize them all"
                )
    if not images:
        raise DataError(f"{path}: contains no images; expected split/class/file, e.g. train/cat/0001.png")
    return images, folders, texts


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _unwrapped(images: Images, folders: set, texts: dict):
    """The same without an outer folder that contains all splits or all classes."""
    top = {parts[0] for parts in images}
    if len(top) > 1 or TRAIN in top or min(len(parts) for parts in images) < 3:
        return images, folders, texts
    return (
        {parts[1:]: image for parts, image in images.items()},
        {parts[1:] for parts in folders if parts[0] in top and len(parts) > 1},
        {parts[1:]: text for parts, text in texts.items() if len(parts) > 1},
    )


def _splits(images: Images, folders: set, path: Path) -> dict[str, list]:
    """For each split its (class folder, file, image), sorted, so that the order in an archive does not matter."""
    has_splits = any(parts[0] == TRAIN and len(parts) > 2 for parts in images)
    if not has_splits:
        images = {(TRAIN, *parts): image for parts, image in images.items()}
        folders = {(TRAIN, *parts) for parts in folders}
    splits: dict[str, list] = {}
    for parts in sorted(images):
        if parts[0] in (TRAIN, TEST, *VALIDATION) and len(parts) > 2:
            splits.setdefault(parts[0], []).append((parts[1], parts[2:], images.pop(parts)))
    if TRAIN not in splits:
        raise DataError(f"{path}: no class folder with images; expected split/class/file or class/file")
    for split, entries in splits.items():
        filled = {name for name, _, _ in entries}
        for parts in sorted(folders):
            if len(parts) == 2 and parts[0] == split and parts[1] not in filled:
                name = "/".join(parts if has_splits else parts[1:])
                raise DataError(f"{path}/{name}: class folder without images; remove it or fill it")
    return splits


def _class_names(class_folders: list[str], text: str) -> tuple[str, ...]:
    """Names to print: those of class_names.txt if it has all classes, else those of the folders."""
    words = dict(line.split(maxsplit=1) for line in text.splitlines() if len(line.split(maxsplit=1)) == 2)
    if not all(folder in words for folder in class_folders):
        return tuple(class_folders)
    names = [words[folder].strip() for folder in class_folders]
    # two classes may share a name ('crane' is a bird and a machine)
    return tuple(
        f"{name} ({folder})" if names.count(name) > 1 else name
        for name, folder in zip(names, class_folders, strict=True)
    )


def _image_set(entries: list, class_folders: list[str], class_names: tuple[str, ...], where: str) -> ImageSet:
    label_of = {folder: label for label, folder in enumerate(class_folders)}
    for name, _, _ in entries:
        if name not in label_of:
            raise DataError(f"{where}/{name}: no such class in train; rename or remove the folder")
    labels_N = np.array([label_of[name] for name, _, _ in entries], np.int32)
    images_NHWC = np.stack([image for _, _, image in entries])
    return ImageSet(images_NHWC, labels_N, class_names)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".zip", ".tar", ".tgz", ".txz", ".tar.gz", ".tar.xz", ".tar.bz2"):
        name = name.removesuffix(suffix)
    return name
