import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cifar_jax.report import figures, style

TITLE = "CIFAR-10, test, n = 10,000 · cnn_scratch, seed 0"
# long, mathematical, foreign (the font lacks some of these characters) and broken names
ODD_NAMES = ["a$b$c", "x" * 60, "猫", "línea\nnueva", "under_score", "", "ß", "1e5", "$\\frac$", "%s {x}"]


@pytest.fixture(autouse=True)
def few_dots(monkeypatch):
    """The layout is in inches and points: fewer dots change nothing but the time to draw them."""
    monkeypatch.setattr(style, "DPI", 50)


def png_size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def names(count):
    return [f"class number {i}" for i in range(count)]


def history(epochs):
    steps = np.arange(1, epochs + 1)
    return {
        "epoch": steps.tolist(),
        "loss": (2 / steps).tolist(),
        "accuracy": (1 - 0.6 / steps).tolist(),
        "val_loss": (2.1 / steps).tolist(),
        "val_accuracy": (1 - 0.7 / steps).tolist(),
        "learning_rate": (0.1 * (1 - steps / epochs)).tolist(),
        "images_per_second": [1000.0] * epochs,
        "seconds": [1.0] * epochs,
    }


def pictures(classes, side=32, per_class=3):
    labels_N = np.repeat(np.arange(classes), per_class)
    return np.random.default_rng(0).integers(0, 256, (len(labels_N), side, side, 3), np.uint8), labels_N


def confusion(classes):
    return np.random.default_rng(0).integers(0, 9, (classes, classes)) + 50 * np.eye(classes, dtype=int)


def draw_samples(classes, path, class_names=None):
    figures.samples(*pictures(classes), class_names or names(classes), title=TITLE, path=path)


def draw_labels(classes, path, class_names=None):
    counts = {
        "train": np.arange(classes) * 45,
        "validation": np.full(classes, 5),
        "test": np.full(classes, 10),
    }
    figures.label_distribution(counts, class_names or names(classes), title=TITLE, path=path)


def draw_confusion(classes, path, class_names=None):
    figures.confusion_matrix(confusion(classes), class_names or names(classes), title=TITLE, path=path)


