"""A configuration with its data and model."""

import logging

import numpy as np
import pytest
from PIL import Image

from cifar_jax import devices, experiment
from cifar_jax.config import default_config, load_config
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.errors import UsageError
from cifar_jax.training.requirements import note_other_devices, require_trainable


def test_one_line_of_the_log_describes_the_data(caplog):
    caplog.set_level(logging.INFO)
    config = default_config()
    config.data.update({"name": "shapes", "limit": 60, "validation_fraction": 0.2})
    experiment.build(config, allow_fallback=False)
    lines = [record.message for record in caplog.records if record.message.startswith("data: ")]
    counts = "10 classes, train 48, validation 12, test 60"
    origin = "drawn from a seed, 12 of train for validation"
    assert lines == [f"data: shapes: {counts} ({origin}); source: drawn by the program"]


def test_a_validation_fraction_of_0_trains_on_all_images():
    config = default_config()
    config.data.update({"name": "shapes", "limit": 60, "validation_fraction": 0.0})
    built = experiment.build(config, allow_fallback=False)
    assert {name: len(images) for name, images in built.splits.items()} == {"train": 60, "test": 60}


def test_a_validation_split_that_is_needed_but_empty_is_refused():
    config = default_config()
    config.data.update({"name": "shapes", "limit": 60, "validation_fraction": 0.001})
    with pytest.raises(UsageError, match=r"leaves no image .* set it to 0 to train on all images"):
        experiment.build(config, allow_fallback=False)
    probe = load_config("resnet50_frozen", **{"data.name": "shapes", "data.validation_fraction": 0.0})
    with pytest.raises(UsageError, match=r"validation_fraction=0: optimizer\.name=lbfgs chooses the L2 strength"):
        require_trainable(experiment.without_data(probe))


def test_a_validation_split_of_the_source_is_used_whatever_the_fraction(caplog):
    caplog.set_level(logging.INFO)
    images = ImageSet(np.zeros((20, 8, 8, 3), np.uint8), np.arange(20, dtype=np.int32) % 2, ("a", "b"))
    config = default_config()
    config.model.widths, config.data.validation_fraction = (4,), 0.0
    built = experiment.assemble(config, Dataset("x", "a test", images, images, validation=images.take(np.arange(7))))
    assert {name: len(split) for name, split in built.splits.items()} == {"train": 20, "validation": 7, "test": 20}
    assert "validation_fraction=0: the source has its own validation split" in caplog.text


@pytest.mark.parametrize("recipe, steps", [("cnn_94", 25), ("cnn_96", 48), ("cnn_96_faster", 48)])
def test_the_records_are_trained_on_all_images(recipe, steps):
    assert experiment.without_data(load_config(recipe)).steps_per_epoch == steps


def test_unused_images_are_a_warning(caplog, tmp_path):
    for name in ("train/cat/1", "train/dog/2", "test/cat/3", "test/dog/4", "train/cat/5", "train/dog/6", "photos/7"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(f"{tmp_path / name}.png")
    config = default_config()
    config.data.update({"name": "folder", "dir": str(tmp_path), "validation_fraction": 0.5})
    experiment.build(config, allow_fallback=False)
    (warning,) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.startswith(f"warning: {tmp_path}: 1 image of photos/ not used, ")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"optimizer.accumulate_steps": 11},
            "the first update is after the end of the run: 9 steps",
        ),
        ({"schedule.warmup_steps": 11}, "warmup_steps=11: the warm-up does not end before the end of the run"),
        (
            {"optimizer.accumulate_steps": 3, "schedule.warmup_steps": 4},
            "warmup_steps=4: the warm-up does not end before the end of the run: 9 steps, 3 updates",
        ),
        (
            {"schedule.name": "step", "schedule.decay_steps": (5, 10)},
            r"decay_steps=\(5, 10\): the last is after the end",
        ),
        ({"train.batch_size": 61}, "batch_size=61 is more than the 59 training images"),
        ({"train.batch_size": 1, "train.epochs": 100_000_000}, "5,900,000,000 steps, at most"),
    ],
)
def test_batch_and_schedule_fit_into_the_run(changes, message):
    small = {"data.name": "shapes", "data.limit": 66, "mesh.devices": 1, "train.batch_size": 6, "train.epochs": 1}
    config = default_config()
    config.update_from_flattened_dict(small)
    require_trainable(experiment.without_data(config))
    config.update_from_flattened_dict(changes)
    with pytest.raises(UsageError, match=message):
        require_trainable(experiment.without_data(config))


FOR_ACCELERATORS = ("cnn_94", "cnn_96", "cnn_96_faster", "resnet18", "wide_resnet_28_10")


@pytest.mark.parametrize(
    "recipe, platform, note",
    [
        ("cnn_94", "cpu", "this recipe is sized for a GPU or TPU; for CPU: cnn_robust, cnn_scratch"),
        ("cnn_96", "tpu", None),
        ("cnn_scratch", "gpu", f"this recipe is sized for CPU; for a GPU or TPU: {', '.join(FOR_ACCELERATORS)}"),
        ("cnn_scratch", "cpu", None),
        ("resnet50_pretrain", "cpu", None),
        ("resnet50_pretrain", "gpu", None),
    ],
)
def test_one_line_names_the_recipes_for_the_devices_at_hand(recipe, platform, note, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    small = {"model.widths": (4,)} if recipe.startswith("cnn") else {"model.stage_sizes": (1,), "model.width": 4}
    built = experiment.without_data(load_config(recipe, **{"data.name": "shapes"} | small))
    monkeypatch.setattr(devices, "platform_of", lambda mesh: platform)
    note_other_devices(built)
    notes = [record.message for record in caplog.records if record.message.startswith("note: ")]
    assert notes == ([f"note: {note}"] if note else [])


def test_all_processes_take_the_least_room_for_images(monkeypatch):
    config = default_config()
    config.mesh.devices = 1
    monkeypatch.setattr(experiment.memory, "free_bytes", lambda: 6 << 30)
    assert experiment._room_for_images(config) == 3 << 30
    monkeypatch.setattr(experiment.jax, "process_count", lambda: 2)
    for other in (1 << 30, 5 << 30):
        there = other >> 20
        monkeypatch.setattr(experiment.multihost_utils, "process_allgather", lambda here, there=there: [here, there])
        assert experiment._room_for_images(config) == min(other, 3 << 30)
