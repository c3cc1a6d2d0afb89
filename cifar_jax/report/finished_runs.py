"""The finished runs below a folder, grouped by configuration: runs of one group differ only in their seed."""

import collections
import dataclasses
import json
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cifar_jax.config.keys import FREE_KEYS
from cifar_jax.config.validate import flatten
from cifar_jax.errors import CifarJaxError, DataError, UsageError
from cifar_jax.metrics.classification import mean_interval, wilson_interval
from cifar_jax.runs.run_folder import RunFolder

IGNORED_KEYS = {*FREE_KEYS, "train.seed", "train.seeds"}  # runs of one group may differ in these keys


def comparable_accuracy(metrics: Mapping) -> float:
    """The accuracy for comparing runs, from the metrics of a split in results.json.

    The final fit of a probe includes the validation images; their accuracy is then that before the final fit.
    """
    return metrics.get("before_final_fit", metrics)["accuracy"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str  # its path relative to the searched folder
    folder: RunFolder
    recipe: str  # the name of the recipe file; '' if the command has none
    config: dict[str, object]  # by dotted key, without `IGNORED_KEYS`
    results: dict  # the content of results.json
    history: dict[str, list]  # the content of history.json

    @classmethod
    def read(cls, name: str, folder: RunFolder) -> "Run":
        """Reads a run folder. Raises DataError if the run is not finished or a file is damaged."""
        recorded = folder.recorded()
        if not folder.results_json.exists():
            raise DataError("not finished; run its command again to resume it")
        recipe = re.search(r"-config[= ](\S+)", recorded["command"])
        return cls(
            name=name,
            folder=folder,
            recipe=Path(recipe[1]).stem if recipe else "",
            config={key: value for key, value in flatten(recorded["config"]).items() if key not in IGNORED_KEYS},
            results=folder.results(),
            history=folder.history(),
        )


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration on the same data, ordered by seed."""

    runs: Sequence[Run]

    @property
    def name(self) -> str:
        """The folder of the run, or the folder that contains all seeds."""
        names = [run.name for run in self.runs]
        return names[0] if len(names) == 1 else os.path.commonpath(names) or f"{names[0]} and {len(names) - 1} more"

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.runs[0].results["data"]["name"]

    def mean(self, value: Callable[[dict], float]) -> float:
        """The mean over the runs of `value(results)`."""
        return statistics.fmean(value(run.results) for run in self.runs)

    def accuracy(self, split: str) -> dict | None:
        """The mean accuracy and its 95 % interval: over the images for one run, over the seeds for several.

        None if there is no such split.
        """
        if not self.runs[0].results.get(split):
            return None
        accuracies = [comparable_accuracy(run.results[split]) for run in self.runs]
        n = self.runs[0].results[split]["n"]
        if len(accuracies) == 1:
            low, high = wilson_interval(round(accuracies[0] * n), n)
        else:
            _, low, high = mean_interval(accuracies, bounds=(0, 1))
        return {"n": n, "accuracy": statistics.fmean(accuracies), "interval": [low, high]}


def find(directory: Path) -> tuple[list[Run], list[str]]:
    """The finished runs below `directory`, and a line for each run that was skipped, with the reason.

    Raises:
        UsageError: there is no finished run.
    """
    runs, skipped = [], []

    def unreadable(error: OSError) -> None:
        skipped.append(f"{_name(error.filename, directory)}: cannot be read: {error.strerror}")

    for path, folders, files in os.walk(directory, onerror=unreadable):
        folders.sort()
        if {"config.json", "checkpoints"} & {*folders, *files}:
            folders.clear()  # a run contains no other run, but its checkpoints are many files
            name = _name(path, directory)
            try:
                runs.append(Run.read(name, RunFolder(Path(path))))
            except CifarJaxError as error:
                skipped.append(f"{name}: {error}")
    if not runs:
        hint = f" ({'; '.join(skipped)})" if skipped else ""
        raise UsageError(
            f"--workdir={directory} contains no finished run{hint}: name the folder that contains the run folders"
        )
    return runs, skipped


def _name(path: str, directory: Path) -> str:
    """The path relative to `directory`; bytes that are not UTF-8 as \\xff, because no page can hold them."""
    return os.fsencode(Path(path).relative_to(directory)).decode("utf-8", "backslashreplace")


def group(runs: Sequence[Run]) -> list[Group]:
    """Groups runs that differ only in their seed; sorted by data set, then by falling validation accuracy.

    Those without a validation split are the last of their data set, by name. A run with a seed that is already in the
    group starts another group: it adds no information on the variation.
    """
    runs_by_key: dict[tuple, list[Run]] = {}
    repeats = collections.Counter()
    for run in sorted(runs, key=lambda run: run.results["seed"]):
        config_and_data = json.dumps([run.config, run.results["data"]], sort_keys=True)
        seed = (config_and_data, run.results["seed"])
        runs_by_key.setdefault((config_and_data, repeats[seed]), []).append(run)
        repeats[seed] += 1
    groups = [Group(members) for members in runs_by_key.values()]

    def rank(group: Group) -> tuple:
        validation = group.accuracy("validation")
        return (group.data, 0, -validation["accuracy"]) if validation else (group.data, 1, group.name)

    return sorted(groups, key=rank)


def config_differences(groups: Sequence[Group]) -> list[dict[str, object]]:
    """For each group, its values of the keys that are not identical in all groups."""
    configs = [group.runs[0].config for group in groups]
    keys = dict.fromkeys(key for config in configs for key in config)
    changed = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]
    return [{key: config.get(key) for key in changed} for config in configs]
