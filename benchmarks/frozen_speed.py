"""Ten epochs of a frozen ResNet-50 on cached features, compared with Keras 3 (JAX), which runs the backbone each epoch.

    python benchmarks/frozen_speed.py --size 32|224 --images N [--peer-python PATH]

Ours is timed for one pass of the images through the backbone plus ten epochs of SGD on the cached features. Keras is
timed for one epoch of `model.fit` with a non-trainable backbone, times ten, because its epochs are identical. Both
compile and warm up before the timing. Rounds alternate.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from training_speed import HERE, Worker, positive, surroundings

EPOCHS = 10


def noise(settings) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images of 32 pixels and int32 labels of ten classes."""
    generator = np.random.default_rng(0)
    images_NHWC = generator.integers(0, 256, (settings.images, 32, 32, 3), dtype=np.uint8)
    return images_NHWC, generator.integers(0, 10, settings.images, dtype=np.int32)


class Ours:
    def __init__(self, settings):
        import jax

        from cifar_jax import devices
        from cifar_jax.config import load_config
        from cifar_jax.data import Dataset, ImageSet
        from cifar_jax.evaluation import features
        from cifar_jax.experiment import assemble
        from cifar_jax.training import state, step

        config = load_config("resnet50_frozen")
        config.model.image_size = settings.size
        config.optimizer.update(name="sgd", learning_rate=0.1)
        config.train.update(batch_size=settings.batch_size, epochs=EPOCHS)
        devices.start(config)
        config.evaluation.batch_size = settings.forward_batch
        images = ImageSet(*noise(settings), class_names=tuple("0123456789"))
        self.jax, self.features = jax, features
        self.experiment = assemble(config, Dataset("noise", "drawn", train=images, test=images, validation=images))
        self.initial = state.initial_state(self.experiment)
        self.epoch_order = step.compile_epoch_order(self.experiment)
        self.seed = devices.replicate(np.int32(0), self.experiment.mesh)
        self.run = step.compile_steps(self.experiment)
        self.description = {"versions": {"jax": jax.__version__}, "devices": devices.describe(self.experiment.mesh)}

    def train(self) -> float:
        self.experiment.features.clear()
        split = self.features.place_features(self.experiment, "train", self.initial.variables)
        state = self.jax.tree.map(lambda x: x.copy(), self.initial)
        for _ in range(EPOCHS):
            order = self.epoch_order(state.step, self.seed)
            for _ in range(self.experiment.steps_per_epoch):
                state, sums = self.run(state, split, order, steps=1)
        return float(sums.loss_sum) / int(sums.count)

    factor = 1


class Keras:
    def __init__(self, settings):
        import jax
        import keras

        backbone = keras.applications.ResNet50(
            weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)
        )
        backbone.trainable = False
        images = keras.Input((32, 32, 3), dtype="uint8")
        x = keras.layers.Rescaling(1.0)(images)
        if settings.size != 32:
            x = keras.layers.Resizing(settings.size, settings.size, interpolation="bicubic")(x)
        x = keras.layers.Dense(10)(backbone(x, training=False))
        self.model = keras.Model(images, x)
        self.model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        images_NHWC, labels_N = noise(settings)
        self.call = {"x": images_NHWC, "y": labels_N, "batch_size": settings.forward_batch}
        self.description = {"versions": {"keras": keras.__version__, "jax": jax.__version__}}

    def train(self) -> float:
        return self.model.fit(**self.call, epochs=1, verbose=0).history["loss"][0]

    factor = EPOCHS


def work(name: str, settings: SimpleNamespace) -> None:
    """Serves one variant: writes its description, then the seconds of ten epochs for every line on stdin."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    variant = {"ours": Ours, "keras": Keras}[name](settings)
    variant.train()
    print(json.dumps(variant.description), file=output)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = variant.train()
        seconds = variant.factor * (time.perf_counter() - started)
        print(json.dumps({"seconds_of_ten_epochs": seconds, "loss": loss}), file=output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=positive, default=32)
    parser.add_argument("--images", type=positive, default=2048)
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_argument("--forward-batch", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--peer-python", default=sys.executable)
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("size", "images", "batch_size", "forward_batch")}
    before = surroundings()
    workers = [
        Worker(name, python, settings, script=Path(__file__))
        for name, python in (("ours", sys.executable), ("keras", arguments.peer_python))
    ]
    for number in range(arguments.rounds):
        for worker in workers if number % 2 == 0 else reversed(workers):
            worker.round()
    seconds = {w.name: [answer["seconds_of_ten_epochs"] for answer in w.answers] for w in workers}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report = {
        **before,
        "settings": settings | {"epochs": EPOCHS, "rounds": arguments.rounds},
        "variants": {
            worker.name: worker.description | {"seconds_of_ten_epochs": seconds[worker.name]} for worker in workers
        },
        "keras_divided_by_ours": medians["keras"] / medians["ours"],
    }
    output = HERE / "results" / f"frozen_speed_{arguments.size}.json"
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"Keras takes {report['keras_divided_by_ours']:.1f} x as long; written to {output}")
    for worker in workers:
        worker.process.kill()


if __name__ == "__main__":
    if sys.argv[1] in ("ours", "keras"):
        if sys.argv[1] == "ours":
            from cifar_jax.memory import use_huge_pages

            use_huge_pages()
        work(sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2])))
    else:
        main()
