"""A run folder with damaged, edited, moved or read-only files: what each mode makes of it."""

import json
import logging
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from cifar_jax.config import default_config
from cifar_jax.errors import DataError, UsageError
from cifar_jax.modes.evaluate import evaluate
from cifar_jax.modes.predict import predict
from cifar_jax.modes.train import train_run as train
from cifar_jax.run import load_run
from cifar_jax.runs.metadata import steps
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.hooks import Hook

pytestmark = pytest.mark.slow

IMAGES_NHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def small(data: str):
    """A recipe that trains two epochs on an image folder."""
    config = default_config()
    config.data.update(name="folder", dir=str(data))
    config.model.widths = (8, 8)
    config.train.update(epochs=2, batch_size=10)
    config.mesh.devices = 1
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 training and 20 test images in two classes."""
    folder, random = tmp_path_factory.mktemp("data") / "pets", np.random.default_rng(0)
    for split, n in (("train", 20), ("test", 10)):
        for name, brightness in (("cat", 0), ("dog", 100)):
            (folder / split / name).mkdir(parents=True)
            for number in range(n):
                pixels_HWC = random.integers(0, 156, (16, 16, 3), np.uint8) + np.uint8(brightness)
                Image.fromarray(pixels_HWC).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def fixed_revision():
    """The revision in results.json stays the same if a file of the checkout changes during the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cifar_jax.training.results.source_revision", lambda: "abc")
        yield


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    train(small(data), workdir, command="python main.py")
    return workdir


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """A copy of the finished run, to damage."""
    return RunFolder(shutil.copytree(finished, tmp_path / "run"))


def texts(folder) -> dict[str, str]:
    names = ("config.json", "architecture.json", "history.json", "results.json", "evaluation/test/metrics.json")
    return {name: (folder / name).read_text() for name in names}


@pytest.mark.parametrize("name", ["architecture.json", "history.json", "results.json", "evaluation/test/metrics.json"])
def test_train_writes_a_damaged_file_of_a_finished_run_again(run, finished, data, caplog, name):
    caplog.set_level(logging.INFO)
    path = run.path / name
    path.write_text(re.sub(r"\.(\d)", lambda digit: f".{9 - int(digit[1])}", path.read_text(), count=1))
    if name == "architecture.json":
        path.write_text("{}")
    returned = train(small(data), run.path, command="python main.py")
    assert f"{name.split('/')[-1]} is damaged" in caplog.text and "already finished" not in caplog.text
    assert texts(run.path) == texts(finished) and returned == load_run(finished).results


def test_train_restores_config_json_and_reports_a_whole_run_as_finished(run, finished, data, caplog):
    caplog.set_level(logging.INFO)
    run.config_json.write_text("{}")
    train(small(data), run.path, command="python main.py")
    assert "using its copy in checkpoint" in caplog.text and "already finished" in caplog.text
    assert texts(run.path) == texts(finished)


def test_without_checkpoints_a_damaged_finished_run_is_not_trained_again(run, data, caplog):
    shutil.rmtree(run.checkpoints_dir)
    before = run.results()
    run.architecture_json.write_text("{}")
    assert train(small(data), run.path) == before
    assert "no checkpoint to write it again from" in caplog.text
    run.results_json.write_text("{}")
    with pytest.raises(DataError, match=r"results\.json is damaged"):
        train(small(data), run.path)


def test_predict_uses_the_class_names_of_the_checkpoint(run, finished, caplog):
    expected = predict(finished, IMAGES_NHWC)
    for keep_checksum in (True, False):
        content = json.loads((finished / "config.json").read_text())
        content["data"]["classes"] = ["dog", "cat"]
        if not keep_checksum:
            del content["checksum"]
        run.config_json.write_text(json.dumps(content))
        assert predict(run.path, IMAGES_NHWC) == expected
        assert "using its copy in checkpoint" in caplog.text
        caplog.clear()


def test_an_edited_temperature_is_not_used(run, finished, caplog):
    text = run.results_json.read_text()
    run.results_json.write_text(re.sub(r'("temperature": )\d', r"\g<1>8", text))
    predictions = predict(run.path, IMAGES_NHWC)
    assert [p.probabilities for p in predictions] == [p.probabilities for p in predict(finished, IMAGES_NHWC)]
    assert predictions[0].calibrated_probabilities is None
    assert "results.json is damaged" in caplog.text and "its temperature is not used" in caplog.text


