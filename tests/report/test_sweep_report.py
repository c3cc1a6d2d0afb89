"""The summary of a sweep, from finished run folders."""

import pytest
from scipy import stats

from cifar_jax.report import sweep
from cifar_jax.runs.json_files import read_json


@pytest.fixture
def write_sweep(tmp_path, make_run, change):
    """`write_sweep(accuracies, failures)`: sweep.json of learning rates with these accuracies by split and seed."""

    def of(accuracies, failures=()):
        rates = [*accuracies, *failures]
        points = [
            {"folder": str(rate), "changes": {"optimizer.learning_rate": rate}, "failure": "x" * (rate in failures)}
            for rate in rates
        ]
        for rate, by_split in accuracies.items():
            number = len(by_split["test"])
            for seed in range(number):
                path = tmp_path / str(rate) / (f"seed_{seed}" if number > 1 else "")
                folder = make_run(path, seed=seed, learning_rate=rate)
                results = read_json(folder.results_json)
                splits = {name: results[name] | {"accuracy": values[seed]} for name, values in by_split.items()}
                change(folder.results_json, **splits)
        found = sweep.write(tmp_path, points, seeds=range(number))
        assert found == read_json(tmp_path / "sweep.json")
        return found

    return of


def test_the_best_is_chosen_on_validation_and_only_its_test_accuracy_is_reported(write_sweep):
    accuracies = {
        0.1: {"validation": (0.60, 0.62), "test": (0.91, 0.93)},
        0.2: {"validation": (0.70, 0.74), "test": (0.50, 0.52)},
    }
    found = write_sweep(accuracies)
    assert found["best"] == "0.2"
    for of_split, values in ((found["points"][1]["validation"], (0.70, 0.74)), (found["test"], (0.50, 0.52))):
        assert of_split["accuracy"] == pytest.approx(sum(values) / 2)
        expected = stats.t.interval(0.95, 1, loc=sum(values) / 2, scale=stats.sem(values))
        assert of_split["interval"] == pytest.approx([max(0, expected[0]), min(1, expected[1])])
    lines = sweep.describe(found).splitlines()
    assert lines[0] == "shapes, validation, n = 300, mean of 2 seeds"
    assert lines[1].startswith("  learning_rate=0.1  61.00% [") and not lines[1].endswith("best")
    assert lines[2].startswith("  learning_rate=0.2  72.00% [") and lines[2].endswith("best")
    assert lines[4].startswith("  learning_rate=0.2  51.00% [") and len(lines) == 5
    assert max(map(len, lines)) <= 80


def test_a_single_seed_has_the_interval_over_the_images_and_a_failure_is_never_the_best(write_sweep):
    found = write_sweep({0.1: {"validation": (0.01,), "test": (0.5,)}}, failures=[9.0])
    low, high = found["points"][0]["validation"]["interval"]
    assert 0 < low < 0.01 < high
    assert found["best"] == "0.1" and "validation" not in found["points"][1]
    assert "  learning_rate=9.0  x" in sweep.describe(found).splitlines()
