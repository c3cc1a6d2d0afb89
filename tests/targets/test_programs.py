"""What the programs of a run take, from shapes alone."""

import pytest

from cifar_jax.config import load_config
from cifar_jax.experiment import without_data
from cifar_jax.targets.programs import evaluation_step, training_step
from cifar_jax.training.state import abstract_state, tree_bytes

SMALL = {"data.name": "cifar10", "data.limit": 40, "mesh.devices": 1, "model.widths": (4,), "train.batch_size": 8}
BYTES = 32 * 32 * 3 + 4  # of an image with its label


@pytest.mark.parametrize("fraction, validation, train", [(0.1, 4, 36), (0.0, 0, 0)])
def test_without_a_validation_split_the_test_split_is_evaluated_after_training(fraction, validation, train):
    experiment = without_data(load_config("cnn_scratch", **SMALL | {"data.validation_fraction": fraction}))
    state = abstract_state(experiment)
    optimizer = tree_bytes(state) - tree_bytes(state.variables)
    assert training_step(experiment).other_bytes == validation * BYTES
    assert evaluation_step(experiment).other_bytes == optimizer + train * BYTES


def test_the_steps_of_airbench96_faster_take_the_published_flops():
    experiment = without_data(load_config("cnn_96_faster", **{"mesh.devices": 1}))
    assert experiment.total_steps * training_step(experiment).flops == pytest.approx(3.1e15, rel=0.01)
