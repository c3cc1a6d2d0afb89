"""The reliability diagram: whether a confidence of 80 % is right in 80 % of the cases."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cifar_jax.metrics.classification import wilson_interval
from cifar_jax.report import style


def calibration(metrics: dict, *, title: str, path: Path) -> None:
    """Accuracy by confidence in bins of equal width, and how many images each bin holds (Guo et al. 2017).

    Args:
        metrics: what metrics.json holds; of it n, accuracy, ece, ece_interval, reliability, and temperature_scaled
            where it is there.
    """
    bins = {name: np.asarray(values_B) for name, values_B in metrics["reliability"].items()}
    low, high = metrics["ece_interval"]
    heading = f"ECE {100 * metrics['ece']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] in {len(bins['count'])} bins"
    if scaled := metrics.get("temperature_scaled"):
        heading += f"; {100 * scaled['ece']:.1f} % after temperature scaling (T = {scaled['temperature']:.2f})"
    confidence = (bins["count"] * bins["confidence"]).sum() / metrics["n"]
    with style.figure(path, title=title, height=6.6) as figure:
        above, below = figure.subplots(2, sharex=True, height_ratios=(5, 1.6))
        _reliability(above, **bins)
        above.set_title(heading)
        edges = np.linspace(0, 100, len(bins["count"]) + 1)
        below.stairs(100 * bins["count"] / metrics["n"], edges, fill=True, color=style.GRAY, alpha=0.6)
        below.set_title(f"mean confidence {confidence:.1%}, accuracy {metrics['accuracy']:.1%}")
        below.set_ylabel("images (%)")
        below.set_xlabel("confidence: probability of the predicted class (%)")
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _reliability(axes: Axes, *, count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> None:
    """A bar of accuracy a bin with its 95 % interval, and how far it is from the mean confidence of the bin."""
    width = 100 / len(count)
    full = np.flatnonzero(count)
    centers, right, sure = (full + 0.5) * width, 100 * accuracy[full], 100 * confidence[full]
    bounds = [wilson_interval(round(accuracy[b] * count[b]), int(count[b])) for b in full]
    whiskers = np.abs(100 * np.array(bounds).T - right)
    axes.plot([0, 100], [0, 100], color="black", linewidth=1, linestyle="--", label="calibrated")
    axes.bar(centers, right, 0.92 * width, color=style.BLUE, alpha=0.75, label="accuracy, 95 % interval")
    axes.errorbar(centers, right, whiskers, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    axes.bar(
        centers,
        sure - right,
        0.92 * width,
        bottom=right,
        fill=False,
        hatch="////",
        edgecolor=style.VERMILLION,
        linewidth=1,
        label="gap to the mean confidence",
    )
    axes.set(xlim=(0, 100), ylim=(0, 102), ylabel="accuracy (%)")
    axes.grid(True)
