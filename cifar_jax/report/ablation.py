"""The gap ledger as a table and a waterfall: what each mistake costs."""

import dataclasses
import itertools
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_jax.metrics.classification import mean_interval
from cifar_jax.report import style
from cifar_jax.report.finished_runs import unseen_accuracy
from cifar_jax.report.html import write_page
from cifar_jax.runs.run_folder import read_json, write_json


@dataclasses.dataclass(frozen=True)
class Rung:
    """One configuration of the ledger.

    Attributes:
        name: what was mended.
        folder: holds the seeds, below the folder of the ledger.
        changes: the configuration keys in which it differs from the rung before, and their values.
    """

    name: str
    folder: str
    changes: Mapping[str, object]


def write(directory: Path, rungs: Sequence[Rung]) -> list[Path]:
    """Leaves ledger.json, ledger.md and ledger.png in `directory`, from the finished runs of every rung.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    files = {kind: directory / f"ledger.{kind}" for kind in ("json", "md", "png")}
    rows = [_row(directory, rung) for rung in rungs]
    for before, row in itertools.pairwise(rows):
        gains = [after - old for old, after in zip(before["accuracies"], row["accuracies"], strict=True)]
        row["gain"], *row["gain_interval"] = mean_interval(gains)
    first = _seeds(directory, rungs[0])[0]
    found = {
        "name": directory.name,
        "data": first["data"]["name"],
        "fingerprint": first["data"]["splits"]["test"]["fingerprint"],
        "n": first["test"]["n"],
        "devices": first["environment"]["devices"],
        "versions": first["environment"]["versions"],
        "rungs": rows,
    }
    write_json(files["json"], found)
    write_page(files["md"], "ablation.md", **found)
    _draw(found, path=files["png"])
    return list(files.values())


def _seeds(directory: Path, rung: Rung) -> list[dict]:
    """results.json of every seed."""
    runs = read_json(directory / rung.folder / "results.json")["seeds"]
    return [read_json(directory / rung.folder / f"seed_{seed}" / "results.json") for seed in runs]


def _row(directory: Path, rung: Rung) -> dict:
    runs = _seeds(directory, rung)
    accuracies = [run["test"]["accuracy"] for run in runs]
    mean, *interval = mean_interval(accuracies)
    history = read_json(directory / rung.folder / f"seed_{runs[0]['seed']}" / "history.json")
    return {
        **dataclasses.asdict(rung),
        "seeds": [run["seed"] for run in runs],
        "accuracies": accuracies,
        "accuracy": mean,
        "interval": interval,
        "validation_accuracy": statistics.fmean(unseen_accuracy(run["validation"]) for run in runs),
        "epochs": len(history["epoch"]),
        "seconds": statistics.fmean(run["seconds"]["run"] for run in runs),
    }


def _draw(found: dict, *, path: Path) -> None:
    """A waterfall from the top down: bars from one mean to the next, with every seed and the interval of the mean."""
    rows = found["rungs"]
    title = (
        f"{found['data']}, test, n = {found['n']:,}, {len(rows[0]['seeds'])} seeds\n{found['name']}: repair by repair"
    )
    with style.figure(path, title=title, height=1.2 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            mean = 100 * row["accuracy"]
            if place:
                before = 100 * rows[place - 1]["accuracy"]
                axes.barh(place, mean - before, left=before, color=_color(row["gain"]), height=0.6)
                axes.plot([before, before], [place - 1, place + 0.3], color=style.GRAY, linewidth=0.8)
            low, high = (100 * bound for bound in row["interval"])
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
            axes.plot([100 * one for one in row["accuracies"]], [place] * len(row["seeds"]), ".", color="black")
            gain = f"  ({100 * row['gain']:+.1f})" if place else ""
            axes.annotate(
                f"{mean:.1f}{gain}",
                (max(high, mean), place),
                xytext=(6, 0),
                textcoords="offset points",
                verticalalignment="center",
            )
        names = [row["name"] if place == 0 else f"+ {row['name']}" for place, row in enumerate(rows)]
        axes.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(style.printable(name), 30)) for name in names])
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.grid(True, axis="x")
        axes.set_xlabel(
            "test accuracy (%): bar = gain of the mean, dots = seeds,\nline = 95 % interval of the mean (Student's t)"
        )


def _color(gain: float) -> str:
    return style.GREEN if gain >= 0 else style.VERMILLION
