"""The steps of an ablation, their training, and the report."""

import pytest

from cifar_jax.config import default_config, load_config
from cifar_jax.config.validate import flatten, validate
from cifar_jax.errors import UsageError
from cifar_jax.metrics.classification import mean_interval
from cifar_jax.modes import ablation
from cifar_jax.runs.json_files import read_json


def small(fixes, **values):
    config = default_config()
    config.update_from_flattened_dict(
        {
            "data.name": "shapes",
            "data.limit": 80,
            "model.widths": (4,),
            "model.dtype": "float32",
            "train.batch_size": 8,
            "train.epochs": 1,
            "train.seeds": 2,
            "ablation": fixes,
        }
    )
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config.lock()


def test_each_step_keeps_the_fixes_before_it():
    fixes = (("slower", (("optimizer.learning_rate", 0.01),)), ("norms", (("model.norm", "none"),)))
    steps = ablation.ablation_steps(small(fixes))
    assert [step.name for step, _ in steps] == ["as the notebook", "slower", "norms"]
    values = [(config.optimizer.learning_rate, config.model.norm, config.ablation) for _, config in steps]
    assert values == [(0.1, "batch", ()), (0.01, "batch", ()), (0.01, "none", ())]


@pytest.mark.parametrize(
    "notebook, recipe",
    [
        ("notebook_cnn", "cnn_scratch"),
        ("notebook_frozen", "resnet50_frozen"),
        ("notebook_resized", "resnet50_resized"),
        ("notebook_finetuned", "resnet50_finetuned"),
    ],
)
def test_the_last_step_is_the_recipe_except_for_the_budget(notebook, recipe):
    configs = [config for _, config in ablation.ablation_steps(load_config(f"notebook/{notebook}"))]
    for config in configs:
        validate(config)
    last, expected = flatten(configs[-1]), flatten(load_config(recipe))
    budget = {"model.widths", "train.epochs", "train.seeds", "mesh.sized_for"}
    if notebook == "notebook_frozen":  # L-BFGS has none of these
        budget |= {"train.batch_size", "optimizer.learning_rate", "optimizer.weight_decay", "schedule.name"}
    assert {key for key in expected if last[key] != expected[key]} <= budget


@pytest.mark.slow
def test_an_ablation_is_trained_and_finished_runs_are_not_trained_again(tmp_path):
    fixes = (("no norms", (("model.norm", "none"),)), ("augmented views", (("evaluation.tta", True),)))
    files = ablation.ablation(small(fixes), tmp_path, command="python main.py")
    steps = read_json(files[0])["steps"]
    assert [step["folder"] for step in steps] == ["0_as_the_notebook", "1_no_norms", "2_augmented_views"]
    before = None
    for row in steps:
        runs = [read_json(tmp_path / row["folder"] / f"seed_{seed}" / "results.json") for seed in (0, 1)]
        accuracies = [run["test"]["accuracy"] for run in runs]
        assert row["accuracies"] == accuracies
        assert [row["accuracy"], *row["interval"]] == pytest.approx(mean_interval(accuracies, bounds=(0, 1)))
        if before:
            gains = [after - old for old, after in zip(before, accuracies, strict=True)]
            assert [row["gain"], *row["gain_interval"]] == pytest.approx(mean_interval(gains, bounds=(-1, 1)))
        before = accuracies
    table = files[1].read_text()
    assert "| + no norms | `model.norm=none` |" in table and "shapes, test, n = 80, 2 seeds" in table
    assert {file.name for file in files} == {"ablation.json", "ablation.md", "ablation.png"}
    assert all(file.exists() for file in files)
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed_*/checkpoints/*")}
    assert ablation.ablation(small(fixes), tmp_path, command="python main.py") == files
    assert checkpoints == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed_*/checkpoints/*")}


@pytest.mark.parametrize(
    "config, message",
    [
        (small(()), "requires fixes"),
        (small((("x", ()),), train__seeds=1), "requires at least 2 seeds"),
        (small((("x", (("optimizer.lr", 1.0),)),)), "nearest is 'optimizer.learning_rate'"),
        (
            small((("x", (("optimizer.learning_rate", "fast"),)),)),
            "optimizer.learning_rate=fast: must be a",
        ),
        (small((("x", (("optimizer.learning_rate", -1.0),)),)), "--config.optimizer.learning_rate=-1.0"),
    ],
)
def test_invalid_fixes_are_refused_before_training(config, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        ablation.ablation(config, tmp_path / "ablation")
    assert not (tmp_path / "ablation").exists()
