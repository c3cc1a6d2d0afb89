"""The reliability diagram: are predictions with a confidence of 80 % right in 80 % of the cases?"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cifar_jax.metrics.classification import wilson_interval
from cifar_jax.report import style


def calibration(metrics: dict, *, title: str, path: Path) -> None:
    """Accuracy by confidence, and share of images, in the bins of metrics.json (Guo et al. 2017)."""
    bins = {name: np.asarray(values_B) for name, values_B in metrics["reliability"].items()}
    low, high = metrics["ece_interval"]
    heading = f"ECE {100 * metrics['ece']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] in {len(bins['count'])} bins"
    if scaled := metrics.get("temperature_scaled"):
        heading += f"\n{100 * scaled['ece']:.1f} % with temperature {scaled['temperature']:.2f}"
    confidence = (bins["count"] * bins["confidence"]).sum() / metrics["n"]
    with style.figure(path, title=title, height=6.6, width=style.NARROW) as figure:
        above, below = figure.subplots(2, sharex=True, height_ratios=(5, 1.6))
        _reliability(above, **bins)
        above.set_title(heading)
        edges = np.linspace(0, 100, len(bins["count"]) + 1)
        below.stairs(100 * bins["count"] / metrics["n"], edges, fill=True, color=style.GRAY, alpha=0.6)
        below.set_title(f"mean confidence {confidence:.1%}, accuracy {metrics['accuracy']:.1%}")
        below.set(xlabel="confidence in the predicted class (%)", ylabel="images (%)")
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center")


def _reliability(axes: Axes, *, count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> None:
    """For each bin its accuracy with a 95 % interval, and the gap to its mean confidence."""
    width = 100 / len(count)
    full = np.flatnonzero(count)
    centers, accuracy_F, confidence_F = (full + 0.5) * width, 100 * accuracy[full], 100 * confidence[full]
    bounds = [wilson_interval(round(accuracy[b] * count[b]), int(count[b])) for b in full]
    whiskers = np.abs(100 * np.array(bounds).T - accuracy_F)
    axes.plot([0, 100], [0, 100], color="black", linewidth=1, linestyle="--", label="calibrated")
    axes.bar(centers, accuracy_F, 0.92 * width, color=style.BLUE, alpha=0.75, label="accuracy, 95 % interval")
    axes.errorbar(centers, accuracy_F, whiskers, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    hatched = {"fill": False, "hatch": "////", "edgecolor": style.VERMILLION, "linewidth": 1}
    gap, label = confidence_F - accuracy_F, "gap to the mean confidence"
    axes.bar(centers, gap, 0.92 * width, bottom=accuracy_F, label=label, **hatched)
    axes.set(xlim=(0, 100), ylim=(0, 102), ylabel="accuracy (%)")
    axes.grid(True)
