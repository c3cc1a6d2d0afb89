"""Learning curves: of one run, and of several runs side by side."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from cifar_jax.report import style

LINES = list(itertools.product(("-", "--", ":", "-."), style.PALETTE))  # twenty distinguishable lines


def curves(history: dict[str, list], *, title: str, path: Path) -> None:
    """Loss, accuracy, learning rate and speed by epoch, with the epoch of the best validation accuracy marked.

    Without a validation split, only the training images have curves, and no epoch is marked.

    Args:
        history: the content of history.json with at least one epoch; losses in nats, accuracies 0 to 1.
    """
    epochs = history["epoch"]
    best = int(np.argmax(history["val_accuracy"])) if "val_accuracy" in history else None
    with style.figure(path, title=title, height=8.4, width=style.NARROW) as figure:
        panels = loss, accuracy, rate, throughput = figure.subplots(4, sharex=True, height_ratios=(3, 3, 2, 2))
        _train_and_validation(loss, history, "loss", best=best, title="loss (nats)", decimals=3)
        _train_and_validation(accuracy, history, "accuracy", best=best, title="accuracy (%)", decimals=2, unit=100)
        for axes, name in ((rate, "learning_rate"), (throughput, "images_per_second")):
            axes.plot(epochs, history[name], color=style.GRAY, marker=_marker("o", epochs), clip_on=False)
            axes.set_ylim(0, 1.1 * max(history[name]) or 1)
        rate.set_title("learning rate at the end of the epoch")
        throughput.set_title(f"training images/s: median {np.median(history['images_per_second']):,.0f}")
        throughput.yaxis.set_major_formatter("{x:,.0f}")
        for axes in panels:
            axes.grid(True)
            if best is not None:
                axes.axvline(epochs[best], color=style.GRAY, linewidth=1, linestyle=":")
        _set_epoch_axis(throughput, epochs[0], epochs[-1])
        throughput.set_xlabel("epoch" if best is None else "epoch (ring and dotted line: best)")
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _train_and_validation(
    axes: Axes, history: dict[str, list], name: str, *, best: int | None, title: str, decimals: int, unit: float = 1
) -> None:
    """The columns `name` and, if there is a `best` epoch, `val_name`, multiplied by `unit`."""
    epochs, train = history["epoch"], unit * np.asarray(history[name])
    axes.plot(epochs, train, color=style.BLUE, linestyle="--", marker=_marker("o", epochs), label="train")
    if best is None:
        title += f": train {train[-1]:.{decimals}f} in the last epoch"
    else:
        validation = unit * np.asarray(history[f"val_{name}"])
        axes.plot(epochs, validation, color=style.VERMILLION, marker=_marker("s", epochs), label="validation")
        axes.plot(epochs[best], validation[best], "o", markersize=10, color="black", fillstyle="none")
        title += f": validation {validation[best]:.{decimals}f} at epoch {epochs[best]}"
    axes.set_title(title)
    axes.margins(y=0.1)


def _marker(shape: str, epochs: list) -> str:
    """`shape`, or none if the markers would overlap."""
    return shape if len(epochs) <= 40 else ""


def _set_epoch_axis(axes: Axes, first: int, last: int) -> None:
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def overlay(histories: dict[str, dict[str, Sequence[dict[str, list]]]], *, title: str, path: Path) -> None:
    """Validation loss and accuracy of several configurations by epoch, and accuracy by time, for each data set.

    Args:
        histories: by data set and configuration (at most twenty), the content of history.json of each seed. The seeds
            of a configuration have the same line style.
    """
    heights = [6.9 + 0.2 * len(by_name) for by_name in histories.values()]
    with style.figure(path, title=title, height=sum(heights), width=style.NARROW) as figure:
        parts = figure.subfigures(len(histories), height_ratios=heights, squeeze=False)[:, 0]
        for part, (data, by_name) in zip(parts, histories.items(), strict=True):
            part.suptitle(style.short(data, 42), x=0.01, ha="left", size=10)
            _overlay(part, by_name)


def _overlay(figure: FigureBase, histories: dict[str, Sequence[dict[str, list]]]) -> None:
    """The three panels of one data set."""
    loss, accuracy, by_time = figure.subplots(3)
    for (name, seeds), (line, color) in zip(histories.items(), LINES, strict=False):
        for i, history in enumerate(seeds):
            line_style = {"linestyle": line, "color": color, "label": style.short(name, 36) if i == 0 else None}
            line_style["marker"] = "o" if len(history["epoch"]) == 1 else ""
            percent = 100 * np.asarray(history["val_accuracy"])
            loss.plot(history["epoch"], history["val_loss"], **line_style)
            accuracy.plot(history["epoch"], percent, **line_style)
            by_time.plot(np.cumsum(history["seconds"]) / 60, percent, **line_style)
    last = max(history["epoch"][-1] for seeds in histories.values() for history in seeds)
    for axes in (loss, accuracy):
        _set_epoch_axis(axes, 1, last)
    loss.set(title="validation loss (nats)", xlabel="epoch")
    accuracy.set(title="validation accuracy (%)", xlabel="epoch")
    by_time.set(title="validation accuracy (%) by time", xlabel="minutes of training and validation", xlim=(0, None))
    for axes in (loss, accuracy, by_time):
        axes.grid(True)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center")
