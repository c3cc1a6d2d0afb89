"""One variant of the ResNet-50 speed comparison, in its own process, started by `resnet_speed.py`.

    python benchmarks/resnet_speed_worker.py {ours,keras,torch} SETTINGS_JSON

Protocol: one JSON object per line on stdout. First the description of the variant, or {"absent": reason}; then, for
every line on stdin, which names a case, the speed of that case in images/s. Settings: cases, {'forward_64': [image
size, batch size], ...}, and seconds, the minimum time of one round. A forward pass ends with the logits on the host,
a training step (SGD with Nesterov momentum) with the loss on the host.
"""

import functools
import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np

LEARNING_RATE, MOMENTUM, CLASSES = 0.001, 0.9, 10
EPSILON, BATCHNORM_MOMENTUM = 1.001e-5, 0.9


def noise(image_size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (batch_size, image_size, image_size, 3) and int32 labels; speed does not depend on their values."""
    generator = np.random.default_rng(0)
    images_NHWC = generator.standard_normal((batch_size, image_size, image_size, 3), np.float32)
    return images_NHWC, generator.integers(0, CLASSES, batch_size, dtype=np.int32)


class Ours:
    """The ResNet-50 of cifar_jax with a plain training step on a mesh of one device."""

    def __init__(self):
        import flax
        import jax
        import optax

        from cifar_jax.devices import DATA_AXIS, REPLICATED, SHARDED, make_mesh, split_over_devices
        from cifar_jax.models.classifier import abstract_variables
        from cifar_jax.models.resnet import VARIANTS, ResNet
        from cifar_jax.models.resnet_init import fill

        model = ResNet(num_classes=CLASSES, **VARIANTS["v1"])
        optimizer = optax.sgd(LEARNING_RATE, MOMENTUM, nesterov=True)

        def step(params, batch_stats, opt_state, images_NHWC, labels_N):
            def loss_of(params):
                variables = {"params": params, "batch_stats": batch_stats}
                logits_NK, updated = model.apply(variables, images_NHWC, train=True, mutable=["batch_stats"])
                loss = optax.softmax_cross_entropy_with_integer_labels(logits_NK, labels_N).mean()
                return loss, updated["batch_stats"]

            (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
            gradients = jax.lax.pmean(gradients, DATA_AXIS)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), updated, opt_state, loss

        in_specs = (REPLICATED, REPLICATED, REPLICATED, SHARDED, SHARDED)
        on_mesh = split_over_devices(step, make_mesh(1), in_specs=in_specs, out_specs=REPLICATED)
        self.step = jax.jit(on_mesh, donate_argnums=(0, 1, 2))
        self.apply = jax.jit(functools.partial(model.apply, train=False))
        self.variables = jax.device_put(fill(abstract_variables(model, 32), seed=0))
        params, batch_stats = jax.tree.map(np.array, (self.variables["params"], self.variables["batch_stats"]))
        self.state = params, batch_stats, optimizer.init(params)
        self.description = {
            "versions": {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__},
            "kernel_parameters": sum(p.size for p in jax.tree.leaves(params) if p.ndim > 1),
        }

    def forward(self, images_NHWC, labels_N) -> float:
        return float(np.asarray(self.apply(self.variables, images_NHWC)).mean())

    def train(self, images_NHWC, labels_N) -> float:
        *self.state, loss = self.step(*self.state, images_NHWC, labels_N)
        return float(loss)


class Keras:
    """`predict_on_batch` and `train_on_batch` of keras.applications.ResNet50, compiled by Keras' JAX backend."""

    def __init__(self):
        import jax
        import keras

        base = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg", input_shape=(None, None, 3))
        self.model = keras.Model(base.input, keras.layers.Dense(CLASSES)(base.output))
        self.model.compile(
            keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.description = {
            "versions": {"keras": keras.__version__, "jax": jax.__version__},
            "kernel_parameters": sum(int(np.prod(w.shape)) for w in self.model.trainable_weights if len(w.shape) > 1),
        }

    def forward(self, images_NHWC, labels_N) -> float:
        return float(self.model.predict_on_batch(images_NHWC).mean())

    def train(self, images_NHWC, labels_N) -> float:
        return float(self.model.train_on_batch(images_NHWC, labels_N))


class Torch:
    """The same network in PyTorch's eager mode, channels-last."""

    def __init__(self):
        import torch
        from torch import nn

        def conv(inputs, outputs, size, stride=1):
            return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

        def norm(channels):
            return nn.BatchNorm2d(channels, eps=EPSILON, momentum=1 - BATCHNORM_MOMENTUM)

        class Block(nn.Module):
            def __init__(self, inputs, width, stride):
                super().__init__()
                outputs = 4 * width
                self.residual = nn.Sequential(
                    *(conv(inputs, width, 1, stride), norm(width), nn.ReLU(inplace=True)),
                    *(conv(width, width, 3), norm(width), nn.ReLU(inplace=True)),
                    *(conv(width, outputs, 1), norm(outputs)),
                )
                projection = nn.Sequential(conv(inputs, outputs, 1, stride), norm(outputs))
                self.shortcut = projection if inputs != outputs else nn.Identity()

            def forward(self, x_NCHW):
                return nn.functional.relu(self.residual(x_NCHW) + self.shortcut(x_NCHW), inplace=True)

        layers, inputs = [conv(3, 64, 7, 2), norm(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)], 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                layers.append(Block(inputs, 64 * 2**stage, 2 if stage and not block else 1))
                inputs = 256 * 2**stage
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
        self.torch = torch
        self.model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), LEARNING_RATE, MOMENTUM, nesterov=True)
        self.description = {
            "versions": {"torch": torch.__version__},
            "kernel_parameters": sum(p.numel() for p in self.model.parameters() if p.ndim > 1),
        }

    def forward(self, images_NHWC, labels_N) -> float:
        self.model.eval()
        with self.torch.inference_mode():
            return float(self.model(self._channels_last(images_NHWC)).numpy().mean())

    def train(self, images_NHWC, labels_N) -> float:
        self.model.train()
        logits_NK = self.model(self._channels_last(images_NHWC))
        loss = self.torch.nn.functional.cross_entropy(logits_NK, self.torch.from_numpy(labels_N).long())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _channels_last(self, images_NHWC):
        return self.torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)  # a view: channels-last memory is NHWC


def main(name: str, settings: SimpleNamespace) -> None:
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries goes to stderr
    try:
        variant = {"ours": Ours, "keras": Keras, "torch": Torch}[name]()
    except ModuleNotFoundError as error:
        print(json.dumps({"absent": str(error)}), file=output)
        return
    batches = {case: noise(image_size, batch_size) for case, (image_size, batch_size) in settings.cases.items()}
    run = {case: functools.partial(getattr(variant, case.split("_")[0]), *batches[case]) for case in batches}
    for case in sorted(run) * 2:
        run[case]()  # compiles and fills caches
    print(json.dumps(variant.description), file=output)
    for line in sys.stdin:
        case, calls = line.strip(), 0
        run[case]()  # not timed: other processes may have displaced its caches
        started = time.perf_counter()
        while time.perf_counter() - started < settings.seconds:
            result = run[case]()
            calls += 1
        speed = calls * len(batches[case][1]) / (time.perf_counter() - started)
        print(json.dumps({"images_per_second": speed, "result": result}), file=output)


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        from cifar_jax.memory import use_huge_pages

        use_huge_pages()  # as main.py does
    main(sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2])))
