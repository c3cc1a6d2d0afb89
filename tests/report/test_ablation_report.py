"""The files of an ablation, from finished run folders."""

import numpy as np
import pytest
from scipy import stats

from cifar_jax.report.ablation import AblationStep, write
from cifar_jax.runs.json_files import read_json, write_json


@pytest.fixture
def write_ablation(tmp_path, make_run, change):
    """`write_ablation(accuracies)`: the content of ablation.json of steps with these test accuracies, one per seed."""

    def of(accuracies):
        steps = [AblationStep(f"step {i}", str(i), {"model.norm": "batch"}) for i in range(len(accuracies))]
        for step, by_seed in zip(steps, accuracies, strict=True):
            write_json(tmp_path / step.folder / "results.json", {"seeds": list(range(len(by_seed)))})
            for seed, accuracy in enumerate(by_seed):
                folder = make_run(tmp_path / step.folder / f"seed_{seed}", seed=seed)
                change(folder.results_json, test=read_json(folder.results_json)["test"] | {"accuracy": accuracy})
        return read_json(write(tmp_path, steps)[0])

    return of


def test_intervals_are_student_intervals_over_seeds_and_gains_are_paired(write_ablation):
    before, after = (0.61, 0.65, 0.63), (0.72, 0.75, 0.74)
    first, second = write_ablation([before, after])["steps"]
    for accuracies, mean, interval in (
        (before, first["accuracy"], first["interval"]),
        (after, second["accuracy"], second["interval"]),
        (np.subtract(after, before), second["gain"], second["gain_interval"]),
    ):
        assert mean == pytest.approx(np.mean(accuracies))
        expected = stats.t.interval(0.95, len(accuracies) - 1, loc=np.mean(accuracies), scale=stats.sem(accuracies))
        assert interval == pytest.approx(expected)
    assert "gain" not in first


def test_intervals_are_clipped_to_possible_accuracies_and_gains(write_ablation):
    first, second = write_ablation([(0.03, 0.97), (0.97, 0.03)])["steps"]
    assert first["interval"] == second["interval"] == [0, 1]
    assert second["gain_interval"] == [-1, 1]
