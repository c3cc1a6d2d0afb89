"""report.html, report.md and report.json of several runs: one table, their curves, and which differences are chance."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from cifar_jax.metrics import paired
from cifar_jax.report import curves, finished_runs
from cifar_jax.report.finished_runs import Group
from cifar_jax.report.html import inlined, write_page
from cifar_jax.runs.run_folder import write_json

SPLITS = ("train", "validation", "test")


def write(directory: Path) -> list[Path]:
    """Compares every finished run below `directory`, and leaves report.html, .md, .json and .png there.

    Returns:
        The files.

    Raises:
        UsageError: there is no finished run.
        OSError: a file cannot be written.
    """
    runs, left_out = finished_runs.find(directory)
    groups = finished_runs.group(runs)
    files = {kind: directory / f"report.{kind}" for kind in ("html", "md", "json", "png")}
    found = {
        "groups": [_row(one, varied) for one, varied in zip(groups, finished_runs.differences(groups), strict=True)],
        "pairs": list(_pairs(groups)),
        "left_out": left_out,
    }
    write_json(files["json"], found)
    _draw(groups, title=f"{directory.name}: {len(runs)} runs", path=files["png"])
    leaders = _leaders(found["groups"])
    shown = [pair for pair in found["pairs"] if {pair["first"], pair["second"]} & leaders]
    values = found | {"name": directory.name, "runs": len(runs), "shown_pairs": shown, "splits": SPLITS}
    write_page(files["md"], "comparison.md", **values)
    image = inlined(files["png"], alt="Validation loss and accuracy of all runs by epoch and by time")
    write_page(files["html"], "comparison.html", **values, curves=image)
    return list(files.values())


def _row(one: Group, varied: dict[str, object]) -> dict:
    """What report.json says about the runs of one configuration."""
    first = one.runs[0].results
    return {
        "name": one.name,
        "recipe": one.runs[0].recipe,
        "data": first["data"]["name"],
        "runs": [run.name for run in one.runs],
        "seeds": [run.results["seed"] for run in one.runs],
        **{split: one.accuracy(split) for split in SPLITS},
        "tta": first["test"]["tta"],
        "ece": one.mean(lambda results: results["test"]["ece"]),
        "parameters": first["parameters"],
        "images_per_second": one.mean(lambda results: results["images_per_second"]),
        "seconds": one.mean(lambda results: results["seconds"]["run"]),
        "devices": first["environment"]["devices"],
        "differs": varied,
    }


def _pairs(groups: Sequence[Group]) -> Iterator[dict]:
    """Every two configurations that were tested on the same images, each by its first seed."""
    tested = [(one.runs[0], one.runs[0].correct()) for one in groups]
    usable = [(run, correct_N) for run, correct_N in tested if correct_N is not None]
    for (first, first_correct_N), (second, second_correct_N) in itertools.combinations(usable, 2):
        data = [run.results["data"]["splits"]["test"] for run in (first, second)]
        if data[0] == data[1]:
            compared = paired.compare(first_correct_N, second_correct_N)
            yield {"first": first.name, "second": second.name, **dataclasses.asdict(compared)}


def _leaders(rows: Sequence[dict]) -> set[str]:
    """The first run of the best configuration on validation, of each data set."""
    best: dict[str, str] = {}
    for row in rows:
        best.setdefault(row["data"], row["runs"][0])
    return set(best.values())


def _draw(groups: Sequence[Group], *, title: str, path: Path) -> None:
    shown = groups[: len(curves.LINES)]
    if len(shown) < len(groups):
        title += f"\nthe first {len(shown)} of {len(groups)} configurations"
    curves.overlay({one.name: [run.history for run in one.runs] for one in shown}, title=title, path=path)
