"""The result of an ablation as JSON, a Markdown table and a waterfall figure."""

import dataclasses
import itertools
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_jax.metrics.classification import mean_interval
from cifar_jax.report import style
from cifar_jax.report.finished_runs import comparable_accuracy
from cifar_jax.report.html import write_page
from cifar_jax.runs import forms
from cifar_jax.runs.json_files import read_json, write_json
from cifar_jax.runs.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class AblationStep:
    """One step of an ablation."""

    name: str  # of the fix
    folder: str  # of its runs, one per seed, relative to the folder of the ablation
    changes: Mapping[str, object]  # the configuration keys that differ from the previous step, with their values


def write(directory: Path, steps: Sequence[AblationStep]) -> list[Path]:
    """Writes ablation.json, .md and .png to `directory` from the finished runs of all steps; returns their paths.

    Raises:
        DataError: a file of a run is missing or damaged.
        OSError: a file cannot be written.
    """
    files = {kind: directory / f"ablation.{kind}" for kind in ("json", "md", "png")}
    rows = [_row(directory, step) for step in steps]
    for previous, row in itertools.pairwise(rows):
        gains = [after - before for before, after in zip(previous["accuracies"], row["accuracies"], strict=True)]
        row["gain"], *row["gain_interval"] = mean_interval(gains, bounds=(-1, 1))
    first = _results_by_seed(directory, steps[0])[0]
    summary = {
        "name": directory.name,
        "data": first["data"]["name"],
        "fingerprint": first["data"]["splits"]["test"]["fingerprint"],
        "n": first["test"]["n"],
        "devices": first["environment"]["devices"],
        "versions": first["environment"]["versions"],
        "steps": rows,
    }
    write_json(files["json"], summary)
    write_page(files["md"], "ablation.md", **summary)
    waterfall(summary, path=files["png"])
    return list(files.values())


def _results_by_seed(directory: Path, step: AblationStep) -> list[dict]:
    """The content of results.json of each seed."""
    seeds = read_json(directory / step.folder / "results.json", forms.SEEDS)["seeds"]
    return [RunFolder(directory / step.folder / f"seed_{seed}").results() for seed in seeds]


def _row(directory: Path, step: AblationStep) -> dict:
    """The entry of a step in ablation.json, without its gain."""
    results = _results_by_seed(directory, step)
    accuracies = [result["test"]["accuracy"] for result in results]
    mean, *interval = mean_interval(accuracies, bounds=(0, 1))
    history = RunFolder(directory / step.folder / f"seed_{results[0]['seed']}").history()
    validation = [comparable_accuracy(result["validation"]) for result in results if result.get("validation")]
    return {
        **dataclasses.asdict(step),
        "seeds": [result["seed"] for result in results],
        "accuracies": accuracies,
        "accuracy": mean,
        "interval": interval,
        **({"validation_accuracy": statistics.fmean(validation)} if validation else {}),
        "epochs": len(history["epoch"]),
        "seconds": statistics.fmean(result["seconds"]["run"] for result in results),
    }


def waterfall(summary: Mapping, *, path: Path) -> None:
    """Draws each step of ablation.json as a row: a bar from the previous mean to its mean, all seeds, the interval."""
    rows = summary["steps"]
    title = f"{summary['data']}, test, n = {summary['n']:,}, {len(rows[0]['seeds'])} seeds\n{summary['name']}"
    with style.figure(path, title=title, height=1.2 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            mean = 100 * row["accuracy"]
            before = 100 * rows[max(0, place - 1)]["accuracy"]
            if place:
                color = style.GREEN if row["gain"] >= 0 else style.VERMILLION
                axes.barh(place, mean - before, left=before, color=color, height=0.6)
                axes.plot([before, before], [place - 1, place + 0.3], color=style.GRAY, linewidth=0.8)
            low, high = (100 * bound for bound in row["interval"])
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
            accuracies = [100 * accuracy for accuracy in row["accuracies"]]
            axes.plot(accuracies, [place] * len(accuracies), ".", color="black")
            gain = f"  ({100 * row['gain']:+.1f})" if place else ""
            end = (max(high, *accuracies, before), place)
            axes.annotate(f"{mean:.1f}{gain}", end, xytext=(6, 0), textcoords="offset points", va="center")
        names = [row["name"] if place == 0 else f"+ {row['name']}" for place, row in enumerate(rows)]
        axes.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(style.printable(name), 30)) for name in names])
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.grid(True, axis="x")
        axes.set_xlabel(
            "test accuracy (%): bar = change of the mean,\ndots = seeds, line = 95 % interval (Student's t)"
        )
