"""Parameters split over devices: the steps and the files of a run are those of whole parameters."""

import jax
import numpy as np
import pytest
from interruption import stop_after

from cifar_jax import experiment as experiments
from cifar_jax.config import default_config
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.data.batches import place
from cifar_jax.devices import replicate
from cifar_jax.errors import UsageError
from cifar_jax.modes.evaluate import evaluate
from cifar_jax.modes.train import train_run as train
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.signals import Interrupted
from cifar_jax.training.requirements import require_trainable
from cifar_jax.training.restore import restore_run
from cifar_jax.training.state import device_bytes, initial_state, tree_bytes
from cifar_jax.training.step import compile_epoch_order, compile_steps

ADAMW = {"optimizer.name": "adamw", "optimizer.learning_rate": 0.01, "train.ema_decay": 0.5}
CLIPPED = {"optimizer.clip_norm": 0.5, "train.lookahead_steps": 2}
SAM = {"optimizer.sam_radius": 0.1, "optimizer.accumulate_steps": 2, "train.ema_decay": 0.5}


def small_config(**changes):
    config = default_config()
    config.augment.update(flip="none", crop_padding=0)
    config.model.widths = (8, 12)
    config.optimizer.rules = (("whiten/kernel", 0.0), (".*", 1.0))
    config.optimizer.update(name="sgd", learning_rate=0.1)
    config.train.update(batch_size=16, epochs=1)
    config.update_from_flattened_dict(changes)
    return config


def image_set(size, seed):
    random = np.random.default_rng(seed)
    return ImageSet(
        random.integers(0, 256, (size, 8, 8, 3), np.uint8), random.integers(0, 4, size, np.int32), tuple("abcd")
    )


def experiment_of(**changes):
    config = small_config(**{"mesh.devices": 8, **changes})
    data = Dataset("synthetic", "a test", image_set(70, 0), image_set(8, 1), validation=image_set(8, 2))
    return experiments.assemble(config, data)


def state_after(steps: int, *, fsdp: int, **changes):
    """The state after this many steps on eight devices."""
    experiment = experiment_of(**{"mesh.fsdp": fsdp, **changes})
    state, run = initial_state(experiment), compile_steps(experiment)
    order = compile_epoch_order(experiment)(state.step, replicate(np.int32(0), experiment.mesh))
    split = place(experiment.dataset.train, experiment.mesh)
    for _ in range(steps):
        state, _ = run(state, split, order, steps=1)
    return state


def assert_close(values, expected, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=tolerance), values, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, tolerance",
    [(CLIPPED, 1e-5), (SAM, 1e-5), (ADAMW, 2e-3)],  # Adam divides a gradient of almost 0 by its size
    ids=["clipped", "sam", "adamw"],
)
def test_steps_with_split_parameters_equal_those_with_whole_ones(options, tolerance):
    expected = jax.device_get(state_after(3, fsdp=1, **options))
    for fsdp in (2, 8):
        state = state_after(3, fsdp=fsdp, **options)
        assert not state.params["block1_conv1"]["kernel"].is_fully_replicated
        assert_close(jax.device_get(state), expected, tolerance)


def test_each_device_keeps_its_part_of_every_kernel_and_of_what_the_optimizer_knows_of_it():
    whole, split = (state_after(0, fsdp=fsdp, **ADAMW) for fsdp in (1, 4))
    of_kernels = sum(leaf.nbytes for path, leaf in jax.tree.leaves_with_path(whole.params) if path[-1].key == "kernel")
    assert device_bytes(whole) == tree_bytes(whole) == tree_bytes(split)
    copies = 4  # parameters, their average, and two moments
    whiten = whole.params["whiten"]["kernel"].nbytes  # frozen: without moments
    saved = copies * of_kernels - 2 * whiten
    assert device_bytes(whole) - device_bytes(split) == saved * 3 // 4
    jax.tree.map(lambda part, value: np.testing.assert_array_equal(part, value), split.params, whole.params)


def test_only_the_parameters_of_the_pattern_are_split():
    state = state_after(0, fsdp=2, **{"mesh.fsdp_parameters": "^head/"})
    split = {path[0].key for path, leaf in jax.tree.leaves_with_path(state.params) if not leaf.is_fully_replicated}
    assert split == {"head"}


@pytest.mark.slow
def test_a_run_changes_the_devices_that_share_its_parameters_and_is_evaluated_on_any(tmp_path, monkeypatch):
    def config(fsdp: int):
        return small_config(
            **{"data.name": "shapes", "data.limit": 200, "mesh.devices": 8, "mesh.fsdp": fsdp} | CLIPPED
        )

    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            train(config(8), tmp_path / "split")
    results = train(config(2), tmp_path / "split")
    train(config(1), tmp_path / "whole")
    states = [restore_run(tmp_path / name, checkpoint="latest")[1].state for name in ("split", "whole")]
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(states))
    assert_close(*(jax.device_get(state.variables) for state in states))
    assert evaluate(tmp_path / "split")["accuracy"] == results["test"]["accuracy"]
    history = read_json(RunFolder(tmp_path / "split").history_json)
    assert history["epoch"] == [1]


def test_a_number_of_devices_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match=r"mesh.fsdp=3: the 8 devices do not divide by it"):
        state_after(0, fsdp=3)


def test_a_pattern_that_splits_nothing_is_refused():
    for pattern in ("^haed/", "norm./bias$"):  # no layer of that name; 12 values each
        experiment = experiment_of(**{"mesh.fsdp": 8, "mesh.fsdp_parameters": pattern, "model.widths": (12, 12)})
        with pytest.raises(UsageError, match=r"matches no parameter with a dimension that divides by mesh.fsdp=8"):
            require_trainable(experiment)
