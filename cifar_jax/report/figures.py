"""The pictures, the labels, the training and the confusions of a run, each as one PNG.

Every function takes plain arrays or what the files of the run folder hold, a title that the caller composes
(data set, split, n, run) and the path to write.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from cifar_jax.report import style

SAMPLE_ROWS, SAMPLE_COLUMNS = 12, 10
MAX_NAMED = 20  # classes: above, names no longer fit side by side
MAX_COUNTED = 12  # classes: above, a count no longer fits into its cell
CONFUSED_PAIRS = 10


def samples(
    images_NHWC: np.ndarray,
    labels_N: np.ndarray,
    class_names: Sequence[str],
    *,
    title: str,
    path: Path,
) -> None:
    """A row of pictures a class, the first of each; of many classes 12, evenly spaced, as the title says.

    Args:
        images_NHWC: uint8 RGB, 0 to 255.
        labels_N: integers, 0 to C - 1.
        class_names: C names.
    """
    num_classes = len(class_names)
    shown = np.linspace(0, num_classes - 1, min(num_classes, SAMPLE_ROWS)).round().astype(int)
    if len(shown) < num_classes:
        title += f"\n{len(shown)} of {num_classes} classes, evenly spaced"
    side_y, side_x, channels = images_NHWC.shape[1:]
    gap = max(1, side_x // 16)
    step_y, step_x = side_y + gap, side_x + gap
    sheet = np.full((len(shown) * step_y - gap, SAMPLE_COLUMNS * step_x - gap, channels), 255, np.uint8)
    for row, label in enumerate(shown):
        for column, index in enumerate(np.flatnonzero(labels_N == label)[:SAMPLE_COLUMNS]):
            y, x = row * step_y, column * step_x
            sheet[y : y + side_y, x : x + side_x] = images_NHWC[index]
    names = [style.short(class_names[label]) for label in shown]
    height = (style.WIDTH - 0.2 - style.width(names)) * sheet.shape[0] / sheet.shape[1] + 0.15
    with style.figure(path, title=title, height=height) as figure:
        figure.set_layout_engine("compressed")  # keeps the names beside a picture that may not be stretched
        axes = figure.subplots()
        # small pictures show their pixels; large ones are reduced, where the nearest pixel would flicker
        axes.imshow(sheet, interpolation="nearest" if side_x <= 64 else "antialiased")
        axes.set_yticks(np.arange(len(shown)) * step_y + side_y / 2, names)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)


def label_distribution(
    counts_by_split: dict[str, np.ndarray], class_names: Sequence[str], *, title: str, path: Path
) -> None:
    """Pictures a class and split: a bar for each, or for more than 20 classes the counts in falling order.

    Args:
        counts_by_split: integers (C,) by split.
        class_names: C names.
    """
    num_splits = len(counts_by_split)
    if len(class_names) <= MAX_NAMED:
        height = len(class_names) * (0.15 * num_splits + 0.1) + 0.9
        with style.figure(path, title=title, height=height) as figure:
            _bars(figure.subplots(), counts_by_split, [style.short(name) for name in class_names])
            figure.legend(loc="outside lower center", ncols=num_splits)
    else:
        with style.figure(path, title=title, height=1.7 * num_splits + 0.3) as figure:
            panels = figure.subplots(num_splits, sharex=True, squeeze=False)[:, 0]
            for i, (split, counts_C) in enumerate(counts_by_split.items()):
                _profile(panels[i], np.asarray(counts_C), class_names, split=split, colour=style.PALETTE[i])
            panels[-1].set_xlabel("classes, from most to fewest pictures in that split")


def _bars(axes: Axes, counts_by_split: dict[str, np.ndarray], names: list[str]) -> None:
    thickness = 0.84 / len(counts_by_split)
    rows = np.arange(len(names))
    for i, (split, counts_C) in enumerate(counts_by_split.items()):
        y = rows - 0.42 + (i + 0.5) * thickness
        bars = axes.barh(y, counts_C, thickness * 0.9, color=style.PALETTE[i], label=split)
        axes.bar_label(bars, [f"{count:,}" for count in counts_C], padding=3, fontsize=9)
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("pictures")


def _profile(axes: Axes, counts_C: np.ndarray, class_names: Sequence[str], *, split: str, colour: str) -> None:
    order = np.argsort(-counts_C, kind="stable")
    axes.stairs(counts_C[order], np.arange(len(order) + 1), fill=True, color=colour, alpha=0.35)
    axes.stairs(counts_C[order], np.arange(len(order) + 1), color=colour, linewidth=1.4)
    most, fewest = order[0], order[-1]
    if counts_C[most] == counts_C[fewest]:
        spread = f"{counts_C[most]:,} in each of {len(order)} classes"
    else:
        spread = (
            f"{counts_C[most]:,} ({style.short(class_names[most])}) to "
            f"{counts_C[fewest]:,} ({style.short(class_names[fewest])})"
        )
    axes.set_title(f"{style.printable(split)}: {counts_C.sum():,} pictures, {spread}")
    axes.set_xlim(0, len(order))
    axes.set_ylim(0, max(1, counts_C.max() * 1.08))
    axes.set_ylabel("pictures")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")


def curves(history: dict[str, list], *, title: str, path: Path) -> None:
    """Loss, accuracy and learning rate by epoch, with the epoch of the best validation accuracy marked.

    Args:
        history: what history.json holds; of it epoch, loss, val_loss, accuracy and val_accuracy (shares, 0 to
            1) and learning_rate, equally long lists of at least one epoch.
    """
    epochs = history["epoch"]
    best = int(np.argmax(history["val_accuracy"]))
    percent = {name: 100 * np.asarray(history[name]) for name in ("accuracy", "val_accuracy")}
    with style.figure(path, title=title, height=7.0) as figure:
        loss, accuracy, rate = figure.subplots(3, sharex=True, height_ratios=(3, 3, 2))
        _train_and_validation(loss, epochs, history["loss"], history["val_loss"], best=best)
        _train_and_validation(accuracy, epochs, percent["accuracy"], percent["val_accuracy"], best=best)
        rate.plot(epochs, history["learning_rate"], color=style.GREY, marker=_marker("o", epochs), clip_on=False)
        rate.set_ylim(bottom=0)
        loss.set_title(f"loss (nats): validation {history['val_loss'][best]:.3f} at epoch {epochs[best]}")
        accuracy.set_title(f"accuracy (%): best validation {percent['val_accuracy'][best]:.2f} at epoch {epochs[best]}")
        rate.set_title("learning rate")
        for axes in (loss, accuracy, rate):
            axes.grid(True)
            axes.axvline(epochs[best], color=style.GREY, linewidth=1, linestyle=":")
        rate.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        rate.set_xlabel("epoch (ring and dotted line: the best by validation accuracy)")
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _train_and_validation(axes: Axes, epochs: list, train: list, validation: list, *, best: int) -> None:
    axes.plot(epochs, train, color=style.BLUE, linestyle="--", marker=_marker("o", epochs), label="train")
    axes.plot(epochs, validation, color=style.VERMILLION, marker=_marker("s", epochs), label="validation")
    axes.plot(epochs[best], validation[best], "o", markersize=10, color="black", fillstyle="none")
    axes.margins(y=0.1)


def _marker(shape: str, epochs: list) -> str:
    """Markers as long as they do not run into each other."""
    return shape if len(epochs) <= 40 else ""


def confusion_matrix(confusion_CC: np.ndarray, class_names: Sequence[str], *, title: str, path: Path) -> None:
    """True classes in rows: colour is the share of the row, text the count; of many classes the worst pairs.

    Args:
        confusion_CC: integers (C, C).
        class_names: C names.
    """
    confusion_CC = np.asarray(confusion_CC)
    share_CC = confusion_CC / np.maximum(confusion_CC.sum(axis=1, keepdims=True), 1)
    ticks = [style.short(name, 14) for name in class_names]
    height = style.WIDTH + 0.4  # the matrix is a square, and the space taken by names is the same on both sides
    if len(class_names) <= MAX_COUNTED:
        with style.figure(path, title=title, height=height) as figure:
            axes = figure.subplots()
            _matrix(figure, axes, share_CC, ticks)
            _counts(axes, confusion_CC, share_CC)
    else:
        names = [style.short(name) for name in class_names]
        with style.figure(path, title=title, height=height + 2.6) as figure:
            above, below = figure.subfigures(2, height_ratios=(height, 2.6))
            _matrix(above, above.subplots(), share_CC, ticks)
            below.suptitle("Most frequent confusions, true → predicted", x=0.01, ha="left", size=10, weight="normal")
            _confused_pairs(below.subplots(), confusion_CC, share_CC, names)


def _matrix(figure: FigureBase, axes: Axes, share_CC: np.ndarray, names: list[str]) -> None:
    # the square root keeps a confusion of 1 % apart from none
    image = axes.imshow(share_CC, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    marks = (0, 0.01, 0.05, 0.2, 0.5, 1)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, ticks=marks, pad=0.01)
    bar.ax.set_xticklabels([f"{mark:.0%}" for mark in marks])
    bar.set_label("share of the true class (square-root scale)")
    ticks = np.arange(0, len(names), -(-len(names) // MAX_NAMED))
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [names[i] for i in ticks])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(True)


def _counts(axes: Axes, confusion_CC: np.ndarray, share_CC: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(confusion_CC):
        colour = "white" if share_CC[row, column] > 0.25 else "black"
        text = f"{count}" if count < 100_000 else f"{count // 1000}k"
        axes.text(column, row, text, color=colour, fontsize=9, ha="center", va="center")


def _confused_pairs(axes: Axes, confusion_CC: np.ndarray, share_CC: np.ndarray, names: list[str]) -> None:
    wrong_CC = confusion_CC * (1 - np.eye(len(names), dtype=confusion_CC.dtype))
    worst = np.argsort(-wrong_CC, axis=None, kind="stable")[:CONFUSED_PAIRS]
    pairs = [divmod(int(i), len(names)) for i in worst if wrong_CC.flat[i] > 0]
    bars = axes.barh(range(len(pairs)), [wrong_CC[pair] for pair in pairs], color=style.VERMILLION)
    axes.bar_label(bars, [f"{wrong_CC[pair]:,} ({share_CC[pair]:.0%})" for pair in pairs], padding=3, fontsize=9)
    axes.set_yticks(range(len(pairs)), [f"{names[true]} → {names[predicted]}" for true, predicted in pairs])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(CONFUSED_PAIRS - 0.5, -0.5)
    axes.margins(x=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("pictures (share of the true class)")
