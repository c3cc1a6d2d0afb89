"""Ensembles, compared with SciPy and with a bootstrap that draws single images."""

import numpy as np
import pytest
from scipy import special

from cifar_jax.metrics import ensemble
from cifar_jax.metrics.classification import wilson_interval


@pytest.fixture
def members():
    """Logits of three classifiers on 400 images of 5 classes, each on another scale, and the labels."""
    random = np.random.default_rng(0)
    labels_N = random.integers(0, 5, 400)
    evidence_NK = np.eye(5)[labels_N]
    return [scale * (evidence_NK + random.normal(size=(400, 5))) for scale in (0.5, 2.0, 8.0)], labels_N


def test_the_prediction_is_that_of_the_mean_probability(members):
    logits, labels_N = members
    result = ensemble.evaluate(iter(logits), labels_N=labels_N)
    mean_NK = np.mean([special.softmax(logits_NK, axis=1) for logits_NK in logits], axis=0)
    correct_N = mean_NK.argmax(axis=1) == labels_N
    alone = [np.mean(logits_NK.argmax(axis=1) == labels_N) for logits_NK in logits]
    assert result["n"] == 400 and result["accuracy"] == correct_N.mean()
    assert result["interval"] == list(wilson_interval(correct_N.sum(), 400))
    assert result["gain"] == pytest.approx(correct_N.mean() - np.mean(alone))
    mean_of_logits = np.mean(np.mean(logits, axis=0).argmax(axis=1) == labels_N)
    assert mean_of_logits != result["accuracy"]  # another average would be noticed


def test_the_interval_of_the_gain_is_that_of_resampled_images(members):
    logits, labels_N = members
    result = ensemble.evaluate(logits, labels_N=labels_N)
    right_RN = np.array([logits_NK.argmax(axis=1) == labels_N for logits_NK in logits])
    mean_NK = np.mean([special.softmax(logits_NK, axis=1) for logits_NK in logits], axis=0)
    gain_N = (mean_NK.argmax(axis=1) == labels_N) - right_RN.mean(axis=0)
    random = np.random.default_rng(1)
    gains = [gain_N[random.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert result["gain_interval"] == pytest.approx(np.quantile(gains, (0.025, 0.975)), abs=4e-3)
    assert result["gain_interval"][0] < result["gain"] < result["gain_interval"][1]


def test_equal_members_gain_nothing(members):
    (logits_NK, *_), labels_N = members
    result = ensemble.evaluate([logits_NK] * 3, labels_N=labels_N)
    assert (result["gain"], result["gain_interval"]) == (0, [0, 0])
