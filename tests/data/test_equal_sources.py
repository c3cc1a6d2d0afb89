"""Random trees of images, links and other files: a folder, a folder of links to it, a tar and a zip are equal."""

import io
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_jax.data import image_folder
from cifar_jax.data.cache import cached
from cifar_jax.errors import CifarJaxError

SPLITS = st.sampled_from(["train", "Test", "val", "images", "pets", "seg_train/seg_train", "a/b/train", "meta", "."])
CLASSES = st.sampled_from(["cat", "dog", "emu", "cat/images", "images", "ü b", ".hidden", "test", "."])
FILES = st.sampled_from(["1.png", "2.PNG", "3.jpg.png", "notes.txt", "4.heic", ".5.png", "val_annotations.txt"])
NAMES = st.builds(lambda *parts: os.path.normpath("/".join(parts)), SPLITS, CLASSES, FILES)


@st.composite
def trees(draw):
    """Of each name the content, or the target of a link."""
    names = draw(st.lists(NAMES, min_size=1, max_size=14, unique=True))
    number = draw(st.integers(0, 3))
    names = [f"{split}/{name}/1.png" for split in ("train", "test")[:number] for name in ("cat", "dog")] + names
    tree = {name: _content(index, name) for index, name in enumerate(dict.fromkeys(names))}
    for _ in range(draw(st.integers(0, 4))):
        target = draw(st.sampled_from([*tree, "train/cat", "train", "val", ".", "missing.png"]))
        link = draw(NAMES) if draw(st.booleans()) else draw(st.sampled_from(["train/dog", "val", "test", "train/x"]))
        is_free = not any(f"{name}/".startswith(f"{link}/") or f"{link}/".startswith(f"{name}/") for name in tree)
        if is_free:
            tree[link] = os.path.relpath(target, os.path.dirname(link) or ".")
    return tree


def _content(index, name):
    if not name.lower().endswith(".png"):
        return f"1.png\tcat\n{index}".encode()
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), index, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _folder(tree, root):
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            (root / name).symlink_to(content)
    return root


def _folder_of_links(tree, root, original):
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(original / name if isinstance(content, bytes) else content)
    return root


def _tar(tree, path, hard_links):
    """With the files in `hard_links` stored under another, hidden name first."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif name in hard_links:
                first = tarfile.TarInfo(f".first/{name}")
                first.size = len(content)
                archive.addfile(first, io.BytesIO(content))
                info.type, info.linkname = tarfile.LNKTYPE, first.name
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return path


def _zip(tree, path, backslashes):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in tree.items():
            info = zipfile.ZipInfo(name.replace("/", "\\") if backslashes else name)
            info.create_system = 3
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content)
    return path


def _read(path):
    """The images, labels and summary; or the error without the path."""
    try:
        dataset = image_folder.read(path, image_size=0)
    except CifarJaxError as error:
        problems = ("link that leads", "link to nothing")
        return "link" if any(problem in str(error) for problem in problems) else str(error).replace(str(path), "x")
    sets = {split: images.fingerprint for split, images in dataset.splits.items()}
    return sets, dataset.class_names, dataset.origin, dataset.passed_over, len(dataset.warnings)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True)
@given(tree=trees(), hard_links=st.sets(NAMES), backslashes=st.booleans())
def test_all_forms_of_a_tree_give_the_same_data_or_the_same_error(tree, hard_links, backslashes):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = _folder(tree, root / "original" / "x")
        expected = _read(folder)
        assert _read(_tar(tree, root / "x.tar.gz", hard_links)) == expected
        assert _read(_zip(tree, root / "x.zip", backslashes)) == expected
        assert _read(_folder_of_links(tree, root / "links" / "x", folder)) == expected


@pytest.mark.parametrize("change", ["content", "same size and time", "target"])
@pytest.mark.parametrize("link", ["file", "class folder", "source"])
def test_the_cache_notices_a_change_behind_a_link(tmp_path, link, change):
    tree = {f"train/{name}/{i}.png": _content(i, ".png") for name in ("cat", "dog") for i in range(2)}
    folder, other = _folder(tree, tmp_path / "folder"), _folder(tree, tmp_path / "other")
    place = {"file": "train/cat/1.png", "class folder": "train/cat", "source": "."}[link]
    source = tmp_path / "link"
    if link != "source":
        source = _folder({name: c for name, c in tree.items() if not name.startswith(place)}, tmp_path / "source")
    (source / place if link != "source" else source).symlink_to(folder / place)
    before = cached(source, read=image_folder.read, image_size=0)

    changed = (other if change == "target" else folder) / "train/cat/1.png"
    status = changed.stat()
    changed.write_bytes(_content(9, ".png"))
    if change != "content":
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    if change == "target":
        place = source / place if link != "source" else source
        target = Path(str(os.readlink(place)).replace("/folder", "/other"))
        place.unlink()
        place.symlink_to(target)
    after = cached(source, read=image_folder.read, image_size=0)
    assert before.splits["train"].fingerprint != after.splits["train"].fingerprint or len(after.train) < 3
    assert 9 in {int(x) for images in after.splits.values() for x in images.images_NHWC[:, 0, 0, 0]}
