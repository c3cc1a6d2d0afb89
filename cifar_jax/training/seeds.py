"""Several runs that differ in their seed only, and their mean with its 95 % interval."""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.metrics.classification import mean_interval
from cifar_jax.report.finished_runs import unseen_accuracy
from cifar_jax.runs.run_folder import write_json
from cifar_jax.training.loop import train


def train_seeds(config: ConfigDict, workdir: str | Path, *, command: str = "") -> dict:
    """Trains `train.seeds` runs, one after the other, in WORKDIR/seed_N; interrupted, it goes on where it was.

    One after the other, because networks stacked with `vmap` turn into grouped convolutions, several times slower.

    Returns:
        What stands in WORKDIR/results.json: for each split the accuracies, their mean and Student's 95 % interval.
    """
    first, number = config.train.seed, config.train.seeds
    runs = []
    for seed in range(first, first + number):
        with config.unlocked():
            one = config.copy_and_resolve_references()
        one.train.update(seed=seed, seeds=1)
        runs.append(train(one, Path(workdir) / f"seed_{seed}", command=command))
    found = {"seeds": list(range(first, first + number)), "data": runs[0]["data"]}
    for split in ("validation", "test"):
        accuracies = [unseen_accuracy(run[split]) for run in runs]
        mean, low, high = mean_interval(accuracies)
        found[split] = {
            "n": runs[0][split]["n"],
            "runs": number,
            "accuracies": accuracies,
            "accuracy": mean,
            "accuracy_interval": [low, high],
            "tta": runs[0][split]["tta"],
        }
    write_json(Path(workdir) / "results.json", found)
    return found
