"""The content of the figures: the right images, counts, percentages and names in the right places."""

import itertools

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cifar_jax.metrics import classification
from cifar_jax.report import classes, curves, figures, image_grids, reliability

TITLE = "CIFAR-10, test, n = 10,000 · cnn_scratch, seed 0"


def names(count):
    return [f"class number {i}" for i in range(count)]


def noise(count, side=32):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_curves_mark_the_first_best_epoch(tmp_path, history, drawn):
    past = history(4) | {"val_accuracy": [0.1, 0.61237, 0.3, 0.61237], "val_loss": [3.0, 1.5, 0.5, 0.4]}
    curves.curves(past, title=TITLE, path=tmp_path / "curves.png")
    assert "accuracy (%): validation 61.24 at epoch 2" in texts(drawn[0])
    assert "loss (nats): validation 1.500 at epoch 2" in texts(drawn[0])
    assert "training images/s: median 1,000" in texts(drawn[0])


def test_curves_without_a_validation_split_mark_no_epoch(tmp_path, history, drawn):
    past = history(3, validation=False) | {"loss": [3.0, 2.0, 1.25], "accuracy": [0.1, 0.2, 0.61237]}
    curves.curves(past, title=TITLE, path=tmp_path / "curves.png")
    assert {"loss (nats): train 1.250 in the last epoch", "accuracy (%): train 61.24 in the last epoch"} < set(
        texts(drawn[0])
    )
    assert not [text for text in texts(drawn[0]) if "validation" in text or "best" in text]
    assert {len(axes.lines) for axes in drawn[0].axes} == {1}


def test_samples_show_the_right_images_in_the_right_rows(tmp_path, drawn):
    images_NHWC, labels_N = noise(9), np.random.default_rng(1).permutation(np.repeat(np.arange(3), 3))
    image_grids.samples(images_NHWC, labels_N, names(3), title=TITLE, path=tmp_path / "s.png")
    sheet = np.asarray(drawn[0].axes[0].images[0].get_array())
    step = 32 + 2
    for label in range(3):
        indices = np.flatnonzero(labels_N == label)
        for column, index in enumerate(indices):
            cell = sheet[label * step : label * step + 32, column * step : column * step + 32]
            np.testing.assert_array_equal(cell, images_NHWC[index])
        assert (sheet[label * step : label * step + 32, len(indices) * step :] == 255).all()


def test_samples_of_many_classes_say_which_are_shown(tmp_path, drawn):
    image_grids.samples(noise(100), np.arange(100), names(100), title=TITLE, path=tmp_path / "s.png")
    assert "12 of 100 classes, evenly spaced" in drawn[0].get_suptitle()
    shown = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert len(shown) == 12 and shown[0] == "class number 0" and shown[-1] == "class number 99"


@pytest.mark.parametrize("seen_side", [32, 48])
def test_augmentation_shows_each_image_above_its_augmented_versions(tmp_path, drawn, seen_side):
    before_NHWC, after_ENHWC = noise(8), np.stack([noise(8, seen_side), noise(8, seen_side) // 2])
    image_grids.augmentation(before_NHWC, after_ENHWC, title=TITLE, path=tmp_path / "a.png")
    stored, seen = (np.asarray(axes.images[0].get_array()) for axes in drawn[0].axes)
    np.testing.assert_array_equal(stored[:, 34 : 34 + 32], before_NHWC[1])
    step = seen_side + seen_side // 16
    np.testing.assert_array_equal(seen[step:, step:][:seen_side, :seen_side], after_ENHWC[1, 1])
    rows = [label.get_text() for axes in drawn[0].axes for label in axes.get_yticklabels()]
    assert rows == ["stored", "epoch 1", "epoch 2"]


def test_the_most_confident_mistakes_and_least_confident_hits_have_both_labels(tmp_path, drawn):
    probabilities_NK = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6], [0.05, 0.9, 0.05], [0.5, 0.4, 0.1]])
    labels_N = np.array([1, 1, 2, 0, 0])  # wrong: image 0 with 70 %, image 3 with 90 %
    images_NHWC = noise(5)
    image_grids.mistakes(images_NHWC, labels_N, probabilities_NK, ["a", "b", "c"], title=TITLE, path=tmp_path / "m.png")
    shown = [[axes for axes in part.axes if axes.images] for part in drawn[0].subfigs]
    captions = [[axes.get_title(loc="left") for axes in part] for part in shown]
    assert captions == [["a\n→ b 90%", "b\n→ a 70%"], ["a 50%\nor b 40%", "c 60%\nor a 30%", "b 80%\nor a 10%"]]
    for part, indices in zip(shown, [(3, 0), (4, 2, 1)], strict=True):
        for axes, index in zip(part, indices, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), images_NHWC[index])


