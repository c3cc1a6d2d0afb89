"""Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, 2017): on the host, in float64.

All logits are divided by one number, fitted on validation images: confidence changes, predicted classes do not.
"""

import math

import numpy as np

from cifar_jax.metrics.classification import shifted

COLDEST, HOTTEST = 0.01, 100.0


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (N, K), from logits of any scale and offset."""
    exponentials_NK = np.exp(shifted(logits_NK))
    return exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)


def fit_temperature(*, logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """The temperature T that minimizes the mean negative log-likelihood of softmax(logits / T).

    The loss is convex in 1 / T. Newton's method takes about eight passes over the logits; a step out of the bracket of
    the minimum is replaced by geometric bisection.

    Args:
        logits_NK: finite floats, N at least 1, of images that the model was not trained on.
        labels_N: integers, 0 to K - 1.

    Returns:
        0.01 to 100. Without a minimum, a bound: 0.01 if every prediction is right (or more, where the loss is flat due
        to rounding), 100 if accuracy is below chance. 1 if all logits of each image are equal.
    """
    shifted_NK = shifted(logits_NK)
    true_N = np.take_along_axis(shifted_NK, labels_N[:, None].astype(np.int64), axis=1)[:, 0]
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(100):
        probabilities_NK = softmax(inverse * shifted_NK)
        mean_N = (probabilities_NK * shifted_NK).sum(axis=1)
        slope = (mean_N - true_N).mean()
        if slope == 0:
            break
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        curvature = (probabilities_NK * (shifted_NK - mean_N[:, None]) ** 2).sum(axis=1).mean()
        newton = inverse - slope / curvature if curvature > 0 else math.inf
        before, inverse = inverse, newton if low < newton < high else math.sqrt(low * high)
        if abs(inverse - before) <= 1e-10 * before:
            break
    return float(1 / inverse)
