"""The layout of an image folder: which folders are splits and which are classes, decided before any image is read.

What cannot be decided is an error that says how to rename the folders.
"""

import collections
import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from cifar_jax.data.split_names import TEST, TRAIN, UNLABELED, VALIDATION, is_filler, split_names
from cifar_jax.errors import DataError

CLASS_NAMES = "class_names.txt"
EXPECTED = "expected split/class/file, e.g. train/cat/0001.png, or class/file"

Parts = tuple[str, ...]  # of a path within the source
Labeled = list[tuple[str, Parts]]  # class folder and image


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Images that are not used."""

    place: Parts  # a folder
    why: str
    fix: str
    images: Sequence[Parts]


@dataclasses.dataclass
class Layout:
    """What the folders of a source are.

    Attributes:
        splits: class folder and path of each image of 'train', 'validation' and 'test', sorted by path.
        origin: where the splits come from, in words.
        outer: the folder that contains all splits or all classes.
        class_parents: the folders that contain the class folders.
        left_out: images that are in no split.
        warnings: assumptions to check, one line each.
    """

    splits: dict[str, Labeled]
    origin: str
    outer: Parts
    class_parents: set[Parts]
    left_out: list[LeftOut]
    warnings: list[str] = dataclasses.field(default_factory=list)


class _Refused(Exception):
    def __init__(self, place: Parts, problem: str):
        super().__init__(problem)
        self.place = place


def arrange(path: Path, images: Sequence[Parts], texts: Sequence[Parts], read_text: Callable[[Parts], str]) -> Layout:
    """Finds the splits and classes of images, by their paths alone.

    Args:
        path: of the source, for errors.
        images: sorted paths within the source.
        texts: paths of the text files, for the labels of images without class folders; read with `read_text`.

    Raises:
        DataError: no classes; folders that may be splits or classes; a split whose images have no class.
    """
    try:
        return _arrange(images, texts, read_text)
    except _Refused as error:
        raise DataError(f"{'/'.join((str(path), *error.place))}: {error}") from error


def _arrange(images: Sequence[Parts], texts: Sequence[Parts], read_text: Callable[[Parts], str]) -> Layout:
    outer = _outer(images)
    tops, outside = collections.defaultdict(list), []
    for parts in images:
        is_inside = parts[: len(outer)] == outer and len(parts) > len(outer) + 1
        (tops[parts[len(outer)]] if is_inside else outside).append(parts)
    if not tops:
        raise _Refused((), f"no class folder with images; {EXPECTED}")
    named = split_names(tops)
    folders = [_Folder(outer, top, named.get(top), paths) for top, paths in tops.items()]
    if any(folder.split == TRAIN and folder.has_classes for folder in folders):
        layout = _by_split(folders, texts, read_text)
    elif _are_split_within_classes(folders):
        layout = _by_class_and_split(folders)
    else:
        layout = _by_class(folders)
    if outside:
        layout.left_out.append(LeftOut((), "outside of the class folders", "move or remove them", outside))
    _require_classes_of_train(layout.splits)
    for labeled in layout.splits.values():
        labeled.sort(key=lambda entry: entry[1])
    return layout


class _Folder:
    """A folder beside others that are splits or classes.

    Attributes:
        path: its parts.
        split: which split its name means, or None.
        images: all below it.
        class_parent: the folder within it that would contain class folders, below doubled wrappers and 'images'.
    """

    def __init__(self, outer: Parts, name: str, split: str | None, images: list[Parts]):
        self.name, self.split, self.images = name, split, images
        self.outer, self.path = outer, (*outer, name)
        depth = len(self.path)
        while all(len(parts) > depth + 1 for parts in images) and self._is_wrapper({parts[depth] for parts in images}):
            depth += 1
        self.class_parent = images[0][:depth]

    def _is_wrapper(self, names: set[str]) -> bool:
        if len(names) > 1:
            return False
        (name,) = names
        is_same_split = self.split is not None and split_names(names).get(name) == self.split
        return name == self.name or is_same_split or is_filler(name)

    @property
    def labeled(self) -> Labeled:
        depth = len(self.class_parent)
        return [(parts[depth], parts) for parts in self.images if len(parts) > depth + 1]

    @property
    def classes(self) -> set[str]:
        return {name for name, _ in self.labeled}

    @property
    def has_classes(self) -> bool:
        return bool(self.classes)

    @property
    def without_class(self) -> list[Parts]:
        return [parts for parts in self.images if len(parts) == len(self.class_parent) + 1]


def _outer(images: Sequence[Parts]) -> Parts:
    """The folder that contains all splits or all classes; () if that is the source."""
    outer: Parts = ()
    while True:
        inside = [parts for parts in images if parts[: len(outer)] == outer and len(parts) > len(outer) + 1]
        tops = {parts[len(outer)] for parts in inside}
        deeper = {parts[len(outer) + 1] for parts in inside if len(parts) > len(outer) + 2}
        contains_train = TRAIN in split_names(deeper).values()
        if len(tops) != 1 or not deeper or (split_names(tops) and not contains_train):
            return outer
        outer = (*outer, *tops)


def _by_split(folders: list[_Folder], texts: Sequence[Parts], read_text: Callable[[Parts], str]) -> Layout:
    (train, *others) = sorted(folders, key=lambda folder: folder.split != TRAIN)
    layout = Layout({TRAIN: train.labeled}, "from split folders", train.outer, {train.class_parent}, [])
    _leave_out_without_class(train, layout)
    for folder in others:
        if folder.split in layout.splits:
            names = " and ".join(f"{other.name}/" for other in folders if other.split == folder.split)
            raise _Refused(train.outer, f"{names} are both named like the {folder.split} split; merge or rename them")
        if folder.split in (VALIDATION, TEST):
            _add_split(folder, train.classes, layout, texts, read_text)
        elif folder.split == UNLABELED:
            layout.left_out.append(LeftOut(folder.path, "without labels", "use --mode predict for them", folder.images))
    for folder in others:
        if folder.split is None:
            _leave_out_unknown(folder, train.classes, layout)
    return layout


def _add_split(
    folder: _Folder,
    classes: set[str],
    layout: Layout,
    texts: Sequence[Parts],
    read_text: Callable[[Parts], str],
) -> None:
    """Adds a validation or test split with its labels, or leaves out a test split that has none."""
    if folder.has_classes and (folder.classes & classes or len(folder.classes) > 1):
        layout.splits[folder.split] = folder.labeled
        layout.class_parents.add(folder.class_parent)
        _leave_out_without_class(folder, layout)
        return
    annotations = [
        parts
        for parts in texts
        if parts[: len(folder.path)] == folder.path and fnmatch.fnmatch(parts[-1].lower(), "*annotations*.txt")
    ]
    if len(annotations) == 1:
        layout.splits[folder.split] = _annotated(folder, annotations[0], read_text(annotations[0]))
        layout.origin += f", labels of {folder.name} from {annotations[0][-1]}"
    elif folder.split == TEST:
        fix = "to test on them, sort them into folders of their classes"
        layout.left_out.append(LeftOut(folder.path, "in no folder of a class", fix, folder.images))
    else:
        raise _Refused(
            folder.path,
            f"{len(folder.images):,} images in no folder of a class; sort them into {folder.name}/CLASS/, or move the "
            "folder away",
        )


def _annotated(folder: _Folder, file: Parts, text: str) -> Labeled:
    """The images with the classes that a text gives them: lines of an image's file name and its class."""
    labels = {}
    for number, line in enumerate(text.split("\n"), start=1):
        words = [word.strip() for word in (line.split("\t") if "\t" in line else line.split())]
        if any(words):
            if len(words) < 2:
                raise _Refused(file, f"line {number} has no class; expected the name of an image and its class")
            labels[words[0].rpartition("/")[2]] = words[1]
    if missing := [parts for parts in folder.images if parts[-1] not in labels]:
        counts = f"{len(missing):,} of {len(folder.images):,} images"
        raise _Refused(file, f"no line for {counts}, such as {missing[0][-1]}; add or move them")
    return [(labels[parts[-1]], parts) for parts in folder.images]


