"""The section 'A new data source' of docs/extending.md, followed word for word in a copy of the package."""

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
LOAD = """
import numpy as np
from cifar_jax.config import default_config
from cifar_jax.data import load
config = default_config().data
config.name, config.dir, config.limit = "folder", "fashion", 20
dataset = load(config, allow_fallback=False)
np.savez("loaded.npz", images=dataset.train.images_NHWC, labels=dataset.train.labels_N)
"""


def write_idx(folder: Path, prefix: str, images_NHW: np.ndarray, labels_N: np.ndarray) -> None:
    """As described on the page of MNIST: a magic number, big-endian sizes, then the bytes."""
    header = struct.pack(">IIII", 0x803, *images_NHW.shape)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images_NHW.tobytes()))
    header = struct.pack(">II", 0x801, len(labels_N))
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels_N.tobytes()))


def follow(section: str, root: Path) -> None:
    """Creates the file and applies the changes that a section of the page shows."""
    for path, code in re.findall(r"Create `(.*?)`:\n\n```python\n(.*?)```", section, re.DOTALL):
        (root / path).write_text(code)
    for path, diff in re.findall(r"In `(.*?)`.*?```diff\n(.*?)```", section, re.DOTALL):
        text = (root / path).read_text()
        for old, new in re.findall(r"^-(.*)\n\+(.*)$", diff, re.MULTILINE):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (root / path).write_text(text)


def test_a_new_data_source(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    shutil.copytree(ROOT / "cifar_jax", tmp_path / "cifar_jax", ignore=shutil.ignore_patterns("__pycache__"))
    follow(page.split("## A new data source\n")[1], tmp_path)

    random, folder = np.random.default_rng(0), tmp_path / "fashion"
    folder.mkdir()
    images_NHW = random.integers(0, 256, (20, 28, 28), np.uint8)
    labels_N = (np.arange(20) % 10).astype(np.uint8)
    write_idx(folder, "train", images_NHW, labels_N)
    write_idx(folder, "t10k", images_NHW[:10], labels_N[:10])
    environment = os.environ | {"CIFAR_JAX_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, check=True)

    loaded = np.load(tmp_path / "loaded.npz")
    np.testing.assert_array_equal(loaded["images"], np.repeat(images_NHW[..., None], 3, axis=-1))
    np.testing.assert_array_equal(loaded["labels"], labels_N)
    assert list((tmp_path / "cache" / "data").iterdir())
