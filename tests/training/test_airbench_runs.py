"""The recipes of airbench, made small, as complete runs: interrupted in the middle, they end with the same bits."""

import jax
import numpy as np
import pytest
from interruption import stop_after

from cifar_jax.config import load_config
from cifar_jax.modes.train import train_run
from cifar_jax.signals import Interrupted
from cifar_jax.training.restore import restore_run

pytestmark = pytest.mark.slow

SMALL = {
    **{"data.name": "shapes", "data.limit": 400, "model.widths": (8, 8), "mesh.devices": 2},
    **{"train.epochs": 2, "train.batch_size": 40, "schedule.whiten_bias_epochs": 1, "checkpoint.every_steps": 3},
}


@pytest.mark.parametrize("recipe", ["cnn_94", "cnn_96", "cnn_96_faster"])
def test_an_interrupted_run_ends_with_the_same_bits(recipe, tmp_path, monkeypatch):
    config = load_config(recipe, **SMALL)
    results = train_run(config, tmp_path / "whole")
    assert results["test"]["without_tta"]["n"] == 400
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            train_run(config, tmp_path / "stopped")
    train_run(config, tmp_path / "stopped")
    whole, resumed = (restore_run(tmp_path / name, checkpoint="latest")[1].state for name in ("whole", "stopped"))
    assert whole.step == resumed.step == 20
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