@pytest.mark.parametrize("always_right", [True, False])
def test_without_mistakes_or_without_hits_the_other_half_is_still_drawn(tmp_path, drawn, always_right):
    labels_N = np.arange(20) % 2
    probabilities_NK = np.eye(2)[labels_N if always_right else 1 - labels_N]
    image_grids.mistakes(noise(20), labels_N, probabilities_NK, names(2), title=TITLE, path=tmp_path / "m.png")
    counts = [sum(bool(axes.images) for axes in part.axes) for part in drawn[0].subfigs]
    assert counts == ([0, 12] if always_right else [12, 0])


def test_captions_of_long_names_do_not_overlap(tmp_path, drawn):
    random = np.random.default_rng(0)
    long = [f"n0{i}443537 American alligator" for i in range(9)]
    image_grids.mistakes(
        noise(60),
        random.integers(0, 9, 60),
        random.dirichlet(np.ones(9), 60),
        long,
        title=TITLE,
        path=tmp_path / "m.png",
    )
    for part in drawn[0].subfigs:
        boxes = [axes._left_title.get_window_extent() for axes in part.axes if axes.images]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_confusion_counts_and_shares_are_in_their_cells(tmp_path, drawn):
    confusion_KK = np.array([[0, 7, 0], [123_450, 600_000, 0], [0, 0, 0]])  # the last class is without images
    classes.confusion_matrix(confusion_KK, names(3), title=TITLE, path=tmp_path / "c.png")
    cells = {text.get_position(): text.get_text() for text in drawn[0].axes[0].texts}
    assert cells[1, 0] == "7\n100%" and cells[0, 0] == "0" and cells[0, 1] == "123k\n17%"
    np.testing.assert_allclose(drawn[0].axes[0].images[0].get_array()[0], [0, 1, 0])


def test_many_classes_list_the_worst_pairs_first(tmp_path, drawn):
    confusion_KK = 40 * np.eye(100, dtype=int)
    confusion_KK[3, 8], confusion_KK[99, 0] = 10, 20
    classes.confusion_matrix(confusion_KK, names(100), title=TITLE, path=tmp_path / "c.png")
    pairs = [label.get_text() for label in drawn[0].subfigs[1].axes[0].get_yticklabels()]
    assert pairs == ["class number 99 → class number 0", "class number 3 → class number 8"]
    assert {"20 (33%)", "10 (20%)"} <= set(texts(drawn[0]))


