"""Several classifiers as one: the mean of their class probabilities."""

from collections.abc import Iterable

import numpy as np

from cifar_jax.metrics.calibration import softmax
from cifar_jax.metrics.classification import wilson_interval
from cifar_jax.metrics.paired import RESAMPLES


def evaluate(members: Iterable[np.ndarray], *, labels_N: np.ndarray, seed: int = 0) -> dict:
    """Evaluates the ensemble of some classifiers (Lakshminarayanan et al. 2017, Deep ensembles).

    Args:
        members: the logits of each, (N, K), in the order of the labels.
        labels_N: integers.

    Returns:
        `n` images; the `accuracy` of the ensemble, 0 to 1, and its 95 % `interval` (Wilson); `gain`, this accuracy
        minus the mean accuracy of the members, and its 95 % `gain_interval` by the bootstrap over the images.
    """
    n, count = len(labels_N), 0
    probabilities_NK, right_N = 0.0, np.zeros(n)  # sums over the members, one of which is in memory at a time
    for logits_NK in members:
        probabilities_NK = probabilities_NK + softmax(logits_NK)
        right_N += logits_NK.argmax(axis=1) == labels_N
        count += 1
    correct_N = probabilities_NK.argmax(axis=1) == labels_N
    # An image adds one of few differences to the gain: a resample of the images is a multinomial draw of their counts.
    differences, counts = np.unique(correct_N - right_N / count, return_counts=True)
    draws_RD = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    low, high = np.quantile(draws_RD @ differences / n, (0.025, 0.975))
    return {
        "n": n,
        "accuracy": float(correct_N.mean()),
        "interval": list(wilson_interval(int(correct_N.sum()), n)),
        "gain": float((correct_N - right_N / count).mean()),
        "gain_interval": [float(low), float(high)],
    }