def _leave_out_without_class(folder: _Folder, layout: Layout) -> None:
    if images := folder.without_class:
        fix = "move them into the folders of their classes"
        layout.left_out.append(LeftOut(folder.path, "in no folder of a class", fix, images))


def _leave_out_unknown(folder: _Folder, classes: set[str], layout: Layout) -> None:
    """A folder beside splits that is not named like one."""
    names = "train, validation or test"
    if TEST not in layout.splits and len(folder.classes & classes) > 1:
        raise _Refused(
            folder.path,
            f"has class folders of the training split, but the name of no split; rename it to {names}, or move it away",
        )
    fix = f"rename the folder to {names} if it is one, else move it away"
    layout.left_out.append(LeftOut(folder.path, "in a folder that is not named like a split", fix, folder.images))


def _are_split_within_classes(folders: list[_Folder]) -> bool:
    """Whether the images are in class/split/file."""
    named = split_names({parts[-2] for folder in folders for parts in folder.images})
    depth = len(folders[0].path)
    in_splits = all(len(parts) == depth + 2 and parts[depth] in named for f in folders for parts in f.images)
    return in_splits and TRAIN in named.values() and not any(folder.split for folder in folders)


def _by_class_and_split(folders: list[_Folder]) -> Layout:
    splits = collections.defaultdict(list)
    named = split_names({parts[-2] for folder in folders for parts in folder.images})
    for folder in folders:
        for parts in folder.images:
            splits[named[parts[-2]]].append((folder.name, parts))
    unlabeled = [parts for _, parts in splits.pop(UNLABELED, [])]
    left_out = [LeftOut((), "without labels", "use --mode predict for them", unlabeled)] if unlabeled else []
    outer = folders[0].outer
    return Layout(dict(splits), "from split folders within the classes", outer, {outer}, left_out)


