"""Temperature scaling against a fine grid, SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy import optimize, special
from sklearn import metrics as sklearn_metrics

from cifar_jax.metrics.calibration import fit_temperature, softmax
from cifar_jax.metrics.classification import expected_calibration_error


def calibrated_at(*, temperature, n=4000, classes=10, scale=3.0, seed=0):
    """Logits, and labels sampled from softmax(logits / temperature), so that this temperature calibrates them."""
    random = np.random.default_rng(seed)
    logits_NK = random.normal(scale=scale, size=(n, classes)) + random.normal(size=(n, 1))
    probabilities_NK = special.softmax(logits_NK / temperature, axis=1)
    labels_N = (probabilities_NK.cumsum(axis=1) < random.uniform(size=(n, 1))).sum(axis=1).clip(max=classes - 1)
    return logits_NK.astype(np.float32), labels_N.astype(np.int32)


def loss(logits_NK, labels_N, temperature):
    probabilities_NK = special.softmax(logits_NK.astype(np.float64) / temperature, axis=1)
    return sklearn_metrics.log_loss(labels_N, probabilities_NK, labels=np.arange(logits_NK.shape[1]))


def test_softmax_equals_scipy_at_any_scale():
    logits_NK = np.random.default_rng(0).normal(scale=300, size=(50, 7)).astype(np.float32) + np.float32(1e4)
    np.testing.assert_allclose(softmax(logits_NK), special.softmax(logits_NK.astype(np.float64), axis=1), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_no_temperature_has_a_smaller_loss(temperature, classes):
    logits_NK, labels_N = calibrated_at(temperature=temperature, classes=classes, n=1000)
    fitted = fit_temperature(logits_NK=logits_NK, labels_N=labels_N)
    grid = fitted * np.geomspace(0.5, 2, 201)
    losses = [loss(logits_NK, labels_N, value) for value in grid]
    assert np.argmin(losses) == 100  # the middle of the grid is `fitted`
    reference = optimize.minimize_scalar(
        lambda inverse: loss(logits_NK, labels_N, 1 / inverse),
        bounds=(0.01, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fitted == pytest.approx(1 / reference.x, rel=1e-5)
    assert losses[100] <= reference.fun + 1e-12


def test_the_temperature_of_sampled_labels_is_recovered_and_calibrates():
    logits_NK, labels_N = calibrated_at(temperature=2.5, n=20_000)
    fitted = fit_temperature(logits_NK=logits_NK, labels_N=labels_N)
    assert fitted == pytest.approx(2.5, rel=0.03)
    before, after = (
        expected_calibration_error(probabilities_NK=softmax(logits_NK / value), labels_N=labels_N)
        for value in (1, fitted)
    )
    assert before > 0.1 and after < 0.01


def test_the_temperature_follows_the_scale_of_the_logits_but_not_their_offset():
    logits_NK, labels_N = calibrated_at(temperature=1.5)
    fitted = fit_temperature(logits_NK=logits_NK, labels_N=labels_N)
    for scale in (0.1, 7.0, 30.0):
        again = fit_temperature(logits_NK=scale * logits_NK.astype(np.float64) + 50, labels_N=labels_N)
        assert again == pytest.approx(scale * fitted, rel=1e-7)


def test_without_a_minimum_it_ends_at_a_bound():
    logits_NK = np.random.default_rng(0).normal(scale=0.01, size=(200, 5))
    assert fit_temperature(logits_NK=logits_NK, labels_N=logits_NK.argmax(axis=1)) == pytest.approx(0.01)
    assert fit_temperature(logits_NK=logits_NK, labels_N=logits_NK.argmin(axis=1)) == pytest.approx(100)
    assert fit_temperature(logits_NK=np.ones((4, 3)), labels_N=np.array([0, 1, 2, 0])) == 1
    certain = fit_temperature(logits_NK=1e4 * np.eye(3, dtype=np.float32), labels_N=np.arange(3))
    assert 0.01 <= certain <= 100
