"""A configuration with its data and model."""

import logging

from cifar_jax import experiment
from cifar_jax.config import default_config


def test_one_line_of_the_log_describes_the_data(caplog):
    caplog.set_level(logging.INFO)
    config = default_config()
    config.data.update({"name": "shapes", "limit": 60, "validation_fraction": 0.2})
    experiment.build(config, allow_fallback=False)
    lines = [record.message for record in caplog.records if record.message.startswith("data: ")]
    assert lines == ["data: shapes: 10 classes, train 48, validation 12, test 60 (source: drawn by the program)"]
