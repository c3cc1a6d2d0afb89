"""A run that starts from the weights of another run."""

import jax
import numpy as np
import pytest

import cifar_jax
from cifar_jax.data.drawn_shapes import draw_shapes
from cifar_jax.errors import DataError, UsageError
from cifar_jax.modes.train import train_run
from cifar_jax.training.restore import restore_network

pytestmark = pytest.mark.slow


def small(**changes):
    overrides = {
        "data.name": "shapes",
        "data.limit": 300,
        "model.widths": (8, 8),
        "train.epochs": 1,
        "train.batch_size": 50,
        "mesh.devices": 1,
        "evaluation.tta": False,
    }
    return cifar_jax.load_config("cnn_scratch", **overrides | changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "source"
    train_run(small(), folder)
    return folder


@pytest.fixture
def three_classes(tmp_path):
    """An .npz data set with the first three classes of the shapes, darkened."""
    data, arrays = draw_shapes(train_size=300, test_size=100), {}
    for split in ("train", "test"):
        images = getattr(data, split)
        rows = images.labels_N < 3
        arrays |= {f"x_{split}": images.images_NHWC[rows] // 2, f"y_{split}": images.labels_N[rows]}
    np.savez(tmp_path / "three.npz", **arrays)
    return tmp_path / "three.npz"


def variables(workdir, checkpoint="best"):
    return restore_network(workdir, checkpoint=checkpoint)[1].state.variables


# A rate at which no update changes a float32.
STILL = {"optimizer.rules": (("^head/", 1e-30), (".*", 0.0))}


def test_a_network_without_batch_norm_starts_from_another(tmp_path):
    without = {"model.norm": "none"}
    train_run(small(**without), tmp_path / "source")
    train_run(small(**without, **STILL, **{"train.init_from": str(tmp_path / "source")}), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, variables(tmp_path / "run"), variables(tmp_path / "source"))


def test_with_frozen_weights_the_accuracy_equals_that_of_the_source(source, tmp_path):
    train_run(small(**STILL, **{"train.init_from": str(source)}), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, variables(tmp_path / "run"), variables(source))
    first, second = (cifar_jax.load_run(folder).results["test"] for folder in (source, tmp_path / "run"))
    assert first["loss"] == second["loss"]


def test_other_classes_get_a_new_head_and_the_normalization_of_the_source(source, three_classes, tmp_path):
    rules = {"optimizer.rules": (("^head/", 1.0), (".*", 0.0)), "train.init_from": str(source)}
    config = small(**rules, **{"data.name": "folder", "data.dir": str(three_classes), "train.batch_size": 20})
    train_run(config, tmp_path / "run")
    old, new = variables(source), variables(tmp_path / "run")
    assert new["params"].pop("head")["kernel"].shape[1] == 3 and old["params"].pop("head")["kernel"].shape[1] == 10
    jax.tree.map(np.testing.assert_array_equal, new, old)
    means = [restore_network(folder, checkpoint="best")[0].preprocessing.mean for folder in (source, tmp_path / "run")]
    assert means[0] == means[1]
    test = cifar_jax.load_run(tmp_path / "run").results["test"]
    assert cifar_jax.evaluate(tmp_path / "run")["loss"] == test["loss"]


def test_another_model_is_rejected_with_the_attributes_that_differ(source, tmp_path):
    with pytest.raises(UsageError, match=r"another model \(widths: \(8, 8\) -> \(8, 16\)\)"):
        train_run(small(**{"train.init_from": str(source), "model.widths": (8, 16)}), tmp_path / "run")
    with pytest.raises(UsageError, match=r"has no config\.json"):
        train_run(small(**{"train.init_from": str(tmp_path)}), tmp_path / "run")


def test_a_run_resumes_only_with_its_original_initial_weights(source, tmp_path):
    config = small(**STILL, **{"train.init_from": str(source)})
    results = train_run(config, tmp_path / "run")
    assert train_run(config, tmp_path / "run") == results
    train_run(small(**{"train.seed": 1}), tmp_path / "other")
    with pytest.raises(DataError, match="this run started from other weights"):
        config.train.init_from = str(tmp_path / "other")
        train_run(config, tmp_path / "run")


def test_the_message_for_a_finished_run_shows_how_to_train_further(source):
    with pytest.raises(UsageError, match=rf"--config\.train\.init_from={source}"):
        train_run(small(**{"train.epochs": 2}), source)
