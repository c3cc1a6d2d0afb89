"""Small data sets in every format; nothing outside the temporary folder and no network is used."""

import io
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from python2 import python2_pickle

from cifar_jax.data import cifar_archive


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tensorflow_datasets"))
    monkeypatch.delenv("CIFAR_JAX_DATA", raising=False)

    def no_network(request, timeout):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)


@pytest.fixture
def write_images():
    """write_images(root, {'train/cat': 3, ...}): that many random PNGs each; returns them by name."""

    def write(root, counts, *, size=(8, 8), suffix=".png"):
        random = np.random.default_rng(0)
        written = {}
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i:03d}{suffix}")
                written[f"{folder}/{i:03d}{suffix}"] = pixels
        return written

    return write


class Cifar:
    """Random images and labels, and the four archives in which they would be published.

    Attributes:
        images: uint8 (60, 32, 32, 3), the last 10 test; labels: (L, 60); names: of each label.
    """

    def __init__(self, classes: int):
        random = np.random.default_rng(classes)
        self.images = random.integers(0, 256, (60, 32, 32, 3), np.uint8)
        self.names = [[f"class{i}" for i in range(classes)]]
        if classes == 100:
            self.names.insert(0, [f"coarse{i}" for i in range(20)])
        self.labels = np.array([random.integers(0, len(names), 60) for names in self.names])

    def files(self, version: cifar_archive.Version) -> dict[str, bytes]:
        parts = np.split(np.arange(60), 6) if len(version.train) == 5 else [np.arange(50), np.arange(50, 60)]
        write = self._pickled if version.meta else self._binary
        files = {name: write(part, version) for name, part in zip((*version.train, version.test), parts, strict=True)}
        if version.meta:
            files[version.meta] = python2_pickle(dict(zip(version.names, self.names, strict=True)))
        else:
            files |= {f: "\n".join([*n, ""]).encode() for f, n in zip(version.names, self.names, strict=True)}
        return files | {"readme.html": b"<html>"}

    def _rows(self, part):
        return self.images[part].transpose(0, 3, 1, 2).reshape(len(part), 3072)

    def _pickled(self, part, version):
        labels = {key: row.tolist() for key, row in zip(version.labels, self.labels[:, part], strict=True)}
        return python2_pickle({"data": self._rows(part), **labels})

    def _binary(self, part, version):
        return np.concatenate([self.labels[:, part].T.astype(np.uint8), self._rows(part)], axis=1).tobytes()

    def unpack(self, version, root):
        """Writes the unpacked folder into `root` and returns it."""
        folder = root / version.folder
        folder.mkdir(parents=True)
        for name, data in self.files(version).items():
            (folder / name).write_bytes(data)
        return folder

    def pack(self, version, path):
        """Writes the packed archive to `path` and returns it."""
        with tarfile.open(path, "w:gz") as archive:
            for name, data in self.files(version).items():
                info = tarfile.TarInfo(f"{version.folder}/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    def assert_equals(self, dataset):
        np.testing.assert_array_equal(dataset.train.images_NHWC, self.images[:50])
        np.testing.assert_array_equal(dataset.test.images_NHWC, self.images[50:])
        np.testing.assert_array_equal(dataset.train.labels_N, self.labels[-1, :50])
        np.testing.assert_array_equal(dataset.test.labels_N, self.labels[-1, 50:])
        assert dataset.class_names == tuple(self.names[-1])
        assert dataset.train.images_NHWC.dtype == np.uint8 and dataset.train.labels_N.dtype == np.int32


@pytest.fixture
def cifar():
    return Cifar
