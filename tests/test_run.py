"""The Python API: the values of `load_run` match the files of the run and its evaluation."""

import numpy as np
import pytest

import cifar_jax
from cifar_jax.errors import UsageError
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    overrides = {
        "data.name": "shapes",
        "data.limit": 300,
        "model.widths": (8, 8),
        "train.epochs": 1,
        "train.batch_size": 40,
        "mesh.devices": 1,
        "evaluation.tta": False,
    }
    folder = tmp_path_factory.mktemp("runs") / "run"
    cifar_jax.train(cifar_jax.load_config("cnn_scratch", **overrides), folder)
    return folder


def test_a_run_has_its_history_results_and_figures(workdir):
    run = cifar_jax.load_run(workdir)
    assert run.history["epoch"] == [1]
    assert run.results["test"]["n"] == 300
    assert run.config.model.widths == (8, 8)
    assert run.figures["curves"].exists()


def test_the_model_of_a_run_gives_the_logits_of_its_evaluation(workdir):
    apply, variables, preprocessing = cifar_jax.load_run(workdir).model()
    images_NHWC = restore_run(workdir, checkpoint="best")[0].splits["test"].images_NHWC
    with np.load(RunFolder(workdir).evaluation_dir("test") / "predictions.npz") as saved:
        np.testing.assert_allclose(apply(variables, preprocessing(images_NHWC)), saved["logits"], rtol=1e-5, atol=1e-5)


def test_evaluate_returns_the_metrics_in_results_json(workdir):
    metrics, test = cifar_jax.evaluate(workdir), cifar_jax.load_run(workdir).results["test"]
    assert {name: metrics[name] for name in test if name in metrics} == test


def test_a_folder_without_a_run_is_rejected(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        cifar_jax.load_run(tmp_path)


def test_the_package_lists_its_functions():
    assert set(cifar_jax.__all__) <= set(dir(cifar_jax))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        cifar_jax.trian  # noqa: B018
