"""The weights of BiT give the numbers of an independent reference in float64."""

import numpy as np
import pytest
from bit_oracle import run

from cifar_jax.pretrained import load

pytestmark = pytest.mark.slow

STAGE_SIZES = (2, 1, 1, 1)


@pytest.fixture
def tensors(random_array):
    """Random weights with the names of the published files."""
    shapes = {"root_block/standardized_conv2d/kernel": (7, 7, 3, 32)}
    inputs = 32
    for stage, units in enumerate(STAGE_SIZES, start=1):
        inner = 32 * 2 ** (stage - 1)
        for unit in range(1, units + 1):
            place = f"block{stage}/unit{unit:02}"
            sides = {"a": (1, inputs, inner), "b": (3, inner, inner), "c": (1, inner, 4 * inner)}
            for letter, (side, channels, outputs) in sides.items():
                shapes[f"{place}/{letter}/standardized_conv2d/kernel"] = (side, side, channels, outputs)
                shapes[f"{place}/{letter}/group_norm/gamma"] = shapes[f"{place}/{letter}/group_norm/beta"] = (channels,)
            if unit == 1:
                shapes[f"{place}/a/proj/standardized_conv2d/kernel"] = (1, 1, inputs, 4 * inner)
            inputs = 4 * inner
    shapes |= {"group_norm/gamma": (inputs,), "group_norm/beta": (inputs,)}
    shapes |= {"head/conv2d/kernel": (1, 1, inputs, 5), "head/conv2d/bias": (5,)}
    arrays = {f"resnet/{name}": random_array(name, shape) for name, shape in shapes.items()}
    return {name: array + 1 if name.endswith("gamma") else array for name, array in arrays.items()}


@pytest.mark.parametrize("size", [97, 224])
def test_stages(size, tensors, tmp_path, stages_of, relative_error):
    np.savez(tmp_path / "bit.npz", **tensors)
    backbone = load(tmp_path / "bit.npz")
    assert (backbone.variant, backbone.stage_sizes, backbone.width) == ("bit", STAGE_SIZES, 32)
    assert backbone.batch_stats == {}
    images_NHWC = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    outputs, expected = stages_of(backbone, images_NHWC), run(tensors, images_NHWC, STAGE_SIZES)
    errors = {name: relative_error(outputs[name], expected[name]) for name in outputs}
    print(size, {name: f"{error:.1e}" for name, error in errors.items()})
    assert outputs.keys() == expected.keys()
    assert max(errors.values()) < 1e-5


def test_numbered_scopes(tensors, tmp_path):
    numbered = {
        name.replace("standardized_conv2d", f"standardized_conv2d_{number}").replace(
            "group_norm", f"group_norm_{number}"
        ): array
        for number, (name, array) in enumerate(tensors.items(), start=1)
    }
    np.savez(tmp_path / "bit.npz", **numbered)
    backbone = load(tmp_path / "bit.npz")
    kernel = backbone.params["stage4_block1"]["shortcut_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["resnet/block4/unit01/a/proj/standardized_conv2d/kernel"])
