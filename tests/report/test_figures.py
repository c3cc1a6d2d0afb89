"""Figures are complete, legible on a phone, deterministic, and accept any class name."""

import itertools
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cifar_jax.metrics import classification
from cifar_jax.report import ablation, curves, html, image_grids, reliability, style
from cifar_jax.report import classes as class_figures

PHONE = 390 - 2 * 12  # pixels: the width of a phone less the margins of the page
TITLE = "CIFAR-10, test, n = 10,000 · cnn_scratch, seed 0"
# long and mathematical names, characters that the font lacks, line breaks
ODD_NAMES = ["a$b$c", "x" * 60, "猫", "línea\nnueva", "under_score", "", "ß", "1e5", "$\\frac$", "%s {x}"]


def png_size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def names(count):
    return [f"class number {i}" for i in range(count)]


def images_and_labels(classes, side=32, per_class=3):
    labels_N = np.repeat(np.arange(classes), per_class)
    return np.random.default_rng(0).integers(0, 256, (len(labels_N), side, side, 3), np.uint8), labels_N


def confusion(classes):
    return np.random.default_rng(0).integers(0, 9, (classes, classes)) + 50 * np.eye(classes, dtype=int)


def draw_samples(classes, path, class_names=None):
    image_grids.samples(*images_and_labels(classes), class_names or names(classes), title=TITLE, path=path)


def draw_labels(classes, path, class_names=None):
    counts = {
        "train": np.arange(classes) * 45,
        "validation": np.full(classes, 5),
        "test": np.full(classes, 10),
    }
    class_figures.label_distribution(counts, class_names or names(classes), title=TITLE, path=path)


def draw_confusion(classes, path, class_names=None):
    class_figures.confusion_matrix(confusion(classes), class_names or names(classes), title=TITLE, path=path)


def draw_per_class(classes, path, class_names=None):
    scores = classification.per_class(confusion(classes)) | {"names": class_names or names(classes)}
    class_figures.per_class(scores, title=TITLE, path=path)


def draw_mistakes(classes, path, class_names=None):
    images_NHWC, labels_N = images_and_labels(classes, per_class=max(3, 60 // classes))
    probabilities_NK = np.random.default_rng(0).dirichlet(np.ones(classes), len(labels_N))
    image_grids.mistakes(images_NHWC, labels_N, probabilities_NK, class_names or names(classes), title=TITLE, path=path)


def draw_augmentation(classes, path, class_names=None):
    images_NHWC, _ = images_and_labels(8, per_class=1)
    image_grids.augmentation(images_NHWC, np.stack([images_NHWC] * 3), title=TITLE, path=path)


def draw_calibration(classes, path, class_names=None):
    logits_NK = np.random.default_rng(0).normal(size=(300, classes)) * 3
    metrics = classification.summarize(
        logits_NK=logits_NK, labels_N=np.arange(300) % classes, class_names=class_names or names(classes)
    )
    scaled = {"temperature": 1.25, "ece": 0.0123}
    reliability.calibration(metrics | {"temperature_scaled": scaled}, title=TITLE, path=path)


def history(epochs):
    columns = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second", "seconds")
    return {"epoch": list(range(1, epochs + 1))} | {name: [0.12345] * epochs for name in columns}


def draw_curves(classes, path, class_names=None):
    curves.curves(history(200), title=TITLE, path=path)


def draw_overlay(classes, path, class_names=None):
    runs = {name: [history(200)] for name in (class_names or names(12))[:12]}
    curves.overlay({"CIFAR-10 (cifar10-images.tar.xz)": runs, "shapes": runs}, title=TITLE, path=path)


def draw_ablation(classes, path, class_names=None):
    row = {"seeds": [0, 1], "accuracies": [0.7, 0.8], "accuracy": 0.75, "interval": [0.0, 1.0], "gain": 0.1}
    rows = [row | {"name": name} for name in (class_names or names(6))[:6]]
    ablation.waterfall({"data": "CIFAR-10", "n": 10_000, "name": "notebook_cnn", "steps": rows}, path=path)


DRAW = [draw_samples, draw_labels, draw_confusion, draw_per_class, draw_mistakes]
DRAW_OTHER = [draw_augmentation, draw_calibration, draw_curves, draw_overlay, draw_ablation]


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("classes", [2, 12, 21, 200])
def test_figures_by_class_are_complete_pngs_and_the_only_files(tmp_path, draw, classes):
    path = tmp_path / "figures" / "figure.png"
    draw(classes, path)
    width, height = png_size(path)
    assert width in (int(style.WIDTH * style.DPI), int(style.NARROW * style.DPI))
    assert width / 7 < height < 3 * width
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("draw", DRAW)
def test_any_folder_name_can_be_a_class_name(tmp_path, draw):
    draw(10, tmp_path / "few.png", ODD_NAMES)
    draw(30, tmp_path / "many.png", ODD_NAMES * 3)
    png_size(tmp_path / "few.png"), png_size(tmp_path / "many.png")


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_curves(tmp_path, history, epochs):
    curves.curves(history(epochs), title=TITLE, path=tmp_path / "curves.png")
    png_size(tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("draw, classes", [*itertools.product(DRAW, (10, 100)), *((draw, 10) for draw in DRAW_OTHER)])
def test_text_is_at_least_11_pixels_high_on_a_phone_and_inside_the_figure(tmp_path, drawn, draw, classes):
    path = tmp_path / "f.png"
    draw(classes, path, [f"a long name of class {i}" for i in range(classes)])
    ink, page = drawn[0].get_tightbbox(), drawn[0].bbox_inches
    assert page.x0 <= ink.x0 and ink.x1 <= page.x1
    assert page.y0 <= ink.y0 and ink.y1 <= page.y1
    points = min(text.get_fontsize() for text in drawn[0].findobj(matplotlib.text.Text))
    min_width = int(re.search(r"min-width: (\d+)px", html.inlined(path, alt="a figure"))[1])
    assert points / 72 * max(min_width, PHONE) / page.width >= 11
    if draw not in (draw_samples, draw_confusion, draw_mistakes, draw_augmentation, draw_ablation):
        assert min_width <= PHONE  # fits without scrolling


def test_a_figure_has_the_same_bytes_for_any_matplotlib_settings_of_the_user(tmp_path):
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    second.write_bytes(b"an older figure")
    draw_confusion(10, first)
    with matplotlib.rc_context({"axes.facecolor": "black", "image.aspect": "auto", "savefig.bbox": "tight"}):
        draw_confusion(10, second)
    assert first.read_bytes() == second.read_bytes()


def test_an_error_keeps_the_old_figure_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def interrupted_savefig(figure, target, **_):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupted_savefig)
    with pytest.raises(OSError, match="disk full"):
        draw_confusion(3, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_style_is_restored_after_the_figure(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_labels(10, tmp_path / "f.png")
    assert dict(matplotlib.rcParams) == before


def test_names_become_printable_and_short():
    assert style.printable("Zähler → 3") == "Zähler → 3"
    assert style.printable("猫\n") == "\\u732b\\u000a"
    assert style.short("airplane") == "airplane"
    cut = style.short("n01443537_goldfish_of_kind_17")
    assert len(cut) == 18 and cut.startswith("n01443537_") and cut.endswith("d_17")


def test_report_imports_neither_jax_nor_pyplot():
    code = (
        "import sys, cifar_jax.report.figures, cifar_jax.report.page, cifar_jax.report.comparison; "
        "print([name for name in ('jax', 'flax', 'matplotlib.pyplot', 'tkinter') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
