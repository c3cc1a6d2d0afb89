"""What a source holds besides the images that are used: named in the summary, and in warnings where images are lost."""

import collections
from pathlib import Path, PurePosixPath

from cifar_jax.data.decode import SUFFIXES
from cifar_jax.data.layout import Labeled, Layout, Parts, listed
from cifar_jax.data.listing import Listing
from cifar_jax.data.split_names import TEST, TRAIN, VALIDATION, split_names
from cifar_jax.errors import DataError

_UNSUPPORTED = (  # images that Pillow alone does not read
    *(".heic", ".heif", ".jxl", ".svg", ".eps", ".psd", ".ico"),
    *(".dng", ".cr2", ".nef", ".arw", ".exr", ".hdr"),
)
_BY_SYSTEMS = ("thumbs.db", "desktop.ini")


def passed_over(listing: Listing, layout: Layout, path: Path) -> tuple[list[str], list[str]]:
    """What is not used, in words, and one warning for each place where images are not used.

    Repeated images are removed from `layout.splits`: of a file that links give several names, one counts.

    Raises:
        DataError: a class folder or a split without images.
    """
    notes, warnings = list(listing.notes), list(layout.warnings)
    notes += _folders_without_images(listing, layout, path)
    repeated = _remove_repetition(listing, layout)
    used = {listing.files["/".join(parts)].real for labeled in layout.splits.values() for _, parts in labeled}
    for left_out in layout.left_out:
        count = sum(listing.files["/".join(parts)].real not in used for parts in left_out.images)
        if count:
            place = "/".join((*left_out.place, "")) or "the top folder"
            images = f"{count:,} image{'s' * (count > 1)}"
            notes.append(f"{place} ({images} {left_out.why})")
            warnings.append(f"{path}: {images} of {place} not used, {left_out.why}; {left_out.fix}")
    notes += _links(repeated, "files that count under another name")
    notes += _links(sorted(listing.loops), "folders around them")
    other_notes, other_warnings = _other_files(listing, layout, path)
    if hidden := sum(name.lower().endswith(SUFFIXES) for name in listing.hidden):
        other_notes.append(f"{hidden:,} hidden file{'s' * (hidden > 1)}")
    return notes + other_notes, warnings + other_warnings


def _folders_without_images(listing: Listing, layout: Layout, path: Path) -> list[str]:
    """The topmost ones, except within class folders."""
    filled = {()}
    for name in listing.files:
        if name.lower().endswith(SUFFIXES):
            parts = tuple(name.split("/"))[:-1]
            while parts not in filled:
                filled.add(parts)
                parts = parts[:-1]
    around_classes = {parent[:depth] for parent in layout.class_parents for depth in range(len(parent) + 1)}
    empty = []
    for folder in sorted(tuple(name.split("/")) for name in listing.folders):
        if folder in filled or folder[:-1] not in filled:
            continue
        parent = folder[:-1]
        if parent in layout.class_parents and _is_class(folder, listing, layout):
            raise DataError(f"{path}/{'/'.join(folder)}: class folder without images; remove it or fill it")
        if parent == layout.outer and split_names([folder[-1]]).get(folder[-1]) in (VALIDATION, TEST):
            raise DataError(f"{path}/{'/'.join(folder)}: split without images; remove it or fill it")
        if parent in around_classes:
            empty.append(f"{'/'.join(folder)}/")
    return [f"{listed(empty)} (no images)"] if empty else []


def _is_class(folder: Parts, listing: Listing, layout: Layout) -> bool:
    """Whether a folder without images beside the class folders is one; where there are no splits it may be another."""
    if folder[:-1] != layout.outer:
        return True
    below = [name for name in listing.files if name.startswith("/".join(folder) + "/")]
    return not below or any(name.lower().endswith(_UNSUPPORTED) for name in below)


def _remove_repetition(listing: Listing, layout: Layout) -> list[str]:
    """Keeps the first name of each file, in the order train, validation, test; returns the others."""
    order = [layout.splits.get(split, []) for split in (TRAIN, VALIDATION, TEST)]
    used = ["/".join(parts) for labeled in order for _, parts in labeled]
    first: dict[str, str] = {}
    for name in used:
        first.setdefault(listing.files[name].real, name)
    if len(first) == len(used):
        return []
    kept = set(first.values())

    def without_repetition(labeled: Labeled) -> Labeled:
        return [(folder, parts) for folder, parts in labeled if "/".join(parts) in kept]

    splits = {split: without_repetition(labeled) for split, labeled in layout.splits.items()}
    layout.splits = {split: labeled for split, labeled in splits.items() if labeled}
    return sorted(set(used) - kept)


def _links(names: list[str], target: str) -> list[str]:
    return [f"{len(names):,} link{'s' * (len(names) > 1)} to {target} ({listed(names)})"] if names else []


def _other_files(listing: Listing, layout: Layout, path: Path) -> tuple[list[str], list[str]]:
    """Files in class folders that are no images, and images of formats that are not read."""
    used = [parts for labeled in layout.splits.values() for _, parts in labeled]
    class_folders = {parts[: len(parent) + 1] for parent in layout.class_parents for parts in used}
    counts = collections.Counter()
    for name in listing.files:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix not in SUFFIXES:
            *folders, base = name.split("/")
            is_in_class = any(tuple(folders[:depth]) in class_folders for depth in range(1, len(folders) + 1))
            counts[suffix] += suffix in _UNSUPPORTED or (is_in_class and base.lower() not in _BY_SYSTEMS)
    notes = [
        f"{count:,} {suffix} file{'s' * (count > 1)}" if suffix else f"{count:,} without suffix"
        for suffix, count in sorted((+counts).items(), key=lambda item: (-item[1], item[0]))
    ]
    unsupported = [note for note in notes if note.split()[1] in _UNSUPPORTED]
    fix = "convert them to JPEG or PNG"
    return notes, [f"{path}: {listed(unsupported)} not used; {fix}"] if unsupported else []
