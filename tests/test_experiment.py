"""A configuration with its data and model."""

import logging

import pytest
from PIL import Image

from cifar_jax import experiment
from cifar_jax.config import default_config
from cifar_jax.errors import UsageError


def test_one_line_of_the_log_describes_the_data(caplog):
    caplog.set_level(logging.INFO)
    config = default_config()
    config.data.update({"name": "shapes", "limit": 60, "validation_fraction": 0.2})
    experiment.build(config, allow_fallback=False)
    lines = [record.message for record in caplog.records if record.message.startswith("data: ")]
    counts = "10 classes, train 48, validation 12, test 60"
    origin = "drawn from a seed, 12 of train for validation"
    assert lines == [f"data: shapes: {counts} ({origin}); source: drawn by the program"]


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
    experiment.require_trainable(experiment.without_data(config))
    config.update_from_flattened_dict(changes)
    with pytest.raises(UsageError, match=message):
        experiment.require_trainable(experiment.without_data(config))
