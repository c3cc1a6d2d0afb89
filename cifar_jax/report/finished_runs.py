"""Finished runs below a folder, and which of them differ in their seed only."""

import collections
import dataclasses
import json
import os
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cifar_jax.config.keys import FREE_KEYS
from cifar_jax.config.validate import flatten
from cifar_jax.errors import DataError, UsageError
from cifar_jax.metrics.classification import mean_interval, wilson_interval
from cifar_jax.runs.run_folder import RunFolder, read_json

MAY_DIFFER = {*FREE_KEYS, "train.seed", "train.seeds"}  # keys in which the runs of one group may differ


def unseen_accuracy(found: dict) -> float:
    """Of a split in results.json, from before its images were taken into the last fit, where they were.

    Only this can be compared between runs: what a probe scores on images that it was fitted on says nothing.
    """
    return found.get("before_refit", found)["accuracy"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: its path below the folder that was searched.
        recipe: name of the recipe file, '' where the command names none.
        config: by dotted key, without the keys that decide nothing but where and how often.
        results, history: what results.json and history.json hold.
    """

    name: str
    folder: RunFolder
    recipe: str
    config: dict[str, object]
    results: dict
    history: dict[str, list]

    def correct(self) -> np.ndarray | None:
        """Whether each test image is right, bool (N,); None where evaluation/test is not that of results.json."""
        directory = self.folder.evaluation_dir("test")
        if not (directory / "predictions.npz").exists():
            return None
        if not self.folder.matches_results(read_json(directory / "metrics.json")):
            return None
        with np.load(directory / "predictions.npz") as saved:
            return saved["labels"] == saved["predictions"]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration on the same data, by seed."""

    runs: Sequence[Run]

    @property
    def name(self) -> str:
        """The folder of the run, or the one that holds all the seeds."""
        names = [run.name for run in self.runs]
        return names[0] if len(names) == 1 else os.path.commonpath(names) or f"{names[0]} and {len(names) - 1} more"

    def mean(self, figure: Callable[[dict], float]) -> float:
        """The mean over the runs of a figure in results.json."""
        return statistics.fmean(figure(run.results) for run in self.runs)

    def accuracy(self, split: str) -> dict:
        """Its mean, and a 95 % interval: for one run over the images, for several of the mean over the seeds."""
        accuracies = [unseen_accuracy(run.results[split]) for run in self.runs]
        n = self.runs[0].results[split]["n"]
        if len(accuracies) == 1:
            low, high = wilson_interval(round(accuracies[0] * n), n)
        else:
            low, high = mean_interval(accuracies)[1:]
        return {
            "n": n,
            "accuracy": statistics.fmean(accuracies),
            "interval": [low, high],
        }


def find(directory: Path) -> tuple[list[Run], list[str]]:
    """Every finished run in the folders below `directory`, and what was left out, each with the reason.

    Raises:
        UsageError: there is no finished run.
    """
    runs, left_out = [], []
    for path, folders, files in os.walk(directory):
        folders.sort()
        if "config.json" in files:
            folders.clear()  # a run holds no other run, but its checkpoints hold many files
            name = str(Path(path).relative_to(directory))
            try:
                runs.append(_read(name, RunFolder(Path(path))))
            except DataError as error:
                left_out.append(f"{name}: {error}")
    if not runs:
        hint = f" ({'; '.join(left_out)})" if left_out else ""
        raise UsageError(
            f"--workdir={directory} holds no finished run{hint}: name the folder that holds the run folders"
        )
    return runs, left_out


def _read(name: str, folder: RunFolder) -> Run:
    """The run in a folder.

    Raises:
        DataError: it is not finished, or a file of it is damaged.
    """
    recorded = read_json(folder.config_json)
    if not folder.results_json.exists():
        raise DataError("not finished; its command goes on where it was")
    recipe = re.search(r"-config[= ](\S+)", recorded["command"])
    return Run(
        name=name,
        folder=folder,
        recipe=Path(recipe[1]).stem if recipe else "",
        config={key: value for key, value in flatten(recorded["config"]).items() if key not in MAY_DIFFER},
        results=read_json(folder.results_json),
        history=read_json(folder.history_json),
    )


def group(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in their seed only, together; by data set, and within it the best on validation first.

    A seed that was run again tells nothing new about chance in training, and begins a group of its own.
    """
    together: dict[tuple, list[Run]] = {}
    repeats = collections.Counter()
    for run in sorted(runs, key=lambda run: run.results["seed"]):
        alike = json.dumps([run.config, run.results["data"]], sort_keys=True)
        together.setdefault((alike, repeats[alike, run.results["seed"]]), []).append(run)
        repeats[alike, run.results["seed"]] += 1
    groups = [Group(members) for members in together.values()]

    def rank(one: Group):
        return one.runs[0].results["data"]["name"], -one.accuracy("validation")["accuracy"]

    return sorted(groups, key=rank)


def differences(groups: Sequence[Group]) -> list[dict[str, object]]:
    """For each group its values of the keys that are not the same in all groups."""
    configs = [one.runs[0].config for one in groups]
    keys = dict.fromkeys(key for config in configs for key in config)
    varied = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]
    return [{key: config.get(key) for key in varied} for config in configs]
