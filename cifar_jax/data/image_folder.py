"""An image folder `split/class/file`, or an archive of one."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_jax.data import archives, decode
from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.data.encoded import EncodedImages, different_sizes
from cifar_jax.data.layout import CLASS_NAMES, EXPECTED, Layout, Parts, arrange
from cifar_jax.data.leftovers import passed_over
from cifar_jax.data.listing import Listing, list_folder
from cifar_jax.data.splits import assemble
from cifar_jax.errors import DataError, UsageError

_FREE = 256 << 20  # bytes of decoded images that any source may have
_LARGEST_RATIO = 200  # of decoded bytes to those of the files beyond that; photographs have 10, drawings 100


def find(path: Path, *, name: str) -> Path | None:
    return path if path.is_dir() or archives.is_archive(path) else None


def read(path: Path, *, image_size: int) -> Dataset:
    """Decodes the images of an image folder or of a .tar, .tar.gz, .tar.xz or .zip of one.

    `layout` decides which folders are splits and classes; without a test split, see `splits.assemble`. Classes are
    sorted by their folder names. `class_names.txt` beside the splits, with lines 'folder words', gives the names to
    print if it has every class. Hidden files are ignored; everything else that is not used is in `passed_over`.

    Args:
        image_size: pixels; images become this square, see `decode_image`. 0: all must have one size.

    Raises:
        DataError: a damaged archive, an unreadable image, a class folder without images, folders that may be splits or
            classes, or a class that only the test or validation split has.
        UsageError: the images differ in size and `image_size` is 0.
    """
    with archives.opened(path) as listing:
        contents = _contents(listing, path)
        return contents.dataset(_decode(listing, contents.layout, path, image_size=image_size))


def most_bytes(listing: Listing, *, image_size: int) -> int:
    """What the images of a folder, used or not, take when they are decoded to squares of `image_size` pixels."""
    return 3 * image_size**2 * sum(name.lower().endswith(decode.SUFFIXES) for name in listing.files)


def index(path: Path, *, image_size: int, listing: Listing | None = None) -> Dataset:
    """As `read` for a folder, but the images stay in their files: see `EncodedImages`.

    An image that cannot be read, or is of another size, is then an error when it is needed.

    Args:
        listing: of the folder, if it is known.
    """
    listing = listing or list_folder(path)
    contents = _contents(listing, path)
    names = {split: _names(labeled) for split, labeled in contents.layout.splits.items()}
    nodes = {split: list(map(listing.readable, part)) for split, part in names.items()}
    first = next(iter(names.values()))[0]
    shape = (image_size, image_size, 3) if image_size else decode.read_image(path / first, size=0).shape
    images = {
        split: EncodedImages(
            path,
            np.array(part, object),
            np.array([node.size for node in nodes[split]]),
            image_size=image_size,
            shape=shape,
        )
        for split, part in names.items()
    }
    return contents.dataset(images)


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What a folder or an archive holds, before any image is read."""

    path: Path
    layout: Layout
    class_folders: list[str]
    class_names: tuple[str, ...]
    notes: list[str]
    warnings: list[str]

    def dataset(self, images: dict[str, np.ndarray | EncodedImages]) -> Dataset:
        """With the images of each split, in the order of the layout."""
        sets = {
            split: ImageSet(images_NHWC, _labels(self.layout, split, self.class_folders), self.class_names)
            for split, images_NHWC in images.items()
        }
        name = re.sub(r"\.(zip|tar|tgz|txz|tar\.gz|tar\.xz|tar\.bz2)$", "", self.path.name)
        found = {"passed_over": tuple(self.notes), "warnings": tuple(self.warnings)}
        return assemble(name=name, source=str(self.path), origin=self.layout.origin, **sets, **found)


