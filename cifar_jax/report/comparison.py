"""report.html, .md, .json and .png of several runs: a table, their curves, and which differences exceed chance."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.metrics import ensemble, paired
from cifar_jax.report import curves, finished_runs
from cifar_jax.report.finished_runs import Group, Run
from cifar_jax.report.html import inlined, write_page
from cifar_jax.runs.json_files import write_json

SPLITS = ("train", "validation", "test")


def write(directory: Path) -> list[Path]:
    """Compares all finished runs below `directory`; writes report.html, .md, .json and .png there, returns their paths.

    The .png has validation curves: there is none if no run has a validation split.

    Raises:
        UsageError: there is no finished run.
        OSError: a file cannot be written.
    """
    runs, skipped = finished_runs.find(directory)
    groups = finished_runs.group(runs)
    files = {kind: directory / f"report.{kind}" for kind in ("html", "md", "json", "png")}
    correct = _readable(groups, skipped)
    pairs, ensembles = list(_pairs(groups, correct)), list(_ensembles(groups, correct))
    rows = [_row(*pair) for pair in zip(groups, finished_runs.config_differences(groups), strict=True)]
    write_json(files["json"], {"groups": rows, "pairs": pairs, "ensembles": ensembles, "skipped": skipped})
    validated = [group for group in groups if group.accuracy("validation")]  # only these have curves
    if validated:
        _draw(validated, title=f"{directory.name}: {len(runs)} runs", path=files["png"])
    else:
        files.pop("png").unlink(missing_ok=True)
    leaders = set({group.data: group.runs[0].name for group in reversed(groups)}.values())  # best of each data set
    values = {
        "name": directory.name,
        "runs": len(runs),
        "groups": rows,
        "pairs": [pair for pair in pairs if {pair["first"], pair["second"]} & leaders],
        "ensembles": ensembles,
        "skipped": skipped,
        "splits": SPLITS[::-1],
        "validated": len(validated),
    }
    write_page(files["md"], "comparison.md", **values)
    alt = "Validation loss and accuracy of all runs by epoch, and accuracy by time"
    image = inlined(files["png"], alt=alt) if validated else None
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


def _readable(groups: Sequence[Group], skipped: list[str]) -> dict[str, np.ndarray]:
    """By the name of a run, whether each test image is classified correctly, bool (N,).

    A run whose predictions are missing or damaged is left out; a line is added to `skipped`.
    """
    correct = {}
    for run in (run for group in groups for run in group.runs):
        try:
            logits_NK, labels_N = run.folder.logits("test")
        except DataError as error:
            skipped.append(f"{run.name}: in no paired comparison and no ensemble: {error}")
        else:
            correct[run.name] = logits_NK.argmax(axis=1) == labels_N
    return correct


def _pairs(groups: Sequence[Group], correct: dict[str, np.ndarray]) -> Iterator[dict]:
    """Paired tests of the first seeds of every two configurations with the same test images."""
    first_seeds = [group.runs[0] for group in groups if group.runs[0].name in correct]
    for first, second in itertools.combinations(first_seeds, 2):
        if _test_images(first) == _test_images(second):
            result = paired.compare(correct[first.name], correct[second.name])
            yield {"first": first.name, "second": second.name, **result}


def _ensembles(groups: Sequence[Group], names: Collection[str]) -> Iterator[dict]:
    """The runs of each group as one classifier, then all runs on the same test images if they are of several groups.

    Only runs whose name is in `names` take part.
    """
    by_images: dict[str, list[Group]] = {}
    for group in groups:
        by_images.setdefault(_test_images(group.runs[0]), []).append(group)
    several = [same for same in by_images.values() if len(same) > 1]
    together = [Group([run for group in same for run in group.runs]) for same in several]
    named = [(group.name, group) for group in groups] + [(f"all runs on {group.data}", group) for group in together]
    for name, group in named:
        runs = [run for run in group.runs if run.name in names]
        if len(runs) > 1:
            _, labels_N = runs[0].folder.logits("test")
            figures = ensemble.evaluate((run.folder.logits("test")[0] for run in runs), labels_N=labels_N)
            yield {"name": name, "runs": [run.name for run in runs], **figures}


def _test_images(run: Run) -> str:
    return run.results["data"]["splits"]["test"]["fingerprint"]


def _draw(groups: Sequence[Group], *, title: str, path: Path) -> None:
    shown = groups[: len(curves.LINES)]
    if len(shown) < len(groups):
        title += f"\nthe first {len(shown)} of {len(groups)} configurations"
    histories: dict[str, dict] = {}
    for group in shown:
        histories.setdefault(group.data, {})[group.name] = [run.history for run in group.runs]
    curves.overlay(histories, title=title, path=path)
