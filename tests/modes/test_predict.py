"""Predictions of image files against what evaluation says of the same images."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import special

from cifar_jax.config import default_config
from cifar_jax.errors import DataError, UsageError
from cifar_jax.modes.evaluate import evaluate
from cifar_jax.modes.predict import Predictor, as_json, predict, predict_table
from cifar_jax.modes.train import train_run as train
from cifar_jax.runs.json_files import read_json, write_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_run

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run whose network takes 32 pixels as 40, on one device of the eight."""
    config = default_config()
    config.data.update(name="shapes", limit=300)
    config.model.update(widths=(8, 8), image_size=40)
    config.train.update(epochs=2, batch_size=40)
    config.optimizer.learning_rate = 0.3
    config.evaluation.tta = True
    config.mesh.devices = 1
    workdir = tmp_path_factory.mktemp("runs") / "run"
    train(config, workdir, allow_fallback=False)
    return RunFolder(workdir)


@pytest.fixture(scope="module")
def test_images(run) -> np.ndarray:
    return restore_run(run.path, checkpoint="best")[0].splits["test"].images_NHWC


@pytest.fixture(scope="module")
def files(test_images, tmp_path_factory) -> list[pathlib.Path]:
    """The test images as PNG files, in order."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number:03}.png" for number in range(len(test_images))]
    for path, image_HWC in zip(paths, test_images, strict=True):
        Image.fromarray(image_HWC).save(path)
    return paths


@pytest.fixture
def without_data(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the data set was loaded")

    monkeypatch.setattr("cifar_jax.experiment.load", load)
    monkeypatch.setattr("cifar_jax.training.restore.load", load)


def probabilities(prediction) -> np.ndarray:
    return np.array(list(prediction.probabilities.values()))


def test_an_array_gets_the_probabilities_of_the_same_files(run, files, test_images, without_data):
    of_files = predict(run.path, files[:5], tta=False)
    of_array = predict(run.path, test_images[:5], tta=False)
    assert [prediction.image for prediction in of_array] == [0, 1, 2, 3, 4]
    for first, second in zip(of_files, of_array, strict=True):
        np.testing.assert_allclose(probabilities(first), probabilities(second), rtol=0, atol=TOLERANCE)
        assert first.class_name == second.class_name and first.probability == probabilities(first).max()


def test_an_array_that_is_no_batch_of_images_is_refused(run, test_images):
    for array in (test_images[0], test_images / 255, test_images[..., :1]):
        with pytest.raises(UsageError, match="expected uint8"):
            predict(run.path, array)


def test_an_image_that_cannot_be_read_is_an_error_in_python(run, files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read: .*bad\.png"):
        predict(run.path, [files[0], tmp_path / "bad.png"])


def logits(run: RunFolder, name: str) -> np.ndarray:
    with np.load(run.evaluation_dir("test") / "predictions.npz") as saved:
        return saved[name].astype(np.float64)


@pytest.mark.parametrize(("tta", "name"), [(None, "logits_tta"), (False, "logits")])
def test_images_of_the_training_size_get_the_probabilities_of_evaluation(run, files, without_data, tta, name):
    found_NK = np.stack([probabilities(prediction) for prediction in Predictor(run.path, tta=tta)(files)])
    expected_NK = special.softmax(logits(run, name), axis=1)
    assert np.ptp(expected_NK, axis=0).min() > 0.01, "images with equal probabilities prove nothing"
    np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=TOLERANCE)


def test_calibrated_probabilities_are_those_of_the_validation_temperature(run, files, without_data):
    results = read_json(run.results_json)
    temperature = results["temperature"]
    assert abs(temperature - 1) > 0.01
    predictions = Predictor(run.path)(files[:20])
    found_NK = np.stack([list(prediction.calibrated_probabilities.values()) for prediction in predictions])
    expected_NK = special.softmax(logits(run, "logits_tta")[:20] / temperature, axis=1)
    np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=TOLERANCE)
    other_step = {6, 12} - {results["best_step"]}
    for other in ({"tta": False}, {"checkpoint": str(*other_step)}):  # for which no temperature was fitted
        assert next(Predictor(run.path, **other)(files[:1])).calibrated_probabilities is None


def test_train_and_evaluate_report_loss_and_ece_before_and_after(run, tmp_path):
    results = read_json(run.results_json)
    validation, test = results["validation"], results["test"]
    assert validation["temperature_scaled"]["loss"] < validation["loss"]
    assert results["temperature"] == test["temperature_scaled"]["temperature"]
    labels_N = np.load(run.evaluation_dir("test") / "predictions.npz")["labels"]
    log_probabilities_NK = special.log_softmax(logits(run, "logits_tta") / results["temperature"], axis=1)
    expected = -log_probabilities_NK[np.arange(len(labels_N)), labels_N].mean()
    assert test["temperature_scaled"]["loss"] == pytest.approx(expected, rel=1e-6)
    assert "temperature_scaled" not in results["train"]
    before = read_json(run.evaluation_dir("test") / "metrics.json")
    assert evaluate(run.path, split="test", checkpoint="best", tta=None) == before
    shutil.copytree(run.path, tmp_path / "copy")
    other = evaluate(tmp_path / "copy", split="test", checkpoint="best", tta=False)
    assert "temperature_scaled" not in other


def test_any_number_of_images_of_any_shape_in_batches(run, files, without_data, tmp_path):
    predictor = Predictor(run.path, tta=False)
    several = [*files[:20], *files[100:287]]  # more than a batch, and no multiple of the devices
    predictions = list(predictor(several))
    assert [prediction.image for prediction in predictions] == several
    alone = next(predictor(several[-1:]))
    np.testing.assert_allclose(probabilities(alone), probabilities(predictions[-1]), rtol=0, atol=TOLERANCE)
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste(Image.open(files[0]), (32, 0))
    wide.save(tmp_path / "wide.png")
    np.testing.assert_allclose(
        probabilities(next(predictor([tmp_path / "wide.png"]))),
        probabilities(predictions[0]),
        rtol=0,
        atol=TOLERANCE,
    )


def test_a_run_that_is_not_finished_predicts_uncalibrated(run, files, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    prediction = next(Predictor(tmp_path / "copy")(files[:1]))
    line = as_json(prediction)
    assert line["calibrated_probabilities"] is None
    assert line["probability"] == max(line["probabilities"].values()) == line["probabilities"][line["class"]]


def test_an_output_that_cannot_be_written_is_said_before_anything_is_done(run, files, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "out.jsonl"):
        with pytest.raises(UsageError, match=f"^--output={output} "):
            predict_table(tmp_path / "no run", files, checkpoint="best", tta=None, output=str(output))
    with pytest.raises(UsageError, match=r"has no config\.json"):
        predict_table(tmp_path / "no run", files, checkpoint="best", tta=None, output=str(tmp_path / "out.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    """Runs `main.py --mode predict` with one CPU device; returns exit code, stdout and stderr."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "CIFAR_JAX_DATA")}
    environment = {**kept, "HOME": str(home), "CIFAR_JAX_CACHE": str(home / "cache"), "JAX_PLATFORMS": "cpu"}

    def main(*arguments):
        command = [sys.executable, "main.py", "--mode=predict", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout, done.stderr

    return main


def test_main_prints_a_table_and_writes_json_lines(run, files, main, tmp_path):
    recorded = read_json(run.config_json)
    shutil.copytree(run.path, tmp_path / "run")
    recorded["config"]["data"].update(name="folder", dir=str(tmp_path / "gone"))  # the data are not there
    write_json(tmp_path / "run" / "config.json", recorded)
    output = tmp_path / "out.jsonl"
    code, out, err = main("--workdir", tmp_path / "run", "--images", *files[:3], "--output", output)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["file"] for line in lines] == list(map(str, files[:3]))
    expected_NK = special.softmax(logits(run, "logits_tta")[:3], axis=1)
    for line, expected_K in zip(lines, expected_NK, strict=True):
        assert list(line["probabilities"]) == recorded["data"]["classes"]
        np.testing.assert_allclose(list(line["probabilities"].values()), expected_K, rtol=0, atol=TOLERANCE)
        assert sum(line["calibrated_probabilities"].values()) == pytest.approx(1)
        shown = next(row for row in out.splitlines() if line["file"] in row)
        assert line["class"] in shown and f"{line['probability']:.2%}" in shown
        second = sorted(line["probabilities"], key=line["probabilities"].get)[-2]
        assert f"{second} {line['probabilities'][second]:.2%}" in shown


def test_main_names_unreadable_files_and_ends_with_1(run, files, main, tmp_path):
    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:100])
    (tmp_path / "[red]text.png").write_text("no image")
    shutil.copy(files[1], tmp_path / "[red]whole.png")
    code, out, err = main("--workdir", run.path, "--images", tmp_path, "--output", tmp_path / "out.jsonl")
    assert code == 1
    *named, last = err.splitlines()
    assert {line.split(":")[0] for line in named} == {str(tmp_path / name) for name in ("broken.png", "[red]text.png")}
    assert last == "error: 2 of 3 files could not be read, see above; the others are done"
    assert "[red]whole.png" in out and "broken" not in out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images=no/such/*.png",), "--images no/such/*.png: no such file or folder"),
        ((), "--mode predict requires --images"),
        (("--images=main.py", "--checkpoint=7"), "no checkpoint of step 7"),
    ],
)
def test_what_is_typed_wrong_is_one_line_and_exit_code_2(run, main, arguments, words):
    code, out, err = main("--workdir", run.path, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
