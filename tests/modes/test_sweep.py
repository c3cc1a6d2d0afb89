"""Sweeps: each combination is an ordinary run, an interrupted sweep resumes, and values that diverge are reported."""

import pytest

from cifar_jax.config import load_config
from cifar_jax.errors import UsageError
from cifar_jax.modes.ablation import ablation
from cifar_jax.modes.sweep import sweep
from cifar_jax.modes.train import train_run, train_seeds
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.hooks import Hook
from cifar_jax.training.loop import NotFiniteError

CLOCKS = {"images_per_second", "seconds"}


def small(**changes):
    values = {
        **{"data.name": "shapes", "data.limit": 80, "model.widths": (4,), "train.batch_size": 8, "train.epochs": 1},
        **{"model.norm": "none", "optimizer.name": "sgd", "optimizer.weight_decay": 0.1, "mesh.devices": 1},
    }
    return load_config("cnn_scratch", **values, **{key.replace("__", "."): value for key, value in changes.items()})


def without_clocks(folder):
    return {name: values for name, values in folder.history().items() if name not in CLOCKS}


class Stop(Hook):
    """Fails in the second run."""

    runs = 0

    def on_start(self, **steps):
        self.runs += 1
        if self.runs == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_each_value_is_an_ordinary_run_and_an_interrupted_sweep_resumes(tmp_path, caplog):
    values = {"optimizer.learning_rate": [0.05, 0.02, 1000.0]}
    with pytest.raises(KeyboardInterrupt):
        sweep(small(), tmp_path / "sweep", values=values, hooks=[Stop()])
    first = RunFolder(tmp_path / "sweep" / "learning_rate_0.05")
    finished = first.results_json.stat().st_mtime_ns
    with caplog.at_level("INFO"):
        found = sweep(small(), tmp_path / "sweep", values=values, command="python main.py")
    assert "sweep: 3 x 1 runs, one compiled program for all values of optimizer.learning_rate" in caplog.text
    assert first.results_json.stat().st_mtime_ns == finished
    assert found == read_json(tmp_path / "sweep" / "sweep.json")
    *_, diverged = found["points"]
    assert diverged["changes"] == {"optimizer.learning_rate": 1000.0} and diverged["failure"].startswith(
        "the loss is not finite at step"
    )
    accuracies = {}
    for rate in (0.05, 0.02):
        folder, alone = RunFolder(tmp_path / "sweep" / f"learning_rate_{rate}"), RunFolder(tmp_path / f"alone_{rate}")
        train_run(small(optimizer__learning_rate=rate), alone.path)
        assert without_clocks(folder) == without_clocks(alone)
        assert folder.recorded()["config"] == alone.recorded()["config"]
        accuracies[folder.path.name] = folder.results()["validation"]["accuracy"]
    assert found["best"] == max(accuracies, key=accuracies.get)
    assert found["test"]["accuracy"] == RunFolder(tmp_path / "sweep" / found["best"]).results()["test"]["accuracy"]


@pytest.mark.slow
def test_a_sweep_in_which_every_value_diverges_is_an_error(tmp_path):
    with pytest.raises(NotFiniteError):
        sweep(small(train__seeds=2), tmp_path, values={"optimizer.learning_rate": [900.0, 1000.0]})
    assert not (tmp_path / "sweep.json").exists()


def test_invalid_values_are_refused_before_training(tmp_path):
    with pytest.raises(UsageError, match=r"learning_rate=-1\.0"):
        sweep(small(), tmp_path / "sweep", values={"optimizer.learning_rate": [0.1, -1.0]})
    assert not (tmp_path / "sweep").exists()


def test_the_folder_of_a_single_run_holds_no_other_runs(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a single run"):
        sweep(small(), tmp_path, values={"optimizer.learning_rate": [0.1, 0.2]})
    with pytest.raises(UsageError, match="holds a single run"):
        train_seeds(small(train__seeds=2), tmp_path)
    with pytest.raises(UsageError, match="holds a single run"):
        ablation(small(train__seeds=2, ablation=(("slower", (("optimizer.learning_rate", 0.01),)),)), tmp_path)
