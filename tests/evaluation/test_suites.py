"""Means over corruptions, their intervals and their calibration, against NumPy."""

import itertools
import types

import jax.numpy as jnp
import numpy as np
import pytest

import cifar_jax
import cifar_jax.modes.report
from cifar_jax.corruptions import suite
from cifar_jax.data import ImageSet, shifted
from cifar_jax.devices import make_mesh
from cifar_jax.evaluation import suites
from cifar_jax.metrics.calibration import fit_temperature
from cifar_jax.metrics.classification import expected_calibration_error
from cifar_jax.runs.json_files import read_json

RANDOM = np.random.default_rng(0)
WEIGHTS_FK = np.float32(RANDOM.normal(size=(48, 3)) / 200)
LABELS_N = np.int32(RANDOM.integers(0, 3, 50))


def image_set():
    return ImageSet(RANDOM.integers(0, 256, (50, 4, 4, 3), np.uint8), LABELS_N, ("a", "b", "c"))


@pytest.fixture
def experiment(devices):
    """A linear model on 50 random images."""
    return types.SimpleNamespace(
        config=types.SimpleNamespace(evaluation=types.SimpleNamespace(batch_size=16)),
        mesh=make_mesh(8),
        logits=lambda variables, images_NHWC: images_NHWC.reshape(-1, 48).astype(jnp.float32) @ variables["w"],
        splits={"test": image_set(), "validation": image_set()},
    )


def softmax(images, temperature=1.0):
    odds_NK = np.exp(images.images_NHWC.reshape(50, 48).astype(float) @ WEIGHTS_FK.astype(float) / temperature)
    return odds_NK / odds_NK.sum(axis=1, keepdims=True)


def test_means_are_over_sets_and_their_intervals_over_images(experiment):
    sets = [(name, image_set()) for name in ("fog", "snow") for _ in range(5)]
    variables = {"w": jnp.asarray(WEIGHTS_FK)}
    result = suites.evaluate_suite(experiment, variables, iter(sets), tta=False)
    validation = experiment.splits["validation"]
    logits_NK = validation.images_NHWC.reshape(50, 48) @ WEIGHTS_FK
    fitted = result["temperature"]
    assert fitted == pytest.approx(fit_temperature(logits_NK=logits_NK, labels_N=LABELS_N), rel=1e-4)
    correct_SN = np.array([softmax(images).argmax(axis=1) == LABELS_N for _, images in sets])
    for place, (name, severity) in enumerate(itertools.product(("fog", "snow"), range(5))):
        assert result["sets"][name][severity]["accuracy"] == pytest.approx(correct_SN[place].mean())
    half = 1.959964 * correct_SN.mean(axis=0).std() / np.sqrt(50)
    assert result["mean"]["accuracy"] == pytest.approx(correct_SN.mean())
    assert result["mean"]["accuracy_interval"] == pytest.approx([correct_SN.mean() - half, correct_SN.mean() + half])
    assert result["mean"]["corruption_error"] == pytest.approx(1 - correct_SN.mean())
    for severity, mean in enumerate(result["severities"]):
        chosen = sets[severity], sets[5 + severity]
        assert mean["accuracy"] == pytest.approx(correct_SN[[severity, 5 + severity]].mean())
        for temperature, metrics in ((1.0, mean), (fitted, mean["temperature_scaled"])):
            probabilities = [softmax(images, temperature) for _, images in chosen]
            errors = [expected_calibration_error(probabilities_NK=p_NK, labels_N=LABELS_N) for p_NK in probabilities]
            assert metrics["ece"] == pytest.approx(np.mean(errors), abs=1e-5)
    assert result["clean"]["accuracy"] == (softmax(experiment.splits["test"]).argmax(axis=1) == LABELS_N).mean()


def test_without_a_validation_split_there_is_no_temperature(experiment, tmp_path):
    del experiment.splits["validation"]
    sets = [(name, image_set()) for name in ("fog", "snow") for _ in range(5)]
    result = suites.evaluate_suite(experiment, {"w": jnp.asarray(WEIGHTS_FK)}, iter(sets), tta=False)
    assert "temperature" not in repr(result)
    result |= {"data": "random", "suite": "two", "tta": False, "checkpoint_step": 1, "notes": []}
    assert "temperature" not in suites.describe(result)
    suites.write(tmp_path, result, run="run")
    assert (tmp_path / "corruptions.png").is_file()


@pytest.mark.slow
def test_a_run_is_evaluated_on_computed_corruptions_and_on_files(tmp_path, monkeypatch):
    kept = {name: suite.CORRUPTIONS[name] for name in ("contrast", "jpeg_compression")}
    monkeypatch.setattr(suites, "CORRUPTIONS", kept)
    small = {"data.name": "shapes", "data.limit": 100, "model.widths": (8,), "train.batch_size": 40, "train.epochs": 1}
    cifar_jax.train(cifar_jax.load_config("cnn_scratch", **small), tmp_path / "run")
    result = cifar_jax.evaluate(tmp_path / "run", suite="corruptions")
    (directory,) = (tmp_path / "run" / "evaluation" / "corruptions").iterdir()
    assert read_json(directory / "metrics.json")["mean"] == result["mean"]
    assert result["clean"]["accuracy"] == cifar_jax.evaluate(tmp_path / "run", tta=False)["accuracy"]
    assert max(map(len, suites.describe(result).splitlines())) <= 80
    cifar_jax.modes.report.report(tmp_path / "run")
    assert "Corrupted images" in (tmp_path / "run" / "report.html").read_text()

    files = tmp_path / "CIFAR-10-C"
    files.mkdir()
    np.save(files / "labels.npy", np.tile(np.arange(20) % 10, 5))
    for name in shifted.CORRUPTIONS:
        np.save(files / f"{name}.npy", RANDOM.integers(0, 256, (100, 32, 32, 3), np.uint8))
    assert cifar_jax.evaluate(tmp_path / "run", suite=str(files))["mean"]["n"] == 20
    assert (tmp_path / "run" / "evaluation" / "cifar-c" / directory.name / "corruptions.png").exists()

    np.save(files / "cifar10.1_v6_data.npy", RANDOM.integers(0, 256, (30, 32, 32, 3), np.uint8))
    np.save(files / "cifar10.1_v6_labels.npy", np.arange(30) % 10)
    (files / "labels.npy").unlink()
    result = cifar_jax.evaluate(tmp_path / "run", suite=str(files))
    assert result["mean"]["n"] == 30 and "CIFAR-10.1" in suites.describe(result)
