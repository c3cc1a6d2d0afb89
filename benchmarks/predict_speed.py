"""Speed of `--mode predict` on image files of mixed formats and sizes on the CPU, compared with Keras 3 (JAX backend).

    python benchmarks/predict_speed.py [--peer-python PATH] [--images 1000] [--rounds 5]

Timed from files on disk (in the page cache) to probabilities, without start-up, restoring and compilation. Each
variant has its own process. The processes take turns (A B C, C B A, ...), so that only one runs at a time.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from training_speed import HERE, positive, surroundings

VARIANTS = {"ours": "cifar_jax", "keras": "Keras 3", "keras_threads": "Keras 3, load_img in threads"}
# (suffix, mode, size, options of `save`), in equal numbers: camera photos, web photos, drawings, CIFAR's image size.
KINDS = (
    (".jpg", "RGB", (1600, 1200), {"quality": 90}),
    (".jpg", "RGB", (500, 375), {"quality": 90}),
    (".jpg", "CMYK", (320, 240), {"quality": 90}),
    (".png", "RGB", (32, 32), {}),
    (".png", "RGBA", (256, 256), {}),
    (".png", "I;16", (256, 192), {}),
    (".gif", "P", (200, 150), {}),
    (".webp", "RGB", (400, 300), {"quality": 80}),
)


def draw(folder: Path, number: int) -> None:
    """Writes `number` images of smooth noise, about as compressible as photos, cycling through KINDS."""
    generator = np.random.default_rng(0)
    for i in range(number):
        suffix, mode, size, options = KINDS[i % len(KINDS)]
        coarse = Image.fromarray(generator.integers(0, 256, (size[1] // 16, size[0] // 16, 3), np.uint8))
        image = coarse.resize(size, Image.Resampling.BICUBIC)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(folder / f"{i:05}{suffix}", **options)


def train_a_run(workdir: Path) -> list[int]:
    """Trains the network of configs/cnn_scratch.py for one short epoch; returns its widths."""
    from cifar_jax.config import load_config
    from cifar_jax.modes.train import train_run as train

    config = load_config("cnn_scratch")
    config.data.update(name="shapes", limit=500)
    config.train.update(epochs=1, batch_size=50)
    train(config, workdir, allow_fallback=False)
    return list(config.model.widths)


class Worker:
    """A process that classifies all images once per call of `round`."""

    def __init__(self, name: str, python: str, settings: dict):
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        self.name, self.speeds = name, []
        self.process = subprocess.Popen(
            [python, str(HERE / "predict_speed_worker.py"), name, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.description = self._answer()

    def round(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.speeds.append(self._answer()["images_per_second"])

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: the process of {self.name} exited; see its message above")
        return json.loads(line)

    def result(self) -> dict:
        if "absent" in self.description:
            return self.description
        return {**self.description, "images_per_second": self.speeds, "median": statistics.median(self.speeds)}


def measure(arguments: argparse.Namespace) -> dict[str, dict]:
    """The result of each variant."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as temporary:
        run, images = Path(temporary) / "run", Path(temporary) / "images"
        images.mkdir()
        draw(images, arguments.images)
        settings = {"run": str(run), "images": str(images), "widths": train_a_run(run)}
        try:
            for name in VARIANTS:
                workers.append(Worker(name, sys.executable if name == "ours" else arguments.peer_python, settings))
            present = [worker for worker in workers if "absent" not in worker.description]
            for number in range(arguments.rounds):
                for worker in present if number % 2 == 0 else reversed(present):
                    worker.round()
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.wait()
    return {worker.name: worker.result() for worker in workers}


def table(variants: dict[str, dict]) -> str:
    rows = [f"{'':30}{'median':>10}{'ratio':>12}   images/s; ratio = ours / variant, of medians"]
    for name, result in variants.items():
        if "absent" in result:
            rows.append(f"{VARIANTS[name]:30}{'absent':>10}   {result['absent']}")
        else:
            ratio = variants["ours"]["median"] / result["median"]
            rows.append(f"{VARIANTS[name]:30}{result['median']:10,.0f}{ratio:12.2f}")
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=positive, default=1000)
    parser.add_argument("--rounds", type=positive, default=5, help="timed rounds of each variant")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has Keras")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "predict_speed.json")
    arguments = parser.parse_args()
    if not shutil.which(arguments.peer_python):
        parser.error(f"--peer-python {arguments.peer_python}: no such interpreter")
    return arguments


def main() -> None:
    arguments = parse()
    before = surroundings()
    variants = measure(arguments)
    ours = variants["ours"]
    if "absent" in ours:
        sys.exit(f"error: cifar_jax cannot be imported ({ours['absent']}): pip install . first")
    report = {
        **before,
        "settings": {
            "images": arguments.images,
            "rounds": arguments.rounds,
            "kinds": KINDS,
        },
        "variants": variants,
        "ours_divided_by": {
            name: ours["median"] / peer["median"]
            for name, peer in variants.items()
            if name != "ours" and "absent" not in peer
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{table(variants)}\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
