"""Figures made of images: samples of each class, augmented images, and mistakes.

Public functions take plain arrays (images uint8 RGB, labels 0 to K - 1), a title and the path to write.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cifar_jax.report import style

SAMPLE_ROWS, SAMPLE_COLUMNS = 12, 10
MISTAKE_ROWS, MISTAKE_COLUMNS = 3, 4
SMALL = 64  # pixels: images up to this size are drawn without interpolation


def samples(
    images_NHWC: np.ndarray, labels_N: np.ndarray, class_names: Sequence[str], *, title: str, path: Path
) -> None:
    """The first images (uint8 RGB) of each class, one row per class; of many classes 12, evenly spaced."""
    num_classes = len(class_names)
    shown = np.linspace(0, num_classes - 1, min(num_classes, SAMPLE_ROWS)).round().astype(int)
    if len(shown) < num_classes:
        title += f"\n{len(shown)} of {num_classes} classes, evenly spaced"
    rows = [images_NHWC[np.flatnonzero(labels_N == label)[:SAMPLE_COLUMNS]] for label in shown]
    names = [style.short(class_names[label]) for label in shown]
    _rows_of_images([rows], [names], columns=SAMPLE_COLUMNS, title=title, path=path)


def augmentation(before_NHWC: np.ndarray, after_ENHWC: np.ndarray, *, title: str, path: Path) -> None:
    """One image per column, uint8 RGB: as stored, and below in each of E epochs, possibly with another H and W."""
    names = [["stored"], [f"epoch {number}" for number in range(1, len(after_ENHWC) + 1)]]
    _rows_of_images([[before_NHWC], after_ENHWC], names, columns=len(before_NHWC), title=title, path=path)


def _rows_of_images(
    blocks: Sequence[Sequence[np.ndarray]], names: Sequence[list[str]], *, columns: int, title: str, path: Path
) -> None:
    """Draws blocks of rows of images; the images of a block have one size, and each row has a name."""
    sheets = [_sheet(block, columns=columns) for block in blocks]
    heights = [sheet.shape[0] / sheet.shape[1] for sheet in sheets]
    width = style.WIDTH - 0.2 - 0.075 * max(len(name) for rows in names for name in rows)  # without the names
    with style.figure(path, title=title, height=width * sum(heights) + 0.15 * len(sheets)) as figure:
        figure.set_layout_engine("compressed")  # keeps the names next to images of fixed aspect ratio
        panels = figure.subplots(len(sheets), height_ratios=heights, squeeze=False)[:, 0]
        for axes, sheet, block, rows in zip(panels, sheets, blocks, names, strict=True):
            _show(axes, sheet, image_side=block[0].shape[2])
            axes.set_yticks((np.arange(len(rows)) + 0.5) * sheet.shape[0] / len(rows) - 0.5, rows)


def _sheet(rows: Sequence[np.ndarray], *, columns: int) -> np.ndarray:
    """Rows of images (N, H, W, C) of one size on white, separated by 1/16 of their width."""
    height, width, channels = rows[0].shape[1:]
    gap = max(1, width // 16)
    step_y, step_x = height + gap, width + gap
    sheet = np.full((len(rows) * step_y - gap, columns * step_x - gap, channels), 255, np.uint8)
    for row, images_NHWC in enumerate(rows):
        for column, image_HWC in enumerate(images_NHWC):
            sheet[row * step_y :, column * step_x :][:height, :width] = image_HWC
    return sheet


def _show(axes: Axes, image_HWC: np.ndarray, *, image_side: int) -> None:
    # large images are scaled down, where nearest-pixel sampling causes artifacts
    axes.imshow(image_HWC, interpolation="nearest" if image_side <= SMALL else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def mistakes(
    images_NHWC: np.ndarray,
    labels_N: np.ndarray,
    probabilities_NK: np.ndarray,
    class_names: Sequence[str],
    *,
    title: str,
    path: Path,
) -> None:
    """The twelve most confident mistakes and the twelve least confident correct predictions; K is at least 2."""
    names = [style.short(name, 13) for name in class_names]
    first_N, second_N = np.argsort(-probabilities_NK, axis=1, kind="stable")[:, :2].T
    confidence_N = probabilities_NK.max(axis=1)
    order = np.argsort(confidence_N, kind="stable")
    is_wrong_N = first_N != labels_N
    wrong, correct = order[is_wrong_N[order]][::-1], order[~is_wrong_N[order]]

    shown = MISTAKE_ROWS * MISTAKE_COLUMNS
    parts = {
        f"most confident of {len(wrong):,} mistakes: true class → predicted class": wrong[:shown],
        f"least confident of {len(correct):,} correct predictions, with the second class": correct[:shown],
    }

    def caption(i: int) -> str:
        first = f"{names[first_N[i]]} {confidence_N[i]:.0%}"
        if is_wrong_N[i]:
            return f"{names[labels_N[i]]}\n→ {first}"
        return f"{first}\nor {names[second_N[i]]} {probabilities_NK[i, second_N[i]]:.0%}"

    rows = [max(1, -(-len(indices) // MISTAKE_COLUMNS)) for indices in parts.values()]
    aspect = images_NHWC.shape[1] / images_NHWC.shape[2]
    heights = [row * (aspect * style.WIDTH / MISTAKE_COLUMNS + 0.4) + 0.3 for row in rows]
    with style.figure(path, title=title, height=sum(heights)) as figure:
        halves = figure.subfigures(2, height_ratios=heights)
        for half, row_count, (heading, indices) in zip(halves, rows, parts.items(), strict=True):
            half.suptitle(heading, x=0.01, ha="left", size=10, weight="normal")
            cells = half.subplots(row_count, MISTAKE_COLUMNS, squeeze=False).ravel()
            for axes in cells:
                axes.set_axis_off()
            for axes, i in zip(cells, indices, strict=False):
                _show(axes, images_NHWC[i], image_side=images_NHWC.shape[2])
                axes.set_title(caption(i), fontsize=9, loc="left")
