"""The readers that `fuzz.py` tries, each with small valid files and the ways to change them."""

import argparse
import bz2
import collections
import contextlib
import dataclasses
import gzip
import io
import json
import lzma
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Mutate = Callable[..., bytes]  # of valid bytes, and of other valid bytes to take parts from
Cases = Callable[[random.Random, Mutate], Iterator["Case"]]


@dataclasses.dataclass(frozen=True)
class Case:
    path: Path  # of the changed file, which is kept if it is a finding
    read: Callable[[], object]


def files(seeds: list[bytes], read: Callable[[Path], object], folder: Path, *, name: str = "case") -> Cases:
    """Cases of one file."""

    path = folder / name

    def cases(generator: random.Random, mutate: Mutate) -> Iterator[Case]:
        while True:
            seed, other = generator.choice(seeds), generator.choice(seeds)
            path.write_bytes(mutate_inside(seed, other, generator, mutate))
            yield Case(path, lambda: read(path))

    return cases


def mutate_inside(seed: bytes, other: bytes, generator: random.Random, mutate: Mutate) -> bytes:
    """The file itself, or what it packs: one member of a zip, the content of a compressed stream."""
    if generator.random() < 0.3:
        return mutate(seed, other)
    for start, module in ((b"\x1f\x8b", gzip), (b"\xfd7", lzma), (b"BZ", bz2)):
        if seed.startswith(start):
            return module.compress(mutate(module.decompress(seed), other))
    if not seed.startswith(b"PK"):
        return mutate(seed, other)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as archive, zipfile.ZipFile(packed, "w") as changed:
        infos = archive.infolist()
        target = generator.choice(infos).filename
        target = next((info.filename for info in infos if info.filename.endswith("data.pkl")), target)
        for info in infos:
            data = archive.read(info)
            with contextlib.suppress(ValueError):  # a name that a zip cannot have
                changed.writestr(info, mutate(data, other) if info.filename == target else data)
    return packed.getvalue()


def weights(seeds: list[bytes], folder: Path) -> Cases:
    from cifar_jax.pretrained import weight_files

    return files(seeds, weight_files.read, folder)


def data(path: Path) -> object:
    """What `data.dir` does, without the cache."""
    from cifar_jax.data import sources

    for reader in sources.READERS:
        if location := reader.find(path, name="cifar10"):
            return reader.read(location, image_size=8)
    return None


def torch_seeds(*, zipped: bool) -> list[bytes]:
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    checkpoint = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    checkpoint |= {"args": argparse.Namespace(lr=0.1), "counts": collections.Counter("aab"), "best": np.float64(0.5)}
    others = {"a": torch.arange(6).half(), "b": torch.nn.Parameter(torch.ones(2, 3)).t(), "c": np.arange(3)}
    seeds = []
    for value in (network.state_dict(), checkpoint, network, others):
        file = io.BytesIO()
        torch.save(value, file, _use_new_zipfile_serialization=zipped)
        seeds.append(file.getvalue())
    return seeds


def hdf5_seeds() -> list[bytes]:
    import h5py

    seeds = []
    for layout in range(4):
        file = io.BytesIO()
        with h5py.File(file, "w", libver="latest" if layout == 3 else None) as stored:
            if layout % 2:
                for layer in ("conv2d", "conv2d_1", "dense"):
                    group = stored.create_group(f"layers/functional/layers/{layer}/vars")
                    group.attrs["name"] = {"conv2d": "conv1_conv", "conv2d_1": "conv2_block1_1_conv"}.get(layer, layer)
                    group["0"], group["1"] = np.ones((1, 1, 3, 4), np.float32), np.zeros(4, np.float32)
                stored["optimizer/vars/0"] = np.ones(3)
            else:
                options = {"compression": "gzip", "shuffle": True, "chunks": (1, 1, 3, 2)} if layout else {}
                stored.create_dataset("model_weights/conv1_conv/kernel:0", data=np.ones((1, 1, 3, 4)), **options)
                stored["model_weights/conv1_conv/bias:0"] = np.zeros(4, np.float16)
                stored.attrs["layer_names"] = [b"conv1_conv"]
        seeds.append(file.getvalue())
    return seeds


