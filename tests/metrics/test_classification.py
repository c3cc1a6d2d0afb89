import json
import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from cifar_jax.errors import DataError
from cifar_jax.metrics import classification

CLASSES = 12


@pytest.fixture(scope="module")
def split():
    """Logits and labels of a mediocre model; class 10 is never predicted, class 11 has no images."""
    generator = np.random.default_rng(3)
    labels_N = generator.integers(0, 11, 700).astype(np.int32)
    logits_NK = generator.normal(size=(700, CLASSES)).astype(np.float32) * 2
    logits_NK[np.arange(700), labels_N] += 2.5
    logits_NK[::2] *= 0.4  # half of the images under-confident: bins of both signs
    logits_NK[:, 10] = -9.0
    return logits_NK, labels_N


def softmax(logits_NK):
    exponentials = np.exp(logits_NK.astype(np.float64) - logits_NK.max())
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("correct, n", [(0, 1), (1, 1), (0, 10), (10, 10), (7, 10), (9234, 10000), (1, 10000)])
def test_wilson_interval_equals_scipy(correct, n):
    expected = scipy.stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert classification.wilson_interval(correct, n) == pytest.approx(expected, abs=1e-14)


def test_wilson_interval_has_exact_ends():
    assert classification.wilson_interval(0, 37)[0] == 0.0
    assert classification.wilson_interval(37, 37)[1] == 1.0