@pytest.mark.parametrize("draw", [draw_samples, draw_labels, draw_confusion])
@pytest.mark.parametrize("classes", [2, 12, 21, 200])
def test_figures_by_class_are_whole_pngs_and_leave_nothing_else(tmp_path, draw, classes):
    path = tmp_path / "figures" / "figure.png"
    draw(classes, path)
    width, height = png_size(path)
    assert width == round(style.WIDTH * style.DPI)
    assert width / 7 < height < 3 * width  # with two classes still a picture, with many still on a page
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("draw", [draw_samples, draw_labels, draw_confusion])
def test_any_folder_name_can_be_a_class_name(tmp_path, draw):
    draw(10, tmp_path / "few.png", ODD_NAMES)
    draw(30, tmp_path / "many.png", ODD_NAMES * 3)
    png_size(tmp_path / "few.png"), png_size(tmp_path / "many.png")


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_curves(tmp_path, epochs):
    figures.curves(history(epochs), title=TITLE, path=tmp_path / "curves.png")
    png_size(tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, to look into."""
    kept = []
    original = style.FigureCanvasAgg

    def keep(figure):
        kept.append(figure)
        return original(figure)

    monkeypatch.setattr(style, "FigureCanvasAgg", keep)
    return kept


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_curves_mark_the_first_best_epoch(tmp_path, drawn):
    past = history(4) | {"val_accuracy": [0.1, 0.61237, 0.3, 0.61237], "val_loss": [3.0, 1.5, 0.5, 0.4]}
    figures.curves(past, title=TITLE, path=tmp_path / "curves.png")
    assert "accuracy (%): best validation 61.24 at epoch 2" in texts(drawn[0])
    assert "loss (nats): validation 1.500 at epoch 2" in texts(drawn[0])


def test_samples_show_the_right_pictures_in_the_right_rows(tmp_path, drawn):
    images_NHWC, labels_N = pictures(3)
    order = np.random.default_rng(1).permutation(len(labels_N))
    figures.samples(images_NHWC[order], labels_N[order], names(3), title=TITLE, path=tmp_path / "s.png")
    sheet = np.asarray(drawn[0].axes[0].images[0].get_array())
    step = 32 + 2
    for label in range(3):
        indices = [index for index in order if labels_N[index] == label]
        for column, index in enumerate(indices):
            cell = sheet[label * step : label * step + 32, column * step : column * step + 32]
            np.testing.assert_array_equal(cell, images_NHWC[index])
        assert (sheet[label * step : label * step + 32, len(indices) * step :] == 255).all()


def test_samples_of_many_classes_say_which_are_shown(tmp_path, drawn):
    draw_samples(100, tmp_path / "s.png")
    assert "12 of 100 classes, evenly spaced" in drawn[0].get_suptitle()
    shown = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert len(shown) == 12 and shown[0] == "class number 0" and shown[-1] == "class number 99"


def test_confusion_counts_stand_in_their_cells(tmp_path, drawn):
    confusion_CC = np.arange(9).reshape(3, 3) + 123_450
    confusion_CC[0] = 0, 7, 0
    confusion_CC[2] = 0  # a class without pictures
    figures.confusion_matrix(confusion_CC, names(3), title=TITLE, path=tmp_path / "c.png")
    cells = {text.get_position(): text.get_text() for text in drawn[0].axes[0].texts}
    assert cells[1, 0] == "7" and cells[0, 0] == "0" and cells[0, 1] == "123k"
    np.testing.assert_allclose(drawn[0].axes[0].images[0].get_array()[0], [0, 1, 0])


def test_many_classes_list_the_worst_pairs_first(tmp_path, drawn):
    confusion_CC = 40 * np.eye(100, dtype=int)
    confusion_CC[3, 8], confusion_CC[99, 0] = 10, 20
    figures.confusion_matrix(confusion_CC, names(100), title=TITLE, path=tmp_path / "c.png")
    pairs = [label.get_text() for label in drawn[0].subfigs[1].axes[0].get_yticklabels()]
    assert pairs == ["class number 99 → class number 0", "class number 3 → class number 8"]
    assert {"20 (33%)", "10 (20%)"} <= set(texts(drawn[0]))


def test_a_matrix_without_mistakes_has_no_pairs(tmp_path):
    figures.confusion_matrix(np.eye(50, dtype=int), names(50), title=TITLE, path=tmp_path / "c.png")
    png_size(tmp_path / "c.png")


@pytest.mark.parametrize("draw", [draw_samples, draw_labels, draw_confusion])
@pytest.mark.parametrize("classes", [10, 100])
def test_no_text_is_small_or_leaves_the_page(tmp_path, drawn, draw, classes):
    draw(classes, tmp_path / "f.png", [f"a long name of class {i}" for i in range(classes)])
    assert min(text.get_fontsize() for text in drawn[0].findobj(matplotlib.text.Text)) >= 9
    ink, page = drawn[0].get_tightbbox(), drawn[0].bbox_inches
    assert page.x0 <= ink.x0 and ink.x1 <= page.x1
    assert page.y0 <= ink.y0 and ink.y1 <= page.y1


def test_the_same_figure_gives_the_same_bytes_whatever_the_user_has_set(tmp_path):
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    second.write_bytes(b"an older figure")
    draw_confusion(10, first)
    with matplotlib.rc_context({"axes.facecolor": "black", "image.aspect": "auto", "savefig.bbox": "tight"}):
        draw_confusion(10, second)
    assert first.read_bytes() == second.read_bytes()


def test_an_error_keeps_the_old_figure_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def half_written(figure, target, **_):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        draw_confusion(3, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_style_does_not_outlive_the_figure(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_labels(10, tmp_path / "f.png")
    assert dict(matplotlib.rcParams) == before


def test_names_are_printable_and_short():
    assert style.printable("Zähler → 3") == "Zähler → 3"
    assert style.printable("猫\n") == "\\u732b\\u000a"
    assert style.short("airplane") == "airplane"
    cut = style.short("n01443537_goldfish_of_kind_17")
    assert len(cut) == 18 and cut.startswith("n01443537_") and cut.endswith("d_17")


def test_report_imports_neither_jax_nor_pyplot():
    code = (
        "import sys, cifar_jax.report.figures; "
        "print([name for name in ('jax', 'flax', 'matplotlib.pyplot', 'tkinter') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