def _by_class(folders: list[_Folder]) -> Layout:
    """All images are training images, in class/file; refused if the folders may be something else."""
    outer = folders[0].outer
    named = [folder for folder in folders if folder.split]
    if len(named) == len(folders) or len({folder.split for folder in named}) > 1:
        names = ", ".join(f"{folder.name}/" for folder in named)
        has_train = any(folder.split == TRAIN for folder in named)
        problem = "no class folders" if has_train else "no training images, only images"
        raise _Refused(outer, f"{problem} in {names}; {EXPECTED}")
    below = {folder.name: _below_single_folders(folder) for folder in folders}
    containers = {name: inner for name, inner in below.items() if len(inner) > 1}
    counts = collections.Counter(inner_name for inner in containers.values() for inner_name in inner)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(shared) > 1:
        raise _Refused(
            outer,
            f"{listed([f'{name}/' for name in containers])} hold the same folders ({listed(shared)}); if they are "
            "splits, rename them to train, validation and test; if classes, move all of them into a folder train",
        )
    if containers and len(containers) < len(folders):
        flat = [f"{folder.name}/" for folder in folders if folder.name not in containers]
        raise _Refused(
            outer,
            f"{listed(flat)} hold images, {listed([f'{name}/' for name in containers])} only folders of images; move "
            "what is not a class away, or all classes into a folder train",
        )
    labeled = [(folder.name, parts) for folder in folders for parts in folder.images]
    layout = Layout({TRAIN: labeled}, "from class folders", outer, {outer}, [])
    for folder in named:
        fix = "if it is not a class, put the class folders into a folder train"
        layout.warnings.append(f"{folder.name}/ is used as a class, though it is named like a split; {fix}")
    return layout


def _below_single_folders(folder: _Folder) -> set[str]:
    """The names of the folders within, below single folders; empty if images are beside them."""
    depth = len(folder.path)
    while all(len(parts) > depth + 1 for parts in folder.images):
        names = {parts[depth] for parts in folder.images}
        if len(names) > 1:
            return names
        depth += 1
    return set()


def listed(names: Sequence[str]) -> str:
    """The first names, as text."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _require_classes_of_train(splits: dict[str, Labeled]) -> None:
    classes = {name for name, _ in splits[TRAIN]}
    for labeled in splits.values():
        if unknown := next((entry for entry in labeled if entry[0] not in classes), None):
            name, parts = unknown
            is_folder = name in parts[:-1]
            place = parts[: parts.index(name) + 1] if is_folder else parts
            which = "no such class" if is_folder else f"no class '{name}'"
            raise _Refused(place, f"{which} in train; rename or remove the {'folder' if is_folder else 'image'}")