@pytest.mark.parametrize("correct, n", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(correct, n):
    with pytest.raises(ValueError, match="not a proportion"):
        classification.wilson_interval(correct, n)


def test_mean_interval_equals_scipy():
    values = [0.9412, 0.9398, 0.9431, 0.9405, 0.9419]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = classification.mean_interval(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-15)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert classification.mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_the_interval_of_a_mean_is_clipped_to_the_possible_values():
    assert classification.mean_interval([0.02, 0.3])[1] < 0
    assert classification.mean_interval([0.02, 0.3], bounds=(0, 1))[1] == 0
    assert classification.mean_interval([0.98, 0.7], bounds=(0, 1))[2] == 1


def test_mean_interval_of_one_seed_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        classification.mean_interval([0.94])


def test_confusion_and_per_class_equal_sklearn(split):
    logits_NK, labels_N = split
    predictions_N = logits_NK.argmax(axis=1)
    confusion_KK = classification.confusion_matrix(labels_N=labels_N, predictions_N=predictions_N, num_classes=CLASSES)
    expected = sklearn_metrics.confusion_matrix(labels_N, predictions_N, labels=range(CLASSES))
    assert confusion_KK.dtype == np.int64
    np.testing.assert_array_equal(confusion_KK, expected)
    assert expected[:, 10].sum() == 0 and expected[11].sum() == 0  # the data contain the 0/0 cases
    scores = sklearn_metrics.precision_recall_fscore_support(
        labels_N, predictions_N, labels=range(CLASSES), zero_division=0
    )
    ours = classification.per_class(confusion_KK)
    for name, values_K in zip(("precision", "recall", "f1", "support"), scores, strict=True):
        np.testing.assert_allclose(ours[name], values_K, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("labels, predictions", [([0, 3], [0, 0]), ([0, 0], [3, 0]), ([0, -1], [0, 0])])
def test_confusion_refuses_classes_out_of_range(labels, predictions):
    # label 0 predicted as 3 would otherwise be counted silently as label 1
    with pytest.raises(ValueError, match="not within 0 to 2"):
        classification.confusion_matrix(labels_N=np.array(labels), predictions_N=np.array(predictions), num_classes=3)


def slow_ece(probabilities_NK, labels_N, num_bins):
    """The definition of Guo et al., bin by bin and image by image."""
    total = 0.0
    for b in range(num_bins):
        inside = [
            (max(row), float(np.argmax(row) == label))
            for row, label in zip(probabilities_NK.tolist(), labels_N, strict=True)
            if b / num_bins < max(row) <= (b + 1) / num_bins
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / len(labels_N) * abs(accuracy - confidence)
    return total


def slow_ece_half(probabilities_NK, labels_N):
    """Half of the 95 % interval: the spread of the gaps, with the sign reversed in bins of negative mean."""
    gaps_N = probabilities_NK.max(axis=1) - (probabilities_NK.argmax(axis=1) == labels_N)
    bins_N = np.ceil(probabilities_NK.max(axis=1) * 15)
    means_N = np.array([gaps_N[bins_N == b].mean() for b in bins_N])
    assert (means_N < 0).any() and (means_N > 0).any()  # both signs are tested
    return 1.959964 * scipy.stats.sem(np.where(means_N < 0, -gaps_N, gaps_N), ddof=0)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_equals_a_slow_loop(split, num_bins):
    logits_NK, labels_N = split
    probabilities_NK = softmax(logits_NK)
    ours = classification.expected_calibration_error(
        probabilities_NK=probabilities_NK, labels_N=labels_N, num_bins=num_bins
    )
    assert ours == pytest.approx(slow_ece(probabilities_NK, labels_N, num_bins), abs=1e-13)
    assert ours > 0.01  # the comparison is not of zeros


def test_reliability_bins_include_their_upper_edge():
    probabilities_NK = np.array([[0.75, 0.25], [0.5, 0.5], [0.50001, 0.49999], [1.0, 0.0]])
    bins = classification.reliability_bins(
        probabilities_NK=probabilities_NK, labels_N=np.array([0, 0, 1, 1]), num_bins=4
    )
    np.testing.assert_array_equal(bins["count"], [0, 1, 2, 1])
    np.testing.assert_allclose(bins["confidence"], [0, 0.5, 0.625005, 1.0])
    np.testing.assert_allclose(bins["accuracy"], [0, 1.0, 0.5, 0.0])


def test_negative_log_likelihood_equals_sklearn_and_does_not_overflow(split):
    logits_NK, labels_N = split
    losses_N = classification.negative_log_likelihood(logits_NK=logits_NK, labels_N=labels_N)
    expected = sklearn_metrics.log_loss(labels_N, softmax(logits_NK), labels=range(CLASSES))
    assert losses_N.dtype == np.float64
    assert losses_N.mean() == pytest.approx(expected, rel=1e-13)
    extreme = np.array([[3e38, -3e38, 0], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(
        classification.negative_log_likelihood(logits_NK=extreme, labels_N=np.array([1, 2])),
        [2 * float(np.float32(3e38)), math.log(3)],
    )


def names(count):
    return [f"class {i}" for i in range(count)]


def test_summary_is_json_and_agrees_with_sklearn(split):
    logits_NK, labels_N = split
    summary = classification.summarize(logits_NK=logits_NK, labels_N=labels_N, class_names=names(CLASSES))
    predictions_N, probabilities_NK = logits_NK.argmax(axis=1), softmax(logits_NK)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["n"] == 700
    assert summary["accuracy"] == sklearn_metrics.accuracy_score(labels_N, predictions_N)
    assert summary["top5_accuracy"] == sklearn_metrics.top_k_accuracy_score(
        labels_N, logits_NK, k=5, labels=range(CLASSES)
    )
    assert summary["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels_N, predictions_N, labels=range(CLASSES), average="macro", zero_division=0)
    )
    assert summary["loss"] == pytest.approx(sklearn_metrics.log_loss(labels_N, probabilities_NK, labels=range(CLASSES)))
    assert summary["ece"] == pytest.approx(slow_ece(probabilities_NK, labels_N, summary["ece_bins"]))
    assert summary["per_class"]["names"] == names(CLASSES)
    assert sum(summary["reliability"]["count"]) == 700
    for name in ("accuracy", "top5_accuracy", "loss", "ece"):
        low, high = summary[f"{name}_interval"]
        assert 0 <= low < summary[name] < high
    assert summary["ece_interval"][1] == pytest.approx(summary["ece"] + slow_ece_half(probabilities_NK, labels_N))
    losses_N = -np.log(probabilities_NK[np.arange(700), labels_N])
    half = 1.959964 * scipy.stats.sem(losses_N, ddof=0)
    assert summary["loss_interval"] == pytest.approx([summary["loss"] - half, summary["loss"] + half])


def test_summary_is_deterministic_and_ignores_an_offset_of_the_logits(split):
    logits_NK, labels_N = split
    first, second = (
        classification.summarize(logits_NK=logits_NK.copy(), labels_N=labels_N, class_names=names(CLASSES))
        for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(second)
    shifted = classification.summarize(logits_NK=logits_NK + 64, labels_N=labels_N, class_names=names(CLASSES))
    assert shifted["loss"] == pytest.approx(first["loss"], rel=1e-5)


@pytest.mark.parametrize("scale, name", [(0.5, "under-confident"), (2.0, "over-confident")])
def test_ece_interval_covers_the_true_error(scale, name):
    """Labels drawn from a known distribution, logits scaled away from it."""
    generator = np.random.default_rng(0)

    def draw(n):
        logits_NK = generator.normal(size=(n, 4)) * 3
        labels_N = (softmax(logits_NK).cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
        return classification.summarize(logits_NK=logits_NK * scale, labels_N=labels_N, class_names=names(4))

    truth = draw(300_000)["ece"]
    intervals = [draw(2000)["ece_interval"] for _ in range(100)]
    covered = sum(low <= truth <= high for low, high in intervals)
    assert covered >= 88, name
    assert np.mean([high - low for low, high in intervals]) < truth  # and are not trivially wide


def test_summary_of_one_image_and_few_classes_is_finite():
    summary = classification.summarize(logits_NK=np.array([[1.0, 2.0]]), labels_N=np.array([1]), class_names=names(2))
    json.dumps(summary, allow_nan=False)
    assert summary["accuracy"] == 1.0
    assert summary["loss_interval"] == [summary["loss"]] * 2
    assert "top5_accuracy" not in summary


def test_intervals_of_loss_and_ece_are_clipped_to_possible_values():
    logits_NK = np.array([[30.0, 0.0]] * 50)
    one_wrong = np.array([1] + [0] * 49)  # mean loss 0.6, one summand of 30
    summary = classification.summarize(logits_NK=logits_NK, labels_N=one_wrong, class_names=names(2))
    assert summary["loss_interval"][0] == 0 and summary["ece_interval"][0] == 0
    summary = classification.summarize(logits_NK=logits_NK, labels_N=1 - one_wrong, class_names=names(2))
    assert summary["ece"] == pytest.approx(0.98) and summary["ece_interval"][1] == 1


def test_summary_refuses_empty_splits_and_logits_that_are_not_finite(split):
    logits_NK, labels_N = split
    with pytest.raises(DataError, match="no images"):
        classification.summarize(logits_NK=logits_NK[:0], labels_N=labels_N[:0], class_names=names(CLASSES))
    damaged_NK = logits_NK.copy()
    damaged_NK[[5, 9], 2] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of 700 images \(first: image 5\).*checkpoint") as error:
        classification.summarize(logits_NK=damaged_NK, labels_N=labels_N, class_names=names(CLASSES))
    assert "\n" not in str(error.value)
