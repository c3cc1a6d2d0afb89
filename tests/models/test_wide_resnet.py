"""A WideResNet gives the logits, gradients and running statistics of the published network in PyTorch, in float64.

Run with `pytest -m torch`. These tests are skipped where PyTorch is not installed.
"""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from cifar_jax import models
from cifar_jax.config import load_config
from cifar_jax.devices import REPLICATED, make_mesh, split_over_devices
from cifar_jax.models.classifier import abstract_variables
from cifar_jax.models.wide_resnet import WideResNet

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.torch

SIZES = {"stage_sizes": (2, 1, 1), "width": 8}
LABELS_N = np.array([3, 1, 4, 1])
IMAGES_NHWC = np.random.default_rng(0).normal(size=(4, 16, 16, 3))


class Block(nn.Module):
    """As the authors' `wide_basic`: a norm and ReLU that the 1x1 convolution of the shortcut shares."""

    def __init__(self, inputs, outputs, stride, dropout):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.shortcut_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x):
        y = torch.relu(self.norm1(x))
        shortcut = self.shortcut_conv(y) if hasattr(self, "shortcut_conv") else x
        y = torch.relu(self.norm2(self.conv1(y)))
        return shortcut + self.conv2(self.dropout(y))


class Network(nn.Module):
    def __init__(self, stage_sizes, width, classes, dropout=lambda x: x):
        super().__init__()
        self.stem_conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.blocks, inputs = [], 16
        for stage, blocks in enumerate(stage_sizes, start=1):
            for number in range(1, blocks + 1):
                outputs, stride = width * 2 ** (stage - 1), 2 if stage > 1 and number == 1 else 1
                self.blocks.append(f"stage{stage}_block{number}")
                self.add_module(self.blocks[-1], Block(inputs, outputs, stride, dropout))
                inputs = outputs
        self.final_norm, self.head = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.stem_conv(x)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(torch.relu(self.final_norm(x)).mean((2, 3)))


LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(path):
    return ".".join((*path[:-1], LEAVES[path[-1]]))


def as_torch(array):
    """HWIO -> OIHW, (features, K) -> (K, features)."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim))
    return torch.tensor(np.asarray(array).transpose(order).copy())


def load(network, variables):
    arrays = flatten_dict(variables["params"]) | flatten_dict(variables["batch_stats"])
    state = {torch_name(path): as_torch(array) for path, array in arrays.items()}
    report = network.double().load_state_dict(state, strict=False)
    assert not report.unexpected_keys and all(name.endswith("num_batches_tracked") for name in report.missing_keys)
    return network


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def random_variables(model):
    random = np.random.default_rng(1)

    def draw(path, abstract):
        name, shape = path[-1].key, abstract.shape
        if name in ("scale", "var"):
            return random.uniform(0.5, 1.5, shape)
        return random.normal(size=shape) * (np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.2)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, 16))


def masked(x, axis):
    """A fixed mask in place of a random one: a factor for each channel."""
    kept = np.random.default_rng(x.shape[axis]).random(x.shape[axis]) > 0.3
    factors = kept / 0.7
    return x * (torch.tensor(factors)[:, None, None] if axis == 1 else factors)


def mask_dropout(call, arguments, keywords, context):
    if not isinstance(context.module, flax.linen.Dropout):
        return call(*arguments, **keywords)
    return arguments[0] if keywords["deterministic"] else masked(arguments[0], axis=3)


def assert_close(tree, expected_of, tolerance):
    for path, value in flatten_dict(tree).items():
        expected = expected_of(torch_name(path)).detach()
        assert torch.linalg.norm(as_torch(value) - expected) < tolerance * torch.linalg.norm(expected), path


def test_a_step_of_training_is_that_of_the_published_network(float64):
    model = WideResNet(num_classes=5, dropout=0.3, dtype=jnp.float64, **SIZES)
    variables = random_variables(model)
    network = load(Network(**SIZES, classes=5, dropout=lambda x: masked(x, axis=1)), variables).train()
    counts = {}  # values per channel, from which BatchNorm computes a variance
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, x, y, name=name: counts.update({name: y.numel() / y.shape[1]}))
    loss_of_torch = nn.functional.cross_entropy(
        network(torch.tensor(IMAGES_NHWC).permute(0, 3, 1, 2)), torch.tensor(LABELS_N)
    )
    loss_of_torch.backward()

    def loss_of(params):
        variables_now = {"params": params, "batch_stats": variables["batch_stats"]}
        with flax.linen.intercept_methods(mask_dropout):
            logits_NK, updated = model.apply(variables_now, IMAGES_NHWC, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits_NK, LABELS_N).mean(), updated["batch_stats"]

    differentiate = jax.value_and_grad(loss_of, has_aux=True)
    differentiate = split_over_devices(differentiate, make_mesh(1), in_specs=REPLICATED, out_specs=REPLICATED)
    (loss, batch_stats), gradients = jax.device_get(jax.jit(differentiate)(variables["params"]))

    assert loss == pytest.approx(loss_of_torch.item(), rel=1e-6)  # the features are float32
    assert_close(gradients, lambda name: network.get_parameter(name).grad, 1e-5)
    before = {torch_name(path): as_torch(value) for path, value in flatten_dict(variables["batch_stats"]).items()}

    def statistic(name):
        value, n = network.get_buffer(name), counts[name.rpartition(".")[0]]
        if name.endswith("mean"):
            return value
        return 0.9 * before[name] + (value - 0.9 * before[name]) * (n - 1) / n  # PyTorch's estimate is unbiased

    assert_close(batch_stats, statistic, 1e-5)


@pytest.mark.parametrize("size", [16, 15])
def test_logits_of_evaluation_are_those_of_the_published_network(size, float64):
    model = WideResNet(num_classes=5, dropout=0.3, dtype=jnp.float64, **SIZES)
    variables, images_NHWC = random_variables(model), IMAGES_NHWC[:, :size, :size]
    network = load(Network(**SIZES, classes=5), variables).eval()
    expected = network(torch.tensor(images_NHWC).permute(0, 3, 1, 2)).detach()
    logits_NK = jax.jit(lambda images: model.apply(variables, images, train=False))(images_NHWC)
    np.testing.assert_allclose(logits_NK, expected, rtol=1e-4, atol=1e-6)


def test_wide_resnet_28_10_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = Network((4, 4, 4), 160, classes=10)
    expected = {name: tuple(value.shape) for name, value in network.named_parameters()}
    config = load_config("wide_resnet_28_10").model
    model = models.build(config, platform="cpu", num_classes=10, steps_per_epoch=1)
    params = flatten_dict(abstract_variables(model, 32)["params"])
    assert {torch_name(path) for path in params} == expected.keys()
    assert sum(np.prod(value.shape) for value in params.values()) == sum(map(np.prod, expected.values())) == 36_479_194
