"""Streamed images compared with images on the devices: training speed on small images, and peak memory on many.

    python benchmarks/streaming.py [--images 20000] [--many 100000] [--rounds 5] [--steps 20]

Speed: the compiled step of configs/cnn_scratch.py on a folder of PNG files of 32 pixels, in images/s. Each pipeline has
its own process, and the processes take turns. Each round starts with as many untimed steps as timed ones, so that
images decoded during the turn of the other do not count. Memory: one epoch of a small CNN on a folder of JPEG files of
64 pixels, from the start of the process to the evaluation of all splits, with the seconds to the first step. The images
are drawn by the program.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from training_speed import HERE, Worker, positive, surroundings

PIPELINES = ("device", "stream")
CLASSES = 10


def draw(folder: Path, *, count: int, side: int, suffix: str) -> None:
    """Writes `count` training images, and a tenth of that for the test, of random colored blocks, by class."""

    def write(row: int, split: str) -> None:
        blocks = np.random.default_rng([row, len(split)]).integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / split / str(row % CLASSES) / f"{row:06d}{suffix}")

    for split, size in (("train", count), ("test", count // 10 + 1)):
        for label in range(CLASSES):
            (folder / split / str(label)).mkdir(parents=True)
        with ThreadPoolExecutor() as threads:
            list(threads.map(write, range(size), itertools.repeat(split)))


class Training:
    """The compiled step on one pipeline, fed as in the training loop."""

    def __init__(self, pipeline: str, settings: dict):
        import grain
        import jax

        from cifar_jax import devices, experiment
        from cifar_jax.config import load_config
        from cifar_jax.data.batches import place
        from cifar_jax.training.state import initial_state
        from cifar_jax.training.step import compile_epoch_order, compile_steps

        keys = {"data.name": "folder", "data.dir": settings["folder"], "data.pipeline": pipeline}
        config = load_config("cnn_scratch", **keys, **{"train.batch_size": settings["batch_size"]})
        devices.start(config)
        self.experiment = experiment.build(config, allow_fallback=False)
        self.jax, self.steps, self.state = jax, settings["steps"], initial_state(self.experiment)
        self.data = place(self.experiment.splits["train"], self.experiment.mesh)
        self.epoch_order, self.run = compile_epoch_order(self.experiment), compile_steps(self.experiment)
        self.seed = devices.replicate(np.int32(0), self.experiment.mesh)
        self.batches = self.batches_of_all_epochs()
        versions = {"jax": jax.__version__, "grain": grain.__version__}
        self.description = {"versions": versions, "devices": devices.describe(self.experiment.mesh)}

    def batches_of_all_epochs(self):
        while True:
            order = self.epoch_order(self.state.step, self.seed)
            with contextlib.closing(self.data.batches(order.rows_EB)) as batches:
                for data in itertools.islice(batches, self.experiment.steps_per_epoch):
                    yield data, order

    def round(self) -> dict:
        for _ in range(2):  # the first is not timed
            started = time.perf_counter()
            for data, order in itertools.islice(self.batches, self.steps):
                self.state, sums = self.run(self.state, data, order, steps=1)
                self.jax.block_until_ready(sums)
            seconds = time.perf_counter() - started
        images = self.steps * self.experiment.config.train.batch_size
        return {"images_per_second": images / seconds, "loss": float(sums.loss_sum) / int(sums.count)}


def work(pipeline: str, settings: dict) -> None:
    """Serves one pipeline: writes its description, then the speed of a round for every line on stdin."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    training = Training(pipeline, settings)
    training.round()
    print(json.dumps(training.description), file=output)
    for _ in sys.stdin:
        print(json.dumps(training.round()), file=output)


def train_once(pipeline: str, settings: dict) -> None:
    """A complete run in this process; prints its peak memory, and the seconds from its start to its first step."""
    started = time.perf_counter()
    from cifar_jax import load_config, train
    from cifar_jax.training.hooks import Hook

    class FirstStep(Hook):
        seconds = 0.0

        def before_steps(self, step: int) -> None:
            self.seconds = self.seconds or time.perf_counter() - started

    keys = {"data.name": "folder", "data.dir": settings["folder"], "data.pipeline": pipeline, "data.image_size": 64}
    keys |= {"model.widths": (16, 32), "train.epochs": 1, "train.batch_size": 128, "evaluation.tta": False}
    hook = FirstStep()
    with tempfile.TemporaryDirectory() as workdir:
        train(load_config("cnn_scratch", **keys), workdir, hooks=[hook])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in kilobytes
    print(json.dumps({"peak_bytes": peak, "seconds_to_first_step": hook.seconds}))


def measured_speed(folder: Path, arguments: argparse.Namespace) -> dict[str, dict]:
    settings = {"folder": str(folder), "steps": arguments.steps, "batch_size": arguments.batch_size}
    workers = []
    try:
        for name in PIPELINES:
            workers.append(Worker(name, sys.executable, settings, script=Path(__file__)))
        for number in range(arguments.rounds):
            for worker in workers if number % 2 == 0 else reversed(workers):
                worker.round()
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    return {worker.name: worker.result() for worker in workers}


def printed_by(script: str, *arguments: str, cache: str):
    """The JSON value in the last line that a script prints, in a process with this cache of decoded images."""
    environment = {**os.environ, "CIFAR_JAX_CACHE": cache, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured_memory(folder: Path, pipeline: str) -> dict:
    """In a separate process, with an empty cache of decoded images."""
    with tempfile.TemporaryDirectory() as cache:
        return printed_by(__file__, pipeline, json.dumps({"folder": str(folder), "run": True}), cache=cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=positive, default=20_000, help="training images of 32 pixels")
    parser.add_argument("--many", type=positive, default=100_000, help="training images of 64 pixels")
    parser.add_argument("--batch-size", type=positive, default=512)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "streaming.json")
    arguments = parser.parse_args()
    before = surroundings()
    with tempfile.TemporaryDirectory() as root:
        small, many = Path(root, "small"), Path(root, "many")
        draw(small, count=arguments.images, side=32, suffix=".png")
        speed = measured_speed(small, arguments)
        draw(many, count=arguments.many, side=64, suffix=".jpg")
        memory = {name: measured_memory(many, name) for name in PIPELINES}
    names = ("images", "many", "batch_size", "rounds", "steps")
    report = {
        **before,
        "settings": {name: getattr(arguments, name) for name in names},
        "speed": speed,
        "stream_divided_by_device": speed["stream"]["median"] / speed["device"]["median"],
        "decoded_bytes": (arguments.many + arguments.many // 10 + 1) * 64 * 64 * 3,
        "memory": memory,
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    for name in PIPELINES:
        gigabytes, seconds = memory[name]["peak_bytes"] / 1e9, memory[name]["seconds_to_first_step"]
        print(f"{name}: {speed[name]['median']:,.0f} images/s; peak {gigabytes:.2f} GB, first step at {seconds:.0f} s")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PIPELINES:
        sys.path.insert(0, str(HERE.parent))
        from cifar_jax.memory import use_huge_pages

        use_huge_pages()  # as main.py does
        given = json.loads(sys.argv[2])
        (train_once if given.pop("run", False) else work)(sys.argv[1], given)
    else:
        main()