def keras_seeds() -> list[bytes]:
    layers = [{"class_name": "Conv2D", "config": {"name": f"conv{number}_conv"}} for number in (1, 2)]
    config = {"config": {"layers": [{"class_name": "Functional", "config": {"name": "resnet50", "layers": layers}}]}}
    seeds = []
    for stored in hdf5_seeds():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.weights.h5", stored)
        seeds.append(file.getvalue())
    return seeds


def safetensors_seeds() -> list[bytes]:
    from safetensors.numpy import save

    arrays = {"a.weight": np.ones((2, 3), np.float32), "b": np.arange(3), "empty": np.zeros((0, 2), np.float16)}
    return [save(arrays), save(arrays, {"format": "pt", "cifar_jax": "{}"}), save({})]


def npz_seeds(*, images: bool) -> list[bytes]:
    images_NHWC, labels_N = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 3
    names = {"class_names": np.array(["cat", "dog", "emu"])}
    sets = [
        {"x_train": images_NHWC, "y_train": labels_N, "x_test": images_NHWC, "y_test": labels_N},
        {"images_train": images_NHWC[..., 0], "labels_train": labels_N[:, None]}
        | {"images_test": images_NHWC[..., 0], "labels_test": labels_N.astype(">u2")}
        | names,
    ]
    if not images:
        sets = [{"a/kernel": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.ones((2, 3)))}, names]
    seeds = []
    for arrays in sets:
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, **arrays)
            seeds.append(file.getvalue())
    return seeds


def image_seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    rgb, gray = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    variants: list[tuple[Image.Image, str, dict]] = [
        *((rgb, name, {}) for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "JPEG2000", "AVIF")),
        (rgb, "JPEG", {"progressive": True, "exif": exif}),
        (rgb, "PNG", {"exif": exif, "dpi": (72, 72)}),
        *((rgb.convert("RGBA"), name, {}) for name in ("PNG", "TIFF", "WEBP")),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (gray, "PNG", {}),
        (gray.convert("LA"), "PNG", {}),
        (gray.convert("1"), "TIFF", {"compression": "group4"}),
        *((sixteen, name, {}) for name in ("PNG", "TIFF")),
        *((rgb, "TIFF", {"compression": name}) for name in ("tiff_adobe_deflate", "jpeg", "packbits")),
        *((rgb, name, {"save_all": True, "append_images": [rgb]}) for name in ("GIF", "PNG", "WEBP", "TIFF")),
    ]
    seeds = []
    for image, format_name, options in variants:
        file = io.BytesIO()
        with contextlib.suppress(KeyError, OSError):  # built without this format
            image.save(file, format_name, **options)
            seeds.append(file.getvalue())
    return seeds


def decode(folder: Path) -> Cases:
    from cifar_jax.data.decode import read_image

    return files(image_seeds(), lambda path: read_image(path, size=8), folder)


MEMBERS = [
    "train/cat/0.png",
    "train/cat/1.jpg",
    "train/dog/0.gif",
    "test/cat/0.png",
    "test/dog/1.png",
    "class_names.txt",
    "val/2.png",
    "val/val_annotations.txt",
]


def member_bytes() -> dict[str, bytes]:
    images = image_seeds()
    texts = {"class_names.txt": b"cat Cat\ndog Dog\n", "val/val_annotations.txt": b"2.png\tcat\t0\t0\t9\t9\n"}
    return {name: texts.get(name, images[number % 5]) for number, name in enumerate(MEMBERS)}


def image_folder(folder: Path) -> Cases:
    root = folder / "images"

    def cases(generator: random.Random, mutate: Mutate) -> Iterator[Case]:
        contents = member_bytes()
        for name, content in contents.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        while True:
            name = generator.choice(MEMBERS)
            (root / name).write_bytes(mutate(contents[name], generator.choice(list(contents.values()))))
            yield Case(root / name, lambda: data(root))
            (root / name).write_bytes(contents[name])

    return cases


