"""Seconds and peak memory of files that are made to fill the memory, to hang or to crash their reader.

    python benchmarks/hostile_files.py [FILE ...] [--output results/hostile_files.json]

The files of this script have less than 1 MB, except those that declare nothing (tar.gz and zip of 2 GB of zeros). FILEs
are tried as weights, and as data. Each is read in its own process. Right is a one-line refusal, under 1 GB and 30 s.
"""

import argparse
import gzip
import io
import json
import pickle
import re
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

DOUBLED = b")\x85" + b"2\x86" * 100  # a tuple of a tuple twice of ...
TEXT = b"X" + (400_000).to_bytes(4, "little") + b"a" * 400_000 + b"q\1"
LATIN1 = b"X\6\0\0\0latin1"
PICKLES = {
    "nones": b"\x80\x02}X\1\0\0\0a(" + b"N" * 16_000_000 + b"ts.",
    "sets": b"\x80\x04}X\1\0\0\0a(" + b"\x8f" * 900_000 + b"ts.",
    "dicts": b"\x80\x04}X\1\0\0\0a(" + b"}" * 900_000 + b"ts.",
    "nested_key": b"\x80\x04}" + DOUBLED + b"K\1s.",
    "encoded": b"\x80\x02}" + TEXT + b"(" + (b"c_codecs\nencode\nh\1" + LATIN1 + b"\x86R") * 15_000 + b"ts.",
    "bytearray": b"\x80\x05}X\1\0\0\0a\x96" + (1 << 40).to_bytes(8, "little") + b"s.",
}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def zeros(path: Path, name: str, size: int, *, start: bytes = b"") -> None:
    """A zip with one member of zeros, written without holding them."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(start)
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def chunks_of_zeros(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(900):
            options = {"compression": "gzip", "compression_opts": 9, "chunks": (1 << 20,)}
            file.create_dataset(f"layer/{number}", data=np.zeros(1 << 20, np.uint8), **options)


def tar_of_zeros(path: Path) -> None:
    class Zeros(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    with gzip.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("train/cat/0.png")
        info.size = 2 << 30
        archive.addfile(info, Zeros())


def png(path: Path, side: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row, packer = bytes(1 + 3 * side), zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def in_folder(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def folder(path: Path) -> None:
        (path / "train" / "cat").mkdir(parents=True)
        write(path / "train" / "cat" / "0.png")

    return folder


def cifar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
        for name in names:
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            content = pickle.dumps({"label_names": ["a"]}) if name == "batches.meta" else PICKLES["nones"]
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


FILES: dict[str, Callable[[Path], object]] = {
    **{
        f"{name}_{kind}.pth": lambda path, content=content, method=method: path.write_bytes(
            packed({"archive/data.pkl": content}, method)
        )
        for name, content in PICKLES.items()
        for kind, method in (("stored", zipfile.ZIP_STORED), ("packed", zipfile.ZIP_DEFLATED))
        if kind == "stored" or name == "nones"
    },
    "zeros_weights.npz": lambda path: zeros(path, "a.npy", 900 << 20, start=npy_header((900 << 20,))),
    "zeros_images.npz": lambda path: zeros(path, "x_train.npy", 900 << 20, start=npy_header((300 << 20, 1, 1, 3))),
    "zeros.keras": lambda path: zeros(path, "model.weights.h5", 900 << 20),
    "zeros.h5": chunks_of_zeros,
    "header.safetensors": lambda path: path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}"),
    "2GB.zip": lambda path: zeros(path, "train/cat/0.png", 2 << 30),
    "2GB.tar.gz": tar_of_zeros,
    "cifar.tar.gz": cifar,
    "image_18000": in_folder(lambda path: png(path, 18_000)),
    "image_7000": in_folder(lambda path: png(path, 7000)),
    "fifo": in_folder(lambda path: subprocess.run(["mkfifo", path], check=True)),
    "device": in_folder(lambda path: path.symlink_to("/dev/zero")),
}


def read(path: Path, kind: str) -> None:
    """In a separate process: prints the outcome, seconds and MB above the imports."""
    from fuzz_seeds import data

    from cifar_jax.errors import CifarJaxError
    from cifar_jax.pretrained import weight_files

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        weight_files.read(path) if kind == "weights" else data(path)
        outcome = "read"
    except CifarJaxError as error:
        outcome = f"refused: {str(error).replace(str(path), path.name)}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"[:200]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "peak_MB": peak, "outcome": outcome}))


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "hostile_files.json")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for file in FILES:
            FILES[file](Path(name) / file)
        tried = [(path, kind) for path in arguments.files for kind in ("weights", "data")]
        for file in FILES:
            is_weights = re.search(r"\.(pth|keras|h5|safetensors)$|weights\.npz$", file)
            tried.append((Path(name) / file, "weights" if is_weights else "data"))
        for path, kind in tried:
            command = [sys.executable, __file__, "--read", path, kind]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            outcome = json.loads(done.stdout) if done.returncode == 0 else {"outcome": f"exit {done.returncode}"}
            size = path.stat().st_size if path.is_file() else 0
            rows.append({"file": path.name, "as": kind, "bytes": size, **outcome})
            print(*rows[-1].values(), sep=" | ", flush=True)
    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
