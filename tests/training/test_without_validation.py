"""data.validation_fraction=0: a run on all training images, whose last epoch is evaluated."""

import numpy as np
import pytest
from interruption import stop_after

from cifar_jax import evaluate, experiment, load_config, load_run, predict
from cifar_jax.errors import DataError, UsageError
from cifar_jax.modes import report
from cifar_jax.modes.ablation import ablation
from cifar_jax.modes.train import train_run, train_seeds
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.forms import HISTORY
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.signals import Interrupted
from cifar_jax.training.hooks import Hook
from cifar_jax.training.restore import with_recorded_data

pytestmark = pytest.mark.slow

SMALL = {
    **{"data.name": "shapes", "data.limit": 100, "data.validation_fraction": 0.0, "model.widths": (4,)},
    **{"mesh.devices": 1, "train.epochs": 2, "train.batch_size": 20, "checkpoint.keep": 1},
}


def small(**changes):
    return load_config("cnn_scratch", **SMALL | changes)


class Rows(Hook):
    def __init__(self):
        self.rows = []

    def on_epoch(self, step, row):
        self.rows.append(row)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, its results, and the rows that a hook saw."""
    workdir, hook = tmp_path_factory.mktemp("runs") / "finished", Rows()
    return workdir, train_run(small(), workdir, hooks=[hook]), hook.rows


def test_the_history_and_the_results_have_no_validation_metrics(finished):
    workdir, results, rows = finished
    history = read_json(RunFolder(workdir).history_json)
    assert set(history) == set(HISTORY) and history["epoch"] == [1, 2]
    assert [set(row) for row in rows] == [set(HISTORY)] * 2
    assert results == read_json(RunFolder(workdir).results_json) == load_run(workdir).results
    assert not {"validation", "best_epoch", "best_step", "temperature"} & results.keys()
    assert "temperature_scaled" not in results["test"]
    assert {split: values["n"] for split, values in results["data"]["splits"].items()} == {"train": 100, "test": 100}


def test_the_last_epoch_is_evaluated(finished):
    workdir, results, _ = finished
    assert Checkpoints(RunFolder(workdir).checkpoints_dir, keep=1).steps() == [10]
    assert results["test"]["checkpoint_step"] == results["train"]["checkpoint_step"] == 10
    metrics = evaluate(workdir)
    assert (metrics["checkpoint_step"], metrics["accuracy"]) == (10, results["test"]["accuracy"])


def test_one_line_says_so_at_the_start(finished, caplog):
    with caplog.at_level("INFO"):
        train_run(small(), finished[0])
    lines = [record.message for record in caplog.records if "validation" in record.message]
    assert lines == ["no validation split: the last epoch is evaluated, and no temperature is fitted"]
    assert "already finished" in caplog.text


def test_what_needs_validation_is_refused_or_left_out(finished):
    workdir = finished[0]
    with pytest.raises(UsageError, match="--split=validation: this run has none"):
        evaluate(workdir, split="validation")
    (prediction,) = predict(workdir, np.zeros((1, 32, 32, 3), np.uint8))
    assert prediction.calibrated_probabilities is None
    assert report.report(workdir) == [workdir / "report.html"]
    text = (workdir / "report.html").read_text(encoding="utf-8")
    assert "after the last epoch: there is no validation split" in text


def test_an_interrupted_run_resumes(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            train_run(small(), tmp_path)
    assert evaluate(tmp_path, split="train")["checkpoint_step"] == 7  # the newest, although in mid-epoch
    results = train_run(small(), tmp_path)
    assert results["test"] == finished[1]["test"]
    assert load_run(tmp_path).history["loss"] == load_run(finished[0]).history["loss"]


def test_a_validation_split_that_appears_or_disappears_is_other_data(finished):
    recorded = RunFolder(finished[0]).recorded()["data"]
    without = experiment.build(small(), allow_fallback=False)
    assert with_recorded_data(without, recorded, key="--data").splits.keys() == {"train", "test"}
    appeared = recorded | {"splits": recorded["splits"] | {"validation": recorded["splits"]["test"]}}
    with pytest.raises(DataError, match="the fingerprint of validation differs"):
        with_recorded_data(without, appeared, key="--data")


def test_several_seeds_and_an_ablation_report_only_what_they_have(tmp_path):
    two = {"train.epochs": 1, "train.seeds": 2}
    results = train_seeds(small(**two), tmp_path / "seeds")
    assert "validation" not in results and results["test"]["runs"] == 2
    fixes = (("validated", (("data.validation_fraction", 0.2),)),)
    ablation(small(**two, ablation=fixes), tmp_path / "ablation")
    first, second = read_json(tmp_path / "ablation" / "ablation.json")["steps"]
    assert "validation_accuracy" not in first and 0 <= second["validation_accuracy"] <= 1
