"""Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, 2017): on the host, in float64.

All logits are divided by one number, fitted on validation images. The predicted classes stay the same, and so does
the accuracy; only the confidence changes.
"""

import math

import numpy as np

COLDEST, HOTTEST = 0.01, 100.0


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (N, C), of logits of any scale and offset."""
    shifted_NK = logits_NK.astype(np.float64)
    shifted_NK -= shifted_NK.max(axis=1, keepdims=True)
    exponentials_NK = np.exp(shifted_NK)
    return exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)


def fit_temperature(*, logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """The temperature T at which softmax(logits / T) has the least mean negative log-likelihood.

    The loss is convex in 1 / T. Newton's method finds the minimum in about eight passes over the logits; where a step
    of it leaves the interval that is known to hold the minimum, the interval is halved (geometrically) instead.

    Args:
        logits_NK: finite floats, N at least 1; of images that the model was not trained on.
        labels_N: integers, 0 to C - 1.

    Returns:
        0.01 to 100. Logits without any minimum end at a bound: every prediction right (0.01, or where rounding makes
        the loss flat before) or right less often than by chance (100). Logits that say nothing give 1.
    """
    shifted_NK = logits_NK.astype(np.float64)
    shifted_NK -= shifted_NK.max(axis=1, keepdims=True)
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