def tar_seeds() -> list[bytes]:
    seeds = []
    for mode in ("w", "w:gz", "w:xz", "w:bz2", "w"):
        file = io.BytesIO()
        format_name = tarfile.PAX_FORMAT if seeds else tarfile.GNU_FORMAT
        with tarfile.open(fileobj=file, mode=mode, format=format_name) as archive:
            outer = "" if len(seeds) % 2 else f"{'x' * 120}/"
            for name, content in member_bytes().items():
                info = tarfile.TarInfo(outer + name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for kind, target in ((tarfile.LNKTYPE, f"{outer}train/cat/0.png"), (tarfile.SYMTYPE, "../cat/1.jpg")):
                link = tarfile.TarInfo(f"{outer}train/dog/link{kind.decode()}.png")
                link.type, link.linkname = kind, target
                archive.addfile(link)
        seeds.append(file.getvalue())
    return seeds


def zip_seeds() -> list[bytes]:
    seeds = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in member_bytes().items():
                archive.writestr(f"é/{name}" if seeds else name, content)
        seeds.append(file.getvalue())
    return seeds


def cifar(folder: Path, *, pickled: bool) -> Cases:
    """One file of the unpacked folder is changed."""
    from cifar_jax.data import cifar_archive

    version = cifar_archive.CIFAR10_PYTHON if pickled else cifar_archive.CIFAR10_BINARY
    root = folder / version.folder
    root.mkdir()
    pixels, labels = np.zeros((2, 3072), np.uint8), [0, 1]
    names = [f"class{number}" for number in range(10)]

    def batches(protocol: int) -> dict[str, bytes]:
        if not pickled:
            batch = np.concatenate([np.uint8(labels)[:, None], pixels], axis=1).tobytes()
            return dict.fromkeys((*version.train, version.test), batch) | {version.names[0]: "\n".join(names).encode()}
        batch = {b"data": pixels, b"labels": np.array(labels), b"filenames": [b"a.png", b"b.png"]}
        batch = batch if protocol % 2 else {"data": pixels, "labels": [np.int64(0), 1], "x": bytearray(b"1")}
        meta = pickle.dumps({"label_names": names, "num_cases_per_batch": 2}, protocol)
        return dict.fromkeys((*version.train, version.test), pickle.dumps(batch, protocol)) | {version.meta: meta}

    def cases(generator: random.Random, mutate: Mutate) -> Iterator[Case]:
        seeds = [batches(protocol) for protocol in range(6)]
        for name, content in seeds[2].items():
            (root / name).write_bytes(content)
        while True:
            contents = generator.choice(seeds)
            name = generator.choice(list(contents))
            (root / name).write_bytes(mutate(contents[name], generator.choice(seeds)[name]))
            yield Case(root / name, lambda: cifar_archive.read(root, image_size=0))
            (root / name).write_bytes(seeds[2][name])

    return cases


def tfds(folder: Path) -> Cases:
    """One file of a prepared directory is changed."""
    from cifar_jax.data import cifar_archive
    from cifar_jax.data import tfds as reader

    next(iter(cifar(folder, pickled=False)(random.Random(0), lambda content, *_: content)))
    source = folder / cifar_archive.CIFAR10_BINARY.folder
    directory = reader.prepare("cifar10", archive=source, data_dir=folder / "tfds")
    contents = {path: path.read_bytes() for path in sorted(directory.iterdir())}

    def cases(generator: random.Random, mutate: Mutate) -> Iterator[Case]:
        while True:
            path = generator.choice(list(contents))
            path.write_bytes(mutate(contents[path], generator.choice(list(contents.values()))))
            yield Case(path, lambda: data(directory))
            path.write_bytes(contents[path])

    return cases


READERS: dict[str, Callable[[Path], Cases]] = {
    "torch_zip": lambda folder: weights(torch_seeds(zipped=True), folder),
    "torch_legacy": lambda folder: weights(torch_seeds(zipped=False), folder),
    "keras_h5": lambda folder: weights(hdf5_seeds(), folder),
    "keras_zip": lambda folder: weights(keras_seeds(), folder),
    "safetensors": lambda folder: weights(safetensors_seeds(), folder),
    "npz_weights": lambda folder: weights(npz_seeds(images=False), folder),
    "npz_images": lambda folder: files(npz_seeds(images=True), data, folder, name="case.npz"),
    "cifar_pickle": lambda folder: cifar(folder, pickled=True),
    "cifar_binary": lambda folder: cifar(folder, pickled=False),
    "tfds": tfds,
    "decode": decode,
    "folder": image_folder,
    "tar": lambda folder: files(tar_seeds(), data, folder),
    "zip": lambda folder: files(zip_seeds(), data, folder),
}
