"""Metrics of a classifier from its logits and the true labels: on the host, in float64, every image counted once.

N images, K classes, B confidence bins. A confusion matrix has the true class in rows, the predicted class in columns.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from cifar_jax.errors import DataError

ECE_BINS = 15
Z = statistics.NormalDist().inv_cdf(0.975)  # of two-sided 95 % intervals


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), within 0 to 1; accurate near 0 and 1 and for small n.

    Raises:
        ValueError: `correct` is not in 0..n, or n is 0.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is not a proportion")
    share = correct / n
    center = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # exactly 0 and 1 at the ends, without rounding errors
    low = 0.0 if correct == 0 else center - half
    high = 1.0 if correct == n else center + half
    return low, high


def mean_interval(
    values: Sequence[float], *, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float, float]:
    """Mean, and low and high of its 95 % Student's t interval, of a few independent values, such as one per seed.

    The interval is clipped to `bounds`, the smallest and largest possible value.

    Raises:
        ValueError: fewer than two values.
    """
    from scipy import stats  # here: takes 0.5 s to import, and only runs of several seeds need it

    if len(values) < 2:
        raise ValueError(f"an interval of a mean requires at least two values, not {len(values)}")
    mean = statistics.fmean(values)
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    half = quantile * statistics.stdev(values, mean) / math.sqrt(len(values))
    return mean, max(bounds[0], mean - half), min(bounds[1], mean + half)


def confusion_matrix(*, labels_N: np.ndarray, predictions_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Image counts, int64 (K, K), by true class (row) and predicted class (column).

    Raises:
        ValueError: a label or a prediction is not in 0..K-1.
    """
    pairs_2N = np.stack([labels_N, predictions_N]).astype(np.int64)
    if pairs_2N.size and not 0 <= pairs_2N.min() <= pairs_2N.max() < num_classes:
        raise ValueError(f"classes {pairs_2N.min()} to {pairs_2N.max()} are not within 0 to {num_classes - 1}")
    counts = np.bincount(pairs_2N[0] * num_classes + pairs_2N[1], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def per_class(confusion_KK: np.ndarray) -> dict[str, list]:
    """Precision, recall, F1 (floats, 0 to 1) and support (images) of every class, in label order.

    A ratio of 0/0 (a class without images or predictions) is 0, as with scikit-learn's `zero_division=0`.
    """
    hits_K = np.diag(confusion_KK)
    support_K, predicted_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    return {
        "precision": _ratio(hits_K, predicted_K).tolist(),
        "recall": _ratio(hits_K, support_K).tolist(),
        "f1": _ratio(2 * hits_K, predicted_K + support_K).tolist(),
        "support": support_K.tolist(),
    }


def reliability_bins(
    *, probabilities_NK: np.ndarray, labels_N: np.ndarray, num_bins: int = ECE_BINS
) -> dict[str, np.ndarray]:
    """Bins images by the probability of their predicted class; bins have equal width and include their upper edge.

    Returns:
        'count' int64 (B,), the images; 'confidence' float64 (B,), the mean probability of the predicted class;
        'accuracy' float64 (B,). Confidence and accuracy are 0 in an empty bin.
    """
    confidence_N, correct_N, bin_N = _binned(probabilities_NK, labels_N, num_bins)
    count_B = np.bincount(bin_N, minlength=num_bins)
    return {
        "count": count_B.astype(np.int64),
        "confidence": _ratio(np.bincount(bin_N, confidence_N, num_bins), count_B),
        "accuracy": _ratio(np.bincount(bin_N, correct_N, num_bins), count_B),
    }


def expected_calibration_error(
    *, probabilities_NK: np.ndarray, labels_N: np.ndarray, num_bins: int = ECE_BINS
) -> float:
    """ECE (Guo et al. 2017, equation 3), 0 to 1: the mean of |accuracy - confidence| over the bins, weighted by count.

    Chance alone makes it positive: in a simulation, a perfectly calibrated model has an ECE of 0.01 on 10,000 images
    and 0.04 on 1,000.
    """
    bins = reliability_bins(probabilities_NK=probabilities_NK, labels_N=labels_N, num_bins=num_bins)
    gap_B = np.abs(bins["accuracy"] - bins["confidence"])
    return float((bins["count"] * gap_B).sum() / bins["count"].sum())


def negative_log_likelihood(*, logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """-log p(true class) of every image, float64 (N,), in nats, without label smoothing."""
    return -np.take_along_axis(_log_softmax(logits_NK), labels_N[:, None].astype(np.int64), axis=1)[:, 0]


def summarize(*, logits_NK: np.ndarray, labels_N: np.ndarray, class_names: Sequence[str]) -> dict:
    """The metrics of a split as plain Python values, ready for JSON.

    Args:
        logits_NK: floats of any scale and offset; the prediction is the first of the largest.
        labels_N: integers, 0 to K - 1.
        class_names: K names.

    Returns:
        `n`; `accuracy` with its Wilson interval; `loss`, the mean cross-entropy in nats without label smoothing;
        `ece` over `ece_bins` bins; `reliability`, these bins; `per_class`; `macro_f1`, the mean over all K classes;
        `confusion_matrix`; `top5_accuracy` if K > 10. All floats are finite. Intervals are [low, high] at 95 %; those
        of loss and ECE are normal approximations for a mean over images, of zero width if N = 1. The terms of the ECE
        are signed gaps with the sign of their bin; its interval covers the true ECE if the model is miscalibrated by
        more than chance.

    Raises:
        DataError: there are no images, or a logit is not finite.
    """
    n, num_classes = logits_NK.shape
    if n == 0:
        raise DataError("nothing to evaluate: the split has no images; choose another split or data set")
    finite_N = np.isfinite(logits_NK).all(axis=1)
    if not finite_N.all():
        raise DataError(
            f"the model's outputs are not finite for {n - finite_N.sum()} of {n} images (first: image "
            f"{finite_N.argmin()}): its weights or the data are damaged; evaluate an earlier checkpoint"
        )
    probabilities_NK = np.exp(_log_softmax(logits_NK))
    loss_N = negative_log_likelihood(logits_NK=logits_NK, labels_N=labels_N)
    confusion_KK = confusion_matrix(labels_N=labels_N, predictions_N=logits_NK.argmax(axis=1), num_classes=num_classes)
    correct = int(np.trace(confusion_KK))
    loss = float(loss_N.mean())
    ece = expected_calibration_error(probabilities_NK=probabilities_NK, labels_N=labels_N)
    bins = reliability_bins(probabilities_NK=probabilities_NK, labels_N=labels_N)
    confidence_N, correct_N, bin_N = _binned(probabilities_NK, labels_N, ECE_BINS)
    sign_B = np.sign(bins["confidence"] - bins["accuracy"])
    classes = per_class(confusion_KK)
    summary = {
        "n": n,
        "accuracy": correct / n,
        "accuracy_interval": list(wilson_interval(correct, n)),
        "loss": loss,
        "loss_interval": normal_interval(loss, loss_N),
        "ece": ece,
        "ece_interval": normal_interval(ece, sign_B[bin_N] * (confidence_N - correct_N), highest=1.0),
        "ece_bins": ECE_BINS,
        "reliability": {name: values_B.tolist() for name, values_B in bins.items()},
        "macro_f1": statistics.fmean(classes["f1"]),
        "per_class": {"names": list(class_names), **classes},
        "confusion_matrix": confusion_KK.tolist(),
    }
    if num_classes > 10:
        best_N5 = np.argsort(-logits_NK, axis=1, kind="stable")[:, :5]
        hits = int((best_N5 == labels_N[:, None]).sum())
        summary |= {"top5_accuracy": hits / n, "top5_accuracy_interval": list(wilson_interval(hits, n))}
    return summary


def shifted(logits_NK: np.ndarray) -> np.ndarray:
    """float64 (N, K): the logits minus the largest of each image, which prevents overflow in exp."""
    return logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True).astype(np.float64)


def _log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    shifted_NK = shifted(logits_NK)
    return shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))


def _binned(probabilities_NK: np.ndarray, labels_N: np.ndarray, num_bins: int) -> tuple[np.ndarray, ...]:
    """Confidence float64 (N,), correctness float64 (N,) of 0 or 1, and bin int64 (N,) of every image."""
    confidence_N = probabilities_NK.max(axis=1).astype(np.float64)
    correct_N = (probabilities_NK.argmax(axis=1) == labels_N).astype(np.float64)
    inner_edges = np.arange(1, num_bins) / num_bins
    return confidence_N, correct_N, np.searchsorted(inner_edges, confidence_N, side="left")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def normal_interval(mean: float, values_N: np.ndarray, *, highest: float = math.inf) -> list[float]:
    """95 % interval of the mean of `values_N`, clipped to 0..`highest`."""
    half = Z * float(values_N.std()) / math.sqrt(len(values_N))
    return [max(0.0, mean - half), min(highest, mean + half)]
