"""Seconds until all images of a folder are in memory, compared with a DataLoader of PyTorch.

    python benchmarks/loading.py [--images 20000] [--rounds 3]

A folder of PNG files of 32 pixels, drawn by the program. Ours: `cifar_jax.data.load` with an empty cache ('decoded'),
and again with the cache that it has written ('cached'). PyTorch: every image once, decoded by Pillow as torchvision's
ImageFolder does, from a `DataLoader` with one worker process for each core. Each reading has its own process and is
timed without its imports. One untimed reading comes first, so that the system has the files in memory.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from streaming import draw, printed_by
from training_speed import HERE, positive, surroundings

READERS = ("decoded", "cached", "torch")


def ours(folder: Path) -> None:
    config = default_config()
    config.data.update(name="folder", dir=str(folder), pipeline="device")
    load(config.data, allow_fallback=False)


def pytorch(folder: Path) -> None:
    images = Images(sorted(folder.rglob("*.png")))
    for _ in DataLoader(images, batch_size=512, num_workers=os.cpu_count()):
        pass


class Images:
    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        with Image.open(self.paths[row]) as image:
            return np.array(image.convert("RGB"))


def timed(name: str, folder: Path, cache: str) -> float:
    """The seconds of one reading in a process for it; the cache holds the images or, for 'decoded', is empty."""
    return printed_by(__file__, name, str(folder), cache=cache)


def measured(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each reader, by round; the readers take turns."""
    seconds = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as filled:
        timed("decoded", folder, filled)
        for number in range(rounds):
            for name in READERS if number % 2 == 0 else reversed(READERS):
                with tempfile.TemporaryDirectory() as empty:
                    seconds[name].append(timed(name, folder, empty if name == "decoded" else filled))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=positive, default=20_000)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "loading.json")
    arguments = parser.parse_args()
    before = surroundings()
    with tempfile.TemporaryDirectory() as root:
        draw(Path(root), count=arguments.images, side=32, suffix=".png")
        seconds = measured(Path(root), arguments.rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    images = arguments.images + arguments.images // 10 + 1
    settings = {"images": images, "rounds": arguments.rounds}
    report = {**before, "settings": settings, "seconds": seconds, "median": median}
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    for name in READERS:
        print(f"{name}: {median[name]:.2f} s, {images / median[name]:,.0f} images/s")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in READERS:
        if sys.argv[1] == "torch":
            from torch.utils.data import DataLoader
        else:
            from cifar_jax.config import default_config
            from cifar_jax.data import load
        started = time.perf_counter()
        (pytorch if sys.argv[1] == "torch" else ours)(Path(sys.argv[2]))
        print(json.dumps(time.perf_counter() - started))
    else:
        main()
