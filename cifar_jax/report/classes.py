"""Figures by class: label distribution, precision and recall, confusion matrix.

Public functions take plain arrays, K class names, a title and the path to write.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from cifar_jax.report import style

MAX_NAMED = 20  # with more classes, their names do not fit side by side
MAX_COUNTED = 12  # with more classes, a count does not fit into its cell
CONFUSED_PAIRS = 10
WEAKEST, STRONGEST = 12, 6
SCORES = {"precision": ("<", style.BLUE), "recall": (">", style.VERMILLION), "f1": ("|", "black")}  # marker, color


def label_distribution(
    counts_by_split: dict[str, np.ndarray], class_names: Sequence[str], *, title: str, path: Path
) -> None:
    """Images per class and split, integers (K,): one bar each, or for more than 20 classes the counts, sorted."""
    num_splits = len(counts_by_split)
    if len(class_names) <= MAX_NAMED:
        height = len(class_names) * (0.15 * num_splits + 0.1) + 0.9
        with style.figure(path, title=title, height=height, width=style.NARROW) as figure:
            _bars(figure.subplots(), counts_by_split, [style.short(name) for name in class_names])
            figure.legend(loc="outside lower center", ncols=num_splits)
    else:
        with style.figure(path, title=title, height=1.9 * num_splits + 0.3, width=style.NARROW) as figure:
            panels = figure.subplots(num_splits, sharex=True, squeeze=False)[:, 0]
            for i, (split, counts_K) in enumerate(counts_by_split.items()):
                _profile(panels[i], np.asarray(counts_K), class_names, split=split, color=style.PALETTE[i])
            panels[-1].set_xlabel("classes, from most to fewest images")


def _bars(axes: Axes, counts_by_split: dict[str, np.ndarray], names: list[str]) -> None:
    thickness = 0.84 / len(counts_by_split)
    rows = np.arange(len(names))
    for i, (split, counts_K) in enumerate(counts_by_split.items()):
        y = rows - 0.42 + (i + 0.5) * thickness
        bars = axes.barh(y, counts_K, thickness * 0.9, color=style.PALETTE[i], label=split)
        axes.bar_label(bars, [f"{count:,}" for count in counts_K], padding=3, fontsize=9)
    _name_rows(axes, names)
    axes.margins(x=0.1)
    _count_images(axes.xaxis, ticks=6)
    axes.set_xlabel("images")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _count_images(axis: Axis, *, ticks: int) -> None:
    axis.set_major_locator(MaxNLocator(ticks, integer=True))
    axis.set_major_formatter("{x:,.0f}")


def _steps(axes: Axes, values_K: np.ndarray, *, color: str) -> None:
    """A filled line over all classes."""
    axes.stairs(values_K, np.arange(len(values_K) + 1), fill=True, color=color, alpha=0.35)
    axes.stairs(values_K, np.arange(len(values_K) + 1), color=color, linewidth=1.4)
    axes.set_xlim(0, len(values_K))


def _profile(axes: Axes, counts_K: np.ndarray, class_names: Sequence[str], *, split: str, color: str) -> None:
    order = np.argsort(-counts_K, kind="stable")
    _steps(axes, counts_K[order], color=color)
    most, fewest = order[0], order[-1]
    if counts_K[most] == counts_K[fewest]:
        spread = f"{counts_K[most]:,} per class, {len(order)} classes"
    else:
        names = [style.short(class_names[i], 10) for i in (most, fewest)]
        spread = f"{counts_K[most]:,} ({names[0]}) to {counts_K[fewest]:,} ({names[1]})"
    axes.set_title(f"{style.printable(split)}: {counts_K.sum():,} images\n{spread}")
    axes.set_ylim(0, max(1, counts_K.max() * 1.08))
    axes.set_ylabel("images")
    _count_images(axes.yaxis, ticks=4)


def per_class(scores: dict[str, list], *, title: str, path: Path) -> None:
    """`per_class` of metrics.json: precision, recall and F1, weakest first; of many classes, a curve and both ends."""
    order = np.argsort(scores["f1"], kind="stable")
    if len(order) <= MAX_NAMED:
        with style.figure(path, title=title, height=0.27 * len(order) + 1.1, width=style.NARROW) as figure:
            axes = figure.subplots()
            _score_rows(axes, scores, order)
            axes.set_xlabel("percent (in brackets: images)")
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    else:
        heights = (2.2, 0.27 * WEAKEST + 0.4, 0.27 * STRONGEST + 0.7)
        with style.figure(path, title=title, height=sum(heights) + 0.3, width=style.NARROW) as figure:
            profile, weakest, strongest = figure.subplots(3, height_ratios=heights)
            f1_K = 100 * np.asarray(scores["f1"])[order]
            _steps(profile, f1_K, color=style.GRAY)
            profile.set(ylim=(0, 100), ylabel="F1 (%)", xlabel="classes, weakest first")
            spread = f"{f1_K[0]:.0f} to {f1_K[-1]:.0f} %, mean {f1_K.mean():.1f} %"
            profile.set_title(f"F1 of {len(order)} classes\n{spread}")
            _score_rows(weakest, scores, order[:WEAKEST])
            _score_rows(strongest, scores, order[-STRONGEST:])
            weakest.set(xlim=(-3, 103), title=f"the {WEAKEST} weakest")
            strongest.set(xlim=(-3, 103), title=f"the {STRONGEST} strongest")
            strongest.set_xlabel("percent (in brackets: images)")
            figure.legend(*weakest.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _score_rows(axes: Axes, scores: dict[str, list], order: np.ndarray) -> None:
    """One row per class with a marker for each score; its label has the number of images in brackets."""
    rows = np.arange(len(order))
    values = {score: 100 * np.asarray(scores[score])[order] for score in SCORES}
    axes.hlines(rows, np.minimum.reduce([*values.values()]), np.maximum.reduce([*values.values()]), color="#BBBBBB")
    for score, (marker, color) in SCORES.items():
        size = 11 if marker == "|" else 6.5
        label = "F1" if score == "f1" else score
        axes.plot(values[score], rows, marker, color=color, markersize=size, markeredgewidth=1.6, label=label)
    _name_rows(axes, [f"{style.short(scores['names'][i])} ({scores['support'][i]:,})" for i in order])
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(True, axis="x")


def confusion_matrix(confusion_KK: np.ndarray, class_names: Sequence[str], *, title: str, path: Path) -> None:
    """Counts, and shares of the true class (in rows) as color; of many classes, a list of the worst pairs."""
    confusion_KK = np.asarray(confusion_KK)
    share_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    ticks = [style.short(name, 14) for name in class_names]
    height = style.WIDTH + 0.4  # the matrix is square, and so is the space for names
    if len(class_names) <= MAX_COUNTED:
        with style.figure(path, title=title, height=height) as figure:
            axes = figure.subplots()
            _matrix(figure, axes, share_KK, ticks)
            _counts(axes, confusion_KK, share_KK)
    else:
        names = [style.short(name) for name in class_names]
        with style.figure(path, title=title, height=height + 2.6) as figure:
            above, below = figure.subfigures(2, height_ratios=(height, 2.6))
            _matrix(above, above.subplots(), share_KK, ticks)
            below.suptitle("Most frequent confusions, true → predicted", x=0.01, ha="left", size=10, weight="normal")
            _confused_pairs(below.subplots(), confusion_KK, share_KK, names)


def _matrix(figure: FigureBase, axes: Axes, share_KK: np.ndarray, names: list[str]) -> None:
    # the square root makes a confusion of 1 % visible
    image = axes.imshow(share_KK, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    shares = (0, 0.01, 0.05, 0.2, 0.5, 1)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, ticks=shares, pad=0.01)
    bar.ax.set_xticklabels([f"{share:.0%}" for share in shares])
    bar.set_label("share of the true class (square-root scale)")
    ticks = np.arange(0, len(names), -(-len(names) // MAX_NAMED))
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [names[i] for i in ticks])
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(True)


def _counts(axes: Axes, confusion_KK: np.ndarray, share_KK: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(confusion_KK):
        share = share_KK[row, column]
        text = f"{count}" if count < 100_000 else f"{count // 1000}k"
        if count:
            text += f"\n{share:.1%}" if share < 0.0995 else f"\n{share:.0%}"
        color = "white" if share > 0.25 else "black"
        axes.text(column, row, text, color=color, fontsize=9, ha="center", va="center", linespacing=1.1)


def _confused_pairs(axes: Axes, confusion_KK: np.ndarray, share_KK: np.ndarray, names: list[str]) -> None:
    wrong_KK = confusion_KK * (1 - np.eye(len(names), dtype=confusion_KK.dtype))
    worst = np.argsort(-wrong_KK, axis=None, kind="stable")[:CONFUSED_PAIRS]
    pairs = [divmod(int(i), len(names)) for i in worst if wrong_KK.flat[i] > 0]
    bars = axes.barh(range(len(pairs)), [wrong_KK[pair] for pair in pairs], color=style.VERMILLION)
    axes.bar_label(bars, [f"{wrong_KK[pair]:,} ({share_KK[pair]:.0%})" for pair in pairs], padding=3, fontsize=9)
    _name_rows(axes, [f"{names[true]} → {names[predicted]}" for true, predicted in pairs])
    axes.set_ylim(CONFUSED_PAIRS - 0.5, -0.5)
    axes.margins(x=0.3)
    _count_images(axes.xaxis, ticks=4)
    axes.set_xlabel("images (share of the true class)")
