"""How the cost of training the CNN grows with batch size, width, image size, devices and seeds.

    python benchmarks/scaling.py [--rounds 3] [--steps 4] [--seeds 16]

One key of `configs/cnn_scratch.py` changes at a time. Each point is a separate process that trains on noise; the
figure is the median of its rounds. For the seeds, `main.py` runs once with `train.seeds`, and once per seed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from training_speed import HERE, Worker, positive, surroundings

WIDTHS = ((24, 64, 96), (48, 128, 192), (72, 192, 288), (96, 256, 384))
POINTS = {
    "train.batch_size": (32, 128, 512, 1024),
    "model.widths": WIDTHS,
    "model.image_size": (16, 20, 24, 28, 32, 48, 64),
    "mesh.cpu_devices": (1, 2),
}
SHORT_RUN = ["--config", str(HERE.parent / "configs" / "cnn_scratch.py"), "--config.data.name=shapes"]
SHORT_RUN += ["--config.data.limit=1000", "--config.train.epochs=2", "--config.model.widths=(16,32,64)"]
SHORT_RUN += ["--config.train.batch_size=100"]


def speed(key: str, value, options: argparse.Namespace) -> float:
    """Images/s with `key` set to `value`."""
    batch_size, changes = (value, {}) if key == "train.batch_size" else (512, {key: value})
    settings = {"norm": "batch", "steps": options.steps, "batch_size": batch_size, "images": 8192, "changes": changes}
    worker = Worker("ours", sys.executable, settings)
    try:
        for _ in range(options.rounds):
            worker.round()
    finally:
        worker.process.kill()
        worker.process.wait()
    return worker.result()["median"]


def seconds_of_runs(seeds: int) -> dict[str, float]:
    """Wall time of the same runs in one process and in one process each, both with a compilation cache."""

    def run(*arguments: str) -> float:
        with tempfile.TemporaryDirectory() as workdir:
            command = [sys.executable, str(HERE.parent / "main.py"), *SHORT_RUN, *arguments, "--workdir", workdir]
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return time.perf_counter() - began

    run()  # fills the cache
    together = run(f"--config.train.seeds={seeds}")
    return {
        "seeds": seeds,
        "one_process": together,
        "one_each": sum(run(f"--config.train.seed={s}") for s in range(seeds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=positive, default=3, help="timed rounds of each point")
    parser.add_argument("--steps", type=positive, default=4, help="training steps per round")
    parser.add_argument("--seeds", type=positive, default=16)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scaling.json")
    options = parser.parse_args()
    report = surroundings() | {"settings": {"rounds": options.rounds, "steps": options.steps}, "images_per_second": {}}
    for key, values in POINTS.items():
        points = report["images_per_second"][key] = []
        for value in values:
            points.append({"value": value, "images_per_second": speed(key, value, options)})
            print(f"{key}={value}: {points[-1]['images_per_second']:,.0f} images/s", flush=True)
    report["seconds_of_runs"] = seconds_of_runs(options.seeds)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{json.dumps(report['seconds_of_runs'])}\nwritten to {options.output}")


if __name__ == "__main__":
    main()
