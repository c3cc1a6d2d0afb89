"""One variant of the training speed comparison, in its own process, started by `training_speed.py`.

    python benchmarks/training_speed_worker.py {ours,keras,torch} SETTINGS_JSON

Protocol: one JSON object per line on stdout. First the description of the variant, or {"absent": reason}; then, for
every line on stdin, the speed in images/s of `steps` training steps, after as many untimed steps. Settings: norm,
steps, batch_size, images, for ours `changes` of the recipe's keys, and for the peers the widths of our network. `train`
of each class samples batches, augments, trains and waits for the result.
"""

import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np

LEARNING_RATE, MOMENTUM, LABEL_SMOOTHING, SHIFT = 0.01, 0.9, 0.2, 2
BATCHNORM_MOMENTUM, BATCHNORM_EPSILON = 0.6, 1e-5
MEAN, STD = 0.5, 12**-0.5  # of uniform noise in 0..1


def noise(images: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (images, 32, 32, 3) and int32 labels of ten classes: speed does not depend on the content of an image."""
    generator = np.random.default_rng(0)
    images_NHWC = generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    return images_NHWC, generator.integers(0, 10, images, dtype=np.int32)


class Ours:
    """The network of configs/cnn_scratch.py in the compiled step of `main.py`, one step per dispatch as on any CPU."""

    def __init__(self, settings):
        import flax
        import jax
        import optax

        from cifar_jax import devices
        from cifar_jax.config import load_config
        from cifar_jax.data import Dataset, ImageSet, batches
        from cifar_jax.experiment import assemble
        from cifar_jax.training.state import initial_state
        from cifar_jax.training.step import compile_epoch_order, compile_steps

        changes = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.changes.items()}
        config = load_config("cnn_scratch", **changes)
        config.model.norm = settings.norm
        config.optimizer.update(name="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0)
        config.schedule.name = "constant"
        config.augment.update(flip="random", crop_padding=SHIFT)
        config.train.update(batch_size=settings.batch_size, label_smoothing=LABEL_SMOOTHING)
        devices.start(config)
        images = ImageSet(*noise(settings.images), class_names=tuple("0123456789"))
        dataset = Dataset("noise", "drawn", train=images, test=images, validation=images)
        experiment = assemble(config, dataset)

        self.jax, self.steps = jax, settings.steps
        self.state = initial_state(experiment)
        self.split = batches.place(experiment.splits["train"], experiment.mesh)
        self.epoch_order = compile_epoch_order(experiment)
        self.seed = devices.replicate(np.int32(0), experiment.mesh)
        order = self.epoch_order(self.state.step, self.seed)
        self.program = compile_steps(experiment).lower(self.state, self.split, order, steps=1).compile()
        frozen = self.state.params["whiten"]["kernel"].size
        self.description = {
            "versions": {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__},
            "trained_parameters": sum(p.size for p in jax.tree.leaves(self.state.params)) - frozen,
            "widths": list(config.model.widths),
            "devices": devices.describe(experiment.mesh),
        }

    def train(self) -> float:
        order = self.epoch_order(self.state.step, self.seed)
        for _ in range(self.steps):
            self.state, sums = self.program(self.state, self.split, order)
            self.jax.block_until_ready(sums)
        return float(sums.loss_sum) / int(sums.count)


class Keras:
    """`model.fit` on NumPy arrays with the augmentation as layers of the model, compiled by Keras' JAX backend."""

    def __init__(self, settings):
        import jax
        import keras
        from keras import layers

        class Bias(layers.Layer):
            def build(self, shape):
                self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros")

            def call(self, x):
                return x + self.bias

        def norm():
            if settings.norm == "none":
                return Bias()
            return layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, epsilon=BATCHNORM_EPSILON, scale=False)

        def gelu(x):
            return keras.ops.gelu(x, approximate=True)

        images = keras.Input((32, 32, 3), dtype="uint8")
        x = layers.Rescaling(1 / (255 * STD), offset=-MEAN / STD)(images)
        x = layers.RandomFlip("horizontal")(x)
        # 'nearest' shifts by whole pixels like the other variants, and is cheaper than the default 'bilinear'
        x = layers.RandomTranslation(SHIFT / 32, SHIFT / 32, fill_mode="reflect", interpolation="nearest")(x)
        x = layers.Conv2D(24, 2, padding="same", use_bias=False, trainable=False)(x)
        x = gelu(Bias()(x))
        for width in settings.widths:
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = gelu(norm()(layers.MaxPooling2D(2)(x)))
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = gelu(norm()(x))
        x = layers.Dense(10, use_bias=False)(layers.GlobalMaxPooling2D()(x))
        self.model = keras.Model(images, x / 9)
        self.model.compile(
            keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM, nesterov=True),
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING),
        )
        size = settings.steps * settings.batch_size
        images_NHWC, labels_N = noise(settings.images)
        targets_NK = np.eye(10, dtype=np.float32)[labels_N]  # one-hot targets are not part of Keras' time
        self.call = {"x": images_NHWC[:size], "y": targets_NK[:size], "batch_size": settings.batch_size}
        self.description = {
            "versions": {"keras": keras.__version__, "jax": jax.__version__},
            "trained_parameters": sum(int(np.prod(w.shape)) for w in self.model.trainable_weights),
        }

    def train(self) -> float:
        return self.model.fit(**self.call, epochs=1, shuffle=True, verbose=0).history["loss"][0]


