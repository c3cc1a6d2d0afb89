"""The compiled training step: independent of the number of devices and of the steps per dispatch."""

import copy
import functools

import jax
import numpy as np
import pytest

from cifar_jax import experiment as experiments
from cifar_jax.config import default_config
from cifar_jax.config.keys import KEYS
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.data.batches import place
from cifar_jax.devices import replicate
from cifar_jax.training.state import initial_state
from cifar_jax.training.step import compile_epoch_order, compile_steps, lower_steps


def image_set(size, seed):
    random = np.random.default_rng(seed)
    names = tuple("abcde")
    return ImageSet(random.integers(0, 256, (size, 8, 8, 3), np.uint8), random.integers(0, 5, size, np.int32), names)


def experiment_of(*, devices=8, learning_rate=0.1, dropout=0.0, **changes):
    config = default_config()
    config.augment.update(flip="none", crop_padding=0)
    config.model.dropout = dropout
    config.mesh.devices = devices
    config.model.widths = (8,)
    config.optimizer.learning_rate = learning_rate
    config.optimizer.rules = (("whiten/kernel", 0.0), (".*", 1.0))
    config.train.batch_size = 16
    config.train.epochs = 2
    config.update_from_flattened_dict(changes)
    data = Dataset("synthetic", "a test", image_set(70, 0), image_set(9, 1), validation=image_set(11, 2))
    return experiments.assemble(config, data)


class Training:
    """An experiment with everything that a step needs, on the devices."""

    def __init__(self, **settings):
        self.experiment = experiment_of(**settings)
        self.split = place(self.experiment.dataset.train, self.experiment.mesh)
        self.run = compile_steps(self.experiment)
        self.order = functools.partial(
            compile_epoch_order(self.experiment), seed=replicate(np.int32(0), self.experiment.mesh)
        )

    def go(self, dispatches):
        """The state, and the metrics after each dispatch of this many steps, from the beginning of training."""
        state, seen = initial_state(self.experiment), []
        order = self.order(state.step)
        for steps in dispatches:
            state, metrics = self.run(state, self.split, order, steps=steps)
            seen.append(metrics)
        return jax.device_get((state, seen))


@pytest.fixture(scope="module")
def eight():
    return Training(devices=8)


def assert_close(values, expected, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), values, expected)


def test_one_device_and_eight_take_the_same_step(eight):
    on_eight, (metrics_of_eight,) = eight.go([1])
    on_one, (metrics_of_one,) = Training(devices=1).go([1])
    assert metrics_of_eight.count == metrics_of_one.count == 16
    assert metrics_of_eight.correct == metrics_of_one.correct
    assert metrics_of_eight.loss_sum == pytest.approx(metrics_of_one.loss_sum, rel=1e-5)
    assert_close(on_eight.params, on_one.params, 1e-5)
    assert_close(on_eight.batch_stats, on_one.batch_stats, 1e-5)
    before = jax.device_get(initial_state(eight.experiment).params)
    assert (before["head"]["kernel"] != on_one.params["head"]["kernel"]).any()


def test_three_steps_in_one_dispatch_are_three_dispatches(eight):
    together, _ = eight.go([3])
    one_by_one, seen = eight.go([1, 1, 1])
    assert together.step == one_by_one.step == 3
    assert [int(metrics.count) for metrics in seen] == [16, 32, 48]
    assert_close(together.params, one_by_one.params, 1e-6)
    assert_close(together.metrics, one_by_one.metrics, 1e-6)


def test_a_step_moves_nothing_between_host_and_devices(eight):
    state = initial_state(eight.experiment)
    order = eight.order(state.step)
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):  # a control
            jax.numpy.sin(np.ones(3))
        state, _ = eight.run(state, eight.split, order, steps=1)
        state, metrics = eight.run(state, eight.split, eight.order(state.step), steps=1)
    assert metrics.count == 32


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon", "muon_sgd"])
def test_runs_that_differ_in_an_argument_share_one_program(optimizer):
    def program(**changes):
        experiment = experiment_of(devices=1, **{"optimizer.name": optimizer, "train.epochs": 1} | changes)
        return lower_steps(experiment, steps=1).as_text()

    arguments, usual = [key for key, declared in KEYS.items() if declared.is_argument], program()
    assert program(**dict.fromkeys(arguments, 0.25)) == usual
    assert usual not in (program(**{"optimizer.weight_decay": 0.0}), program(**{"optimizer.momentum": 0.25}))


def test_the_arguments_of_the_program_have_their_effect(eight):
    """A program compiled for one value, called with the order of another."""
    changes = {"optimizer.weight_decay": 0.3, "learning_rate": 0.7}
    expected, _ = Training(devices=8, **changes).go([1])
    eight = copy.copy(eight)
    eight.order = Training(devices=8, **changes).order
    jax.tree.map(np.testing.assert_array_equal, eight.go([1])[0], expected)


def test_metrics_are_reset_at_every_epoch(eight):
    assert eight.experiment.steps_per_epoch == 4
    _, seen = eight.go([1, 3, 1])
    assert [int(metrics.count) for metrics in seen] == [16, 64, 16]
    assert all(metrics.first_bad_step == -1 for metrics in seen)


def test_the_first_step_without_a_finite_loss_is_recorded():
    _, seen = Training(devices=1, learning_rate=1e30).go([1, 1, 1])
    finite = [bool(np.isfinite(metrics.loss_sum)) for metrics in seen]
    assert finite == [True, False, False]
    assert [int(metrics.first_bad_step) for metrics in seen] == [-1, 1, 1]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_follows_the_step_so_that_a_run_resumes_bit_for_bit(dropout):
    training = Training(devices=1, dropout=dropout)
    mesh = training.experiment.mesh
    whole, _ = training.go([1, 1])
    half, (at_step_0,) = training.go([1])
    order = training.order(replicate(np.int32(0), mesh))
    resumed, _ = training.run(replicate(half, mesh), training.split, order, steps=1)  # as from a checkpoint
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), whole)
    # Step 4 is the first of the next epoch: here with the same batch and parameters as step 0.
    later = jax.device_get(initial_state(training.experiment)).replace(step=np.int32(4))
    _, at_step_4 = training.run(replicate(later, mesh), training.split, order, steps=1)
    assert (at_step_4.loss_sum == at_step_0.loss_sum) == (dropout == 0)