def _contents(listing: Listing, path: Path) -> _Contents:
    files = {tuple(name.split("/")) for name in listing.files}
    images = sorted(parts for parts in files if parts[-1].lower().endswith(decode.SUFFIXES))
    if not images:
        raise DataError(f"{path}: contains no images; {EXPECTED}")
    texts = sorted(parts for parts in files if parts[-1].lower().endswith(".txt"))
    read_text = _text_reader(listing, path)
    layout = arrange(path, images, texts, read_text)
    notes, warnings = passed_over(listing, layout, path)
    class_folders = sorted({folder for folder, _ in layout.splits["train"]})
    _require_printable(class_folders, path)
    class_names = tuple(class_folders)
    if (file := (*layout.outer, CLASS_NAMES)) in files:
        class_names, missing = _class_names(class_folders, read_text(file))
        notes += [f"{'/'.join(file)} (no line for {missing[0]})"] if missing else []
    return _Contents(path, layout, class_folders, class_names, notes, warnings)


def _text_reader(listing: Listing, path: Path) -> Callable[[Parts], str]:
    def read_text(parts: Parts) -> str:
        try:
            return listing.read("/".join(parts)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}/{'/'.join(parts)}: not UTF-8 text; save it as UTF-8") from error

    return read_text


def _require_printable(class_folders: list[str], path: Path) -> None:
    for name in class_folders:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise DataError(f"{path}: the class folder {name!r} has a name that cannot be printed as UTF-8; rename it")


def _class_names(class_folders: list[str], text: str) -> tuple[tuple[str, ...], list[str]]:
    """Names to print: those of class_names.txt if it has all classes, else those of the folders; and those it lacks."""
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    words = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    if missing := [folder for folder in class_folders if folder not in words]:
        return tuple(class_folders), missing
    names = [words[folder] for folder in class_folders]
    # two classes may share a name ('crane' is a bird and a machine)
    unique = (f"{n} ({f})" if names.count(n) > 1 else n for n, f in zip(names, class_folders, strict=True))
    return tuple(unique), []


def _decode(listing: Listing, layout: Layout, path: Path, *, image_size: int) -> dict[str, np.ndarray]:
    """Of each split uint8 (N, H, W, 3)."""
    pixels: dict[str, np.ndarray] = {}
    names = [(split, row, name) for split, part in layout.splits.items() for row, name in enumerate(_names(part))]
    first = ""
    with archives.progress_bar() as progress:
        for split, row, name in progress.track(names, description=path.name):
            image_HWC = decode.decode_image(listing.read(name), where=f"{path}/{name}", size=image_size)
            if not pixels:
                first, shape = name, image_HWC.shape
                if not image_size:
                    _require_plausible_pixels(listing, names, shape, path)
                pixels = {split: np.empty((len(part), *shape), np.uint8) for split, part in layout.splits.items()}
            if image_HWC.shape != shape:
                sizes = (f"{s[1]}x{s[0]} ({n})" for s, n in ((shape, first), (image_HWC.shape, name)))
                raise different_sizes(path, " and ".join(sizes))
            pixels[split][row] = image_HWC
    return pixels


def _names(labeled: list[tuple[str, Parts]]) -> list[str]:
    return ["/".join(parts) for _, parts in labeled]


def _require_plausible_pixels(listing: Listing, names: list, shape: tuple[int, ...], path: Path) -> None:
    stored = sum(listing.files[name].size for _, _, name in names)
    stored = min(stored, path.stat().st_size) if path.is_file() else stored
    decoded = len(names) * int(np.prod(shape))
    if decoded > max(_FREE, _LARGEST_RATIO * stored):
        size = f"{len(names):,} images of {shape[1]}x{shape[0]} pixels take {decoded / 1e9:.1f} GB"
        raise UsageError(f"{path}: {size}, far more than their files; set --config.data.image_size=N to reduce them")


def _labels(layout: Layout, split: str, class_folders: list[str]) -> np.ndarray:
    return np.searchsorted(class_folders, [folder for folder, _ in layout.splits[split]]).astype(np.int32)