def test_a_matrix_without_mistakes_has_no_pairs(tmp_path):
    classes.confusion_matrix(np.eye(50, dtype=int), names(50), title=TITLE, path=tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        image.verify()


def test_per_class_has_a_marker_for_each_score_weakest_first(tmp_path, drawn):
    scores = classification.per_class(np.array([[8, 2, 0], [1, 3, 6], [0, 0, 10]])) | {"names": ["a", "b", "c"]}
    classes.per_class(scores, title=TITLE, path=tmp_path / "p.png")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b (10)", "c (10)", "a (10)"]
    values = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert values["precision"] == pytest.approx([60, 62.5, 800 / 9])
    assert values["recall"] == pytest.approx([30, 100, 80])
    assert values["F1"] == pytest.approx([40, 1000 / 13, 1600 / 19])


@pytest.mark.parametrize("count", [100, 200])
def test_per_class_of_many_classes_names_both_ends(tmp_path, drawn, count):
    f1_K = np.linspace(0.2, 0.9, count)
    scores = {name: f1_K.tolist() for name in ("precision", "recall", "f1")} | {"support": [50] * count}
    classes.per_class(scores | {"names": names(count)}, title=TITLE, path=tmp_path / "p.png")
    profile, weakest, strongest = drawn[0].axes
    assert profile.get_title(loc="left") == f"F1 of {count} classes\n20 to 90 %, mean 55.0 %"
    assert weakest.get_yticklabels()[0].get_text() == "class number 0 (50)"
    assert strongest.get_yticklabels()[-1].get_text().startswith(f"class number {count - 1}"[:12])
    assert (len(weakest.get_yticklabels()), len(strongest.get_yticklabels())) == (12, 6)


def test_calibration_has_a_bar_for_each_bin_with_images(tmp_path, drawn):
    random = np.random.default_rng(0)
    labels_N = random.integers(0, 3, 500)
    logits_NK = random.normal(size=(500, 3)) + np.eye(3)[labels_N]
    metrics = classification.summarize(logits_NK=logits_NK, labels_N=labels_N, class_names=names(3))
    scaled = {"temperature": 1.25, "ece": 0.0123}
    reliability.calibration(metrics | {"temperature_scaled": scaled}, title=TITLE, path=tmp_path / "c.png")
    above, below = drawn[0].axes
    bins = metrics["reliability"]
    full = [i for i, count in enumerate(bins["count"]) if count]
    bars = above.patches[: len(full)]
    assert [bar.get_height() for bar in bars] == pytest.approx([100 * bins["accuracy"][i] for i in full])
    ends = [gap.get_y() + gap.get_height() for gap in above.patches[len(full) :]]
    assert ends == pytest.approx([100 * bins["confidence"][i] for i in full])
    assert above.get_title(loc="left").startswith(f"ECE {100 * metrics['ece']:.1f} % [")
    assert above.get_title(loc="left").endswith("in 15 bins\n1.2 % with temperature 1.25")
    assert f"accuracy {metrics['accuracy']:.1%}" in below.get_title(loc="left")


def test_a_single_image_can_be_drawn(tmp_path):
    metrics = classification.summarize(logits_NK=np.array([[1.0, 0.0]]), labels_N=np.array([0]), class_names=names(2))
    metrics |= {"data": "shapes", "split": "test", "tta": True}
    figures.draw_metrics(metrics, run="one", directory=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"confusion_matrix.png", "per_class.png", "calibration.png"}


def test_overlaid_configurations_are_distinguishable_and_seeds_are_not(tmp_path, history, drawn):
    runs = {f"run {i}": [history(3)] for i in range(20)} | {"run 0": [history(3), history(2)]}
    curves.overlay({"shapes": runs}, title=TITLE, path=tmp_path / "o.png")
    (figure,) = drawn[0].subfigs
    for axes in figure.axes:
        styles = [(line.get_linestyle(), line.get_color()) for line in axes.lines]
        assert len(styles) == 21 and len(set(styles)) == 20
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"run {i}" for i in range(20)]


def test_titles_name_data_split_n_and_run(tmp_path, make_run):
    metrics = {"data": "shapes (stand-in for cifar10)", "split": "test", "n": 10_000, "tta": True, "accuracy": 0.8878}
    run = figures.run_name(make_run(tmp_path / "cnn" / "seed_3"))
    assert run == "cnn/seed_3"
    assert figures.split_title(metrics, run=run) == (
        "shapes (stand-in for cifar10), test, n = 10,000\ncnn/seed_3: accuracy 88.78%, test-time augmentation"
    )