@pytest.mark.parametrize("key", ["validation", "best_epoch", "best_step", "temperature"])
def test_results_with_a_part_of_what_validation_yields_are_damaged(run, key):
    content = json.loads(run.results_json.read_text())
    del content["checksum"], content[key]
    run.results_json.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"results\.json is damaged.*: {key} is missing"):
        run.results()


def test_evaluate_returns_the_metrics_of_a_folder_that_cannot_be_written(run, finished, caplog):
    expected = evaluate(finished)
    shutil.rmtree(run.path / "evaluation")
    (run.path / "evaluation").write_text("a file in place of the folder")
    assert evaluate(run.path) == expected
    assert "cannot be written" in caplog.text and "were not kept" in caplog.text


def test_moved_and_renamed_data_are_recognized_by_their_content(run, finished, data, tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR_JAX_DATA", raising=False)
    expected = evaluate(finished)
    moved = shutil.copytree(data, tmp_path / "animals")
    text = run.config_json.read_text()
    assert str(data) in text  # absolute
    assert evaluate(run.path, data=moved) == expected
    data.rename(data.with_name("away"))
    try:
        with pytest.raises(UsageError, match=f"the data of this run were at {data}.*--data"):
            evaluate(run.path)
        with pytest.raises(UsageError, match=r"^--data=nowhere: no such file"):
            evaluate(run.path, data="nowhere")
        assert evaluate(run.path, data=moved) == expected
        monkeypatch.setenv("CIFAR_JAX_DATA", str(moved))
        assert evaluate(run.path) == expected
        assert train(small(moved), run.path) == load_run(finished).results
        monkeypatch.delenv("CIFAR_JAX_DATA")
        assert evaluate(run.path) == expected  # the train command has recorded the new path
    finally:
        data.with_name("away").rename(data)


def test_other_data_and_renamed_classes_are_refused(run, data, tmp_path):
    renamed = shutil.copytree(data, tmp_path / "renamed")
    for split in ("train", "test"):
        (renamed / split / "cat").rename(renamed / split / "bat")
    with pytest.raises(DataError, match=r"no classes bat.*--data"):
        evaluate(run.path, data=renamed)
    other = shutil.copytree(data, tmp_path / "other")
    (other / "test" / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match="fingerprint of test differs: name the run's data with --data"):
        evaluate(run.path, data=other)


def test_a_relative_path_of_the_data_is_recorded_as_absolute(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    train(small(data.name), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert evaluate("run")["n"] == 20
    assert load_run("run").config.data.dir == str(data)


def test_a_folder_that_is_moved_during_training_is_not_created_again_and_resumes_where_it_is(data, finished, tmp_path):
    class Move(Hook):
        def on_epoch(self, step, row):
            deadline = time.monotonic() + 60
            while not steps(tmp_path / "run" / "checkpoints"):  # a checkpoint in writing belongs to the old path
                assert time.monotonic() < deadline
                time.sleep(0.01)
            (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(DataError, match=r"was deleted or moved during training.*resume with --workdir") as caught:
        train(small(data), tmp_path / "run", hooks=[Move()])
    assert "earlier checkpoints" not in str(caught.value)
    assert not (tmp_path / "run" / "history.json").exists() and not steps(tmp_path / "run" / "checkpoints")
    assert train(small(data), tmp_path / "moved")["test"] == load_run(finished).results["test"]


@pytest.mark.parametrize("content", ["{}", "other numbers", None])
def test_a_resumed_run_has_the_history_of_its_checkpoint(data, finished, tmp_path, content, caplog):
    class Stop(Hook):
        def on_epoch(self, step, row):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(small(data), tmp_path / "run", hooks=[Stop()])
    folder = RunFolder(tmp_path / "run")
    before = folder.history()
    if content is None:
        folder.history_json.unlink()
    else:
        wrong = json.dumps(before | {"loss": [0.125]}) if content == "other numbers" else content
        folder.history_json.write_text(wrong)
    with pytest.raises(DataError, match=r"history\.json"):
        folder.history()
    train(small(data), tmp_path / "run")
    assert "written again from the rows in the checkpoint" in caplog.text
    columns, expected = folder.history(), load_run(finished).history
    assert columns["seconds"][:1] == before["seconds"]
    for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert columns[name] == expected[name]
