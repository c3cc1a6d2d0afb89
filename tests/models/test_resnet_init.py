"""The initial weights that NumPy draws against those of the model's own initializers."""

import jax
import numpy as np
import pytest

from cifar_jax.models.classifier import abstract_variables
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.models.resnet_init import fill

pytestmark = pytest.mark.slow

IMAGES_NHWC = np.zeros((1, 32, 32, 3), np.float32)
SMALL = {"stage_sizes": (2, 1), "width": 32}


@pytest.mark.parametrize(
    "settings", [VARIANTS["v1.5"], VARIANTS["v2"], VARIANTS["bit"], {"block": "basic"}], ids=["v1.5", "v2", "bit", "18"]
)
def test_the_values_are_distributed_as_those_of_the_initializers(settings):
    model = ResNet(num_classes=5, **SMALL, **settings)
    filled = fill(abstract_variables(model, 32), seed=0)
    expected = jax.device_get(jax.jit(lambda: model.init(jax.random.key(0), IMAGES_NHWC, train=False))())

    def compare(path, drawn, expected):
        assert isinstance(drawn, np.ndarray)
        assert (drawn.shape, drawn.dtype) == (expected.shape, np.float32)
        if path[-1].key == "kernel" and path[-2].key != "head":
            deviation = np.sqrt(2 / np.prod([*drawn.shape[:2], drawn.shape[3]]))  # He et al. 2015, fan-out
            for values in (drawn, expected):
                assert abs(values.std() / deviation - 1) < 5 / np.sqrt(2 * values.size)
                assert abs(values.mean() / deviation) < 5 / np.sqrt(values.size)
        else:
            np.testing.assert_array_equal(drawn, expected)

    jax.tree_util.tree_map_with_path(compare, filled, expected)


def test_the_seed_determines_every_kernel():
    abstract = abstract_variables(ResNet(num_classes=5, **SMALL), 32)
    first, repeated, other = (fill(abstract, seed=seed)["params"] for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, repeated)
    kernels = [x for x in jax.tree.leaves(first) if x.ndim == 4]
    others = [x for x in jax.tree.leaves(other) if x.ndim == 4]
    assert not any(np.array_equal(x, y) for x, y in zip(kernels, others, strict=True))
    assert len({x.flat[0] for x in kernels}) == len(kernels)
