"""Random weights, their outputs and gradients, and comparisons; the cache is a temporary folder."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from cifar_jax.devices import REPLICATED, make_mesh, split_over_devices
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.pretrained import Backbone, convert
from cifar_jax.pretrained.families import FAMILIES


@pytest.fixture(autouse=True)
def _temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def random_array():
    """random_array(name, shape): kernels and statistics with which activations neither vanish nor grow."""

    def draw(name, shape):
        random = np.random.default_rng(list(name.encode()))
        scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.2
        array = random.normal(scale=scale, size=shape)
        positive = name.endswith(("scale", "var"))
        return (array + 1 if positive and len(shape) == 1 else array).clip(0.3 if positive else None).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def random_backbone(random_array):
    """random_backbone(variant): a small network, every parameter and statistic random."""

    def make(variant, *, stage_sizes=(2, 1, 1, 1), width=8, stem_width=0, block="bottleneck", num_classes=5):
        settings = {"stage_sizes": stage_sizes, "width": width, "stem_width": stem_width, "block": block}
        shapes = convert.parameter_shapes(variant=variant, **settings, num_classes=num_classes)
        arrays = {path: random_array(path, shape) for path, shape in shapes.items()}
        statistics = {path: array for path, array in arrays.items() if path.endswith(("/mean", "/var"))}
        params = {path: array for path, array in arrays.items() if path not in statistics}
        family = next(family for family in FAMILIES if family.variant == variant)
        return Backbone(
            variant=variant,
            **settings,
            params=unflatten_dict(params, sep="/"),
            batch_stats=unflatten_dict(statistics, sep="/"),
            preprocessing=family.preprocessing,
            source="random",
            sha256="",
        )

    return make


@pytest.fixture(scope="session")
def stages_of():
    """stages_of(backbone, images_NHWC): {'stem': ..., 'stage1': ..., 'features': ..., 'logits': ...} in float32."""

    def run(backbone, images_NHWC):
        model = network(backbone)
        variables = {"params": backbone.params, "batch_stats": backbone.batch_stats}
        with jax.default_matmul_precision("highest"):
            stages = jax.jit(lambda v, x: model.apply(v, x, train=False, method="stages"))(variables, images_NHWC)
            logits_NK = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images_NHWC)
        return {name: np.asarray(value) for name, value in (stages | {"logits": logits_NK}).items()}

    return run


def network(backbone, **settings):
    fields = VARIANTS[backbone.variant] | backbone.architecture | settings
    return ResNet(num_classes=backbone.num_classes, **fields)


@pytest.fixture
def training_step():
    """training_step(backbone, images_NHWC, labels_N): loss, gradients and updated batch_stats, in float64.

    In float32, rounding switches ReLUs close to zero, which changes the third digit of the gradients.
    """

    def step(backbone, images_NHWC, labels_N, **settings):
        model = network(backbone, dtype=jnp.float64, **settings)
        params, batch_stats, images_NHWC = jax.tree.map(
            np.float64, (backbone.params, backbone.batch_stats, images_NHWC)
        )

        def loss_of(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits_NK, updated = model.apply(variables, images_NHWC, train=True, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits_NK, labels_N).mean()
            return loss, updated["batch_stats"]

        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        differentiate = split_over_devices(differentiate, make_mesh(1), in_specs=REPLICATED, out_specs=REPLICATED)
        (loss, updated), gradients = jax.device_get(jax.jit(differentiate)(params))
        return loss, gradients, updated

    jax.config.update("jax_enable_x64", True)
    yield step
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def relative_error():
    """relative_error(actual, expected): norm of the difference over the norm of `expected`, in float64."""

    def error(actual, expected):
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert actual.shape == expected.shape
        return np.linalg.norm(actual - expected) / np.linalg.norm(expected)

    return error


@pytest.fixture
def torch_names(monkeypatch):
    """A module `torch` with the names in PyTorch's pickles, so that such files can be written without PyTorch."""
    torch = types.ModuleType("torch")
    torch._utils = types.ModuleType("torch._utils")

    def add(module, value, name):
        value.__module__, value.__qualname__, value.__name__ = module.__name__, name, name
        setattr(module, name, value)

    for name in ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage"):
        add(torch, type(name, (), {}), name)
    add(torch._utils, lambda *arguments: None, "_rebuild_tensor_v2")
    add(torch._utils, lambda *arguments: None, "_rebuild_parameter")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", torch._utils)
    return torch
