"""Where evaluations are kept, and to which of them the fitted temperature applies."""

import itertools

import pytest

from cifar_jax.config import default_config
from cifar_jax.evaluation.evaluate import evaluation_directory, fitted_temperature
from cifar_jax.runs import forms
from cifar_jax.runs.json_files import write_json
from cifar_jax.runs.run_folder import RunFolder

EVALUATIONS = list(itertools.product((10, 20, 30), (False, True)))  # checkpoint step, test-time augmentation


@pytest.fixture(params=[False, True])
def run(request, tmp_path, monkeypatch):
    """A run folder without results.json, and its configuration, with and without test-time augmentation."""
    for form in ("RESULTS", "WITH_VALIDATION"):  # only a part of results.json is written here
        monkeypatch.setattr(forms, form, {})
    config = default_config()
    config.evaluation.tta = request.param
    return RunFolder(tmp_path), config


@pytest.mark.parametrize("final", EVALUATIONS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_evaluation_shares_the_folder_of_another(run, split, final):
    folder, config = run
    write_json(folder.results_json, {split: dict(zip(("checkpoint_step", "tta"), final, strict=True))})
    directories = {
        (step, tta): evaluation_directory(folder, config, split=split, step=step, tta=tta) for step, tta in EVALUATIONS
    }
    assert directories.pop(final) == folder.evaluation_dir(split)
    assert len(set(directories.values())) == len(EVALUATIONS) - 1
    assert all(directory.parent == folder.evaluation_dir(split) for directory in directories.values())


def test_the_place_of_the_final_evaluation_stays_free_until_the_run_is_finished(run):
    folder, config = run
    directories = {evaluation_directory(folder, config, split="test", step=step, tta=tta) for step, tta in EVALUATIONS}
    assert len(directories) == len(EVALUATIONS) and folder.evaluation_dir("test") not in directories


def test_the_temperature_applies_to_the_evaluation_it_was_fitted_on(run):
    folder, _ = run
    assert fitted_temperature(folder, step=20, tta=True) is None
    write_json(folder.results_json, {"validation": {"checkpoint_step": 20, "tta": True}, "temperature": 1.5})
    temperatures = {(step, tta): fitted_temperature(folder, step=step, tta=tta) for step, tta in EVALUATIONS}
    assert temperatures.pop((20, True)) == 1.5 and set(temperatures.values()) == {None}
