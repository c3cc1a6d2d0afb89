"""report.html, .md, .json and .png of several runs: a table, their curves, and which differences exceed chance."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from cifar_jax.errors import DataError
from cifar_jax.metrics import paired
from cifar_jax.report import curves, finished_runs
from cifar_jax.report.finished_runs import Group
from cifar_jax.report.html import inlined, write_page
from cifar_jax.runs.json_files import write_json

SPLITS = ("train", "validation", "test")


def write(directory: Path) -> list[Path]:
    """Compares all finished runs below `directory`; writes report.html, .md, .json and .png there, returns their paths.

    Raises:
        UsageError: there is no finished run.
        OSError: a file cannot be written.
    """
    runs, skipped = finished_runs.find(directory)
    groups = finished_runs.group(runs)
    files = {kind: directory / f"report.{kind}" for kind in ("html", "md", "json", "png")}
    pairs = list(_pairs(groups, skipped))
    rows = [_row(*pair) for pair in zip(groups, finished_runs.config_differences(groups), strict=True)]
    write_json(files["json"], {"groups": rows, "pairs": pairs, "skipped": skipped})
    _draw(groups, title=f"{directory.name}: {len(runs)} runs", path=files["png"])
    leaders = set({group.data: group.runs[0].name for group in reversed(groups)}.values())  # best of each data set
    values = {
        "name": directory.name,
        "runs": len(runs),
        "groups": rows,
        "pairs": [pair for pair in pairs if {pair["first"], pair["second"]} & leaders],
        "skipped": skipped,
        "splits": SPLITS[::-1],
    }
    write_page(files["md"], "comparison.md", **values)
    image = inlined(files["png"], alt="Validation loss and accuracy of all runs by epoch, and accuracy by time")
    write_page(files["html"], "comparison.html", **values, curves=image)
    return list(files.values())


def _row(group: Group, differences: dict[str, object]) -> dict:
    """The entry of one configuration in report.json."""
    first = group.runs[0].results
    return {
        "name": group.name,
        "recipe": group.runs[0].recipe,
        "data": group.data,
        "runs": [run.name for run in group.runs],
        "seeds": [run.results["seed"] for run in group.runs],
        **{split: group.accuracy(split) for split in SPLITS},
        "tta": first["test"]["tta"],
        "ece": group.mean(lambda results: results["test"]["ece"]),
        "parameters": first["parameters"],
        "images_per_second": group.mean(lambda results: results["images_per_second"]),
        "seconds": group.mean(lambda results: results["seconds"]["run"]),
        "devices": first["environment"]["devices"],
        "differences": differences,
    }


def _pairs(groups: Sequence[Group], skipped: list[str]) -> Iterator[dict]:
    """Paired tests of the first seeds of every two configurations with the same test images.

    A run whose predictions are missing or damaged is not tested; a line is added to `skipped`.
    """
    tested = []
    for run in (group.runs[0] for group in groups):
        try:
            tested.append((run, run.folder.correct("test")))
        except DataError as error:
            skipped.append(f"{run.name}: no paired comparison: {error}")
    for (first, first_correct_N), (second, second_correct_N) in itertools.combinations(tested, 2):
        if first.results["data"]["splits"]["test"] == second.results["data"]["splits"]["test"]:
            result = paired.compare(first_correct_N, second_correct_N)
            yield {"first": first.name, "second": second.name, **result}


def _draw(groups: Sequence[Group], *, title: str, path: Path) -> None:
    shown = groups[: len(curves.LINES)]
    if len(shown) < len(groups):
        title += f"\nthe first {len(shown)} of {len(groups)} configurations"
    histories: dict[str, dict] = {}
    for group in shown:
        histories.setdefault(group.data, {})[group.name] = [run.history for run in group.runs]
    curves.overlay(histories, title=title, path=path)