class Torch:
    """PyTorch in eager mode, channels-last, with uint8 images in memory and one gather per batch."""

    def __init__(self, settings):
        import torch
        from torch import nn

        class Bias(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

            def forward(self, x):
                return x + self.bias

        def norm(channels):
            if settings.norm == "none":
                return Bias(channels)
            layer = nn.BatchNorm2d(channels, eps=BATCHNORM_EPSILON, momentum=1 - BATCHNORM_MOMENTUM)
            layer.weight.requires_grad_(False)  # no scale
            return layer

        gelu = nn.GELU(approximate="tanh")
        whiten = nn.Conv2d(3, 24, 2)
        whiten.weight.requires_grad_(False)
        layers, inputs = [nn.ZeroPad2d((0, 1, 0, 1)), whiten, gelu], 24
        for width in settings.widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.MaxPool2d(2), norm(width), gelu]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width), gelu]
            inputs = width
        layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(inputs, 10, bias=False)]
        self.model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
        images_NHWC, labels_N = noise(settings.images)
        self.images_NHWC, self.labels_N = torch.from_numpy(images_NHWC), torch.from_numpy(labels_N).long()
        self.torch, self.settings = torch, settings
        self.description = {
            "versions": {"torch": torch.__version__},
            "trained_parameters": sum(parameter.numel() for parameter in trained),
        }

    def train(self) -> float:
        batch_size = self.settings.batch_size
        order_N = self.torch.randperm(len(self.labels_N))
        for indices_B in order_N[: self.settings.steps * batch_size].split(batch_size):
            images_NCHW = (self._augmented(indices_B).float() - 255 * MEAN) * (1 / (255 * STD))
            logits_NK = self.model(images_NCHW) / 9
            loss = self.torch.nn.functional.cross_entropy(
                logits_NK, self.labels_N[indices_B], label_smoothing=LABEL_SMOOTHING
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()

    def _augmented(self, indices_B):
        """uint8 (B, 3, 32, 32) in channels-last memory, shifted and flipped like `cifar_jax.preprocessing.augment`."""
        torch = self.torch
        shifts_2B1 = torch.randint(-SHIFT, SHIFT + 1, (2, len(indices_B), 1))
        rows_BH, columns_BW = 31 - (31 - (torch.arange(32) + shifts_2B1).abs()).abs()
        flips_B1 = torch.rand(len(indices_B), 1) < 0.5
        columns_BW = torch.where(flips_B1, columns_BW.flip(1), columns_BW)
        rows_BH1, columns_B1W = rows_BH[:, :, None], columns_BW[:, None, :]
        return self.images_NHWC[indices_B[:, None, None], rows_BH1, columns_B1W].permute(0, 3, 1, 2)


def main(name: str, settings: SimpleNamespace) -> None:
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries goes to stderr
    try:
        variant = {"ours": Ours, "keras": Keras, "torch": Torch}[name](settings)
    except ModuleNotFoundError as error:
        print(json.dumps({"absent": str(error)}), file=output)
        return
    variant.train()  # compiles and fills caches
    print(json.dumps(variant.description), file=output)
    for _ in sys.stdin:
        variant.train()  # not timed: other processes may have displaced its caches
        started = time.perf_counter()
        loss = variant.train()
        speed = settings.steps * settings.batch_size / (time.perf_counter() - started)
        print(json.dumps({"images_per_second": speed, "loss": loss}), file=output)


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        from cifar_jax.memory import use_huge_pages

        use_huge_pages()  # as main.py does
    main(sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2])))
