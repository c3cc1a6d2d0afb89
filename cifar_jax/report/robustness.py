"""Accuracy and calibration by corruption and severity."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cifar_jax.report import style


def corruptions(result: Mapping, *, run: str, path: Path) -> None:
    """Draws the accuracy of each corruption at each severity, their means, and the ECE by severity.

    Args:
        result: the content of metrics.json of a suite with several severities.
    """
    mean, clean = result["mean"], result["clean"]
    low, high = (100 * bound for bound in mean["accuracy_interval"])
    views = ", test-time augmentation" if result["tta"] else ""
    title = f"{result['data']}, {result['suite']}, n = {mean['n']:,}\n{run}{views}"
    rows = {name: [each["accuracy"] for each in by_severity] for name, by_severity in result["sets"].items()}
    with style.figure(path, title=title, height=0.3 * len(rows) + 4.2, width=style.NARROW) as figure:
        above, below = figure.subplots(2, height_ratios=(0.3 * len(rows) + 1.2, 2))
        _matrix(above, rows)
        above.set_title(
            f"accuracy (%): {100 * mean['accuracy']:.1f} [{low:.1f}, {high:.1f}]\n"
            f"without corruption {100 * clean['accuracy']:.1f}"
        )
        _calibration(below, result)
        figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _matrix(axes: Axes, rows: Mapping[str, list[float]]) -> None:
    """A row for each corruption, and the means below and to the right, apart from the rest."""
    accuracies_CS = 100 * np.array([*rows.values()])
    corrupted, severities = accuracies_CS.shape
    with_means = np.full((corrupted + 1, severities + 1), np.nan)
    with_means[:-1, :-1] = accuracies_CS
    axes.imshow(with_means, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    with_means[-1, :-1], with_means[:-1, -1] = accuracies_CS.mean(axis=0), accuracies_CS.mean(axis=1)
    with_means[-1, -1] = accuracies_CS.mean()
    for (row, column), value in np.ndenumerate(with_means):
        is_mean = row == corrupted or column == severities
        color = "white" if value > 60 and not is_mean else "black"
        axes.text(column, row, f"{value:.1f}", color=color, fontsize=9, ha="center", va="center")
    axes.set_xticks(range(severities + 1), [*range(1, severities + 1), "mean"])
    axes.set_yticks(range(corrupted + 1), [*(name.replace("_", " ") for name in rows), "mean"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("severity")


def _calibration(axes: Axes, result: Mapping) -> None:
    """The ECE without corruption and its mean over the corruptions at each severity."""
    points = [result["clean"], *result["severities"]]
    lines = [("as trained", points, style.VERMILLION, "o-")]
    if "temperature" in result:
        scaled = [point["temperature_scaled"] for point in points]
        lines += [("with temperature", scaled, style.BLUE, "s--")]
    for label, values, color, marker in lines:
        axes.plot([100 * value["ece"] for value in values], marker, color=color, label=label)
    axes.set_xticks(range(len(points)), ["none", *range(1, len(points))])
    axes.set(xlabel="severity", ylim=(0, None), title="ECE (%), mean over the corruptions")
    axes.grid(True)
