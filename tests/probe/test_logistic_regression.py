"""The linear probe against scikit-learn and against the optimality conditions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from cifar_jax.devices import make_mesh, shard_rows
from cifar_jax.errors import DataError
from cifar_jax.probe import logistic_regression


def examples(number=600, features=20, classes=10, seed=0):
    """Non-negative, correlated features of very different scales, far from zero mean, and classes that overlap."""
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(number, dtype=np.int32) % classes)
    hidden_NR = random.normal(size=(classes, 8))[labels_N] + random.normal(size=(number, 8))
    features_NC = hidden_NR @ random.normal(size=(8, features)) + random.normal(size=(number, features))
    features_NC = np.maximum(features_NC + 1, 0) * random.gamma(1, 1, features) + 0.5
    return features_NC.astype(np.float32), labels_N


def objective(probe, features_NC, labels_N):
    """The objective and its gradient by kernel and bias, in float64, from the definition."""
    features_NC, kernel_CK = features_NC.astype(np.float64), np.array(probe.kernel_CK, np.float64)
    logits_NK = features_NC @ kernel_CK + np.array(probe.bias_K, np.float64)
    targets_NK = np.eye(logits_NK.shape[1])[labels_N]
    value = -(targets_NK * log_softmax(logits_NK, axis=1)).sum(axis=1).mean() + probe.l2 / 2 * (kernel_CK**2).sum()
    residuals_NK = (softmax(logits_NK, axis=1) - targets_NK) / len(labels_N)
    return value, features_NC.T @ residuals_NK + probe.l2 * kernel_CK, residuals_NK.sum(axis=0)


def by_scikit_learn(features_NC, labels_N, l2):
    """Coefficients (C, K) and intercepts (K,) in float64, without their mean over the classes."""
    model = LogisticRegression(C=1 / (l2 * len(labels_N)), tol=1e-9, max_iter=1_000, solver="newton-cholesky")
    model.fit(features_NC.astype(np.float64), labels_N)
    kernel_CK = model.coef_.T - model.coef_.T.mean(axis=1, keepdims=True)
    return kernel_CK, model.intercept_ - model.intercept_.mean()


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("l2", [1e5, 1.0, 1e-2, 1e-4])
def test_coefficients_equal_scikit_learn(l2, classes):
    features_NC, labels_N = examples(classes=classes)
    probe = logistic_regression.fit(features_NC, labels_N, l2=l2, num_classes=classes, tolerance=1e-11)
    if classes == 2:  # scikit-learn fits the difference of the two classes with half the penalty
        model = LogisticRegression(C=2 / (l2 * len(labels_N)), tol=1e-9, max_iter=1_000, solver="newton-cholesky")
        model.fit(features_NC.astype(np.float64), labels_N)
        kernel_CK, bias_K = model.coef_.T * [-0.5, 0.5], model.intercept_ * [-0.5, 0.5]
    else:
        kernel_CK, bias_K = by_scikit_learn(features_NC, labels_N, l2)
    np.testing.assert_allclose(probe.kernel_CK, kernel_CK, atol=1e-3 * abs(kernel_CK).max())
    np.testing.assert_allclose(probe.bias_K, bias_K, atol=1e-3 * max(abs(bias_K).max(), 1e-2))
    assert probe.kernel_CK.dtype == probe.bias_K.dtype == jnp.float32
    assert probe.l2 == l2 and probe.path == []


@pytest.mark.parametrize(("number", "features", "classes"), [(600, 20, 10), (3000, 30, 100), (60, 90, 3)])
@pytest.mark.parametrize("l2", [1e2, 1e-1, 1e-2, 1e-3])
def test_the_gradient_vanishes_and_the_loss_is_within_the_tolerance(number, features, classes, l2):
    """Also with a hundred classes, and with fewer examples than features."""
    features_NC, labels_N = examples(number, features, classes)
    values = {}
    for tolerance in (1e-4, 1e-8, 1e-11):
        probe = logistic_regression.fit(features_NC, labels_N, l2=l2, num_classes=classes, tolerance=tolerance)
        values[tolerance], kernel_gradient_CK, bias_gradient_K = objective(probe, features_NC, labels_N)
    assert abs(kernel_gradient_CK).max() < 2e-5 and abs(bias_gradient_K).max() < 2e-6
    assert values[1e-4] - values[1e-11] < 20e-4
    assert values[1e-8] - values[1e-11] < 50e-8


def test_the_minimum_does_not_depend_on_origin_or_rotation_of_the_features():
    features_NC, labels_N = examples()
    rotation_CC, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))
    rotated_NC = (features_NC @ rotation_CC + 3).astype(np.float32)
    settings = {"l2": 1e-2, "num_classes": 10, "tolerance": 1e-11}
    plain = logistic_regression.fit(features_NC, labels_N, **settings)
    rotated = logistic_regression.fit(rotated_NC, labels_N, **settings)
    np.testing.assert_allclose(rotated.kernel_CK, rotation_CC.T @ plain.kernel_CK, atol=2e-4)


@pytest.mark.slow
def test_the_path_starts_with_the_strongest_and_the_best_is_fitted_to_all_examples():
    features_NC, labels_N = examples(900)
    train, validation = (features_NC[:400], labels_N[:400]), (features_NC[400:], labels_N[400:])
    l2_values = (1e-3, 1e3, 1e-2, 1.0, 1e-1)
    probe = logistic_regression.fit_path(*train, *validation, l2_values=l2_values, num_classes=10, tolerance=1e-10)
    assert [entry["l2"] for entry in probe.path] == sorted(l2_values, reverse=True)
    for entry in probe.path:
        kernel_CK, bias_K = by_scikit_learn(*train, entry["l2"])
        logs_NK = [log_softmax(part @ kernel_CK + bias_K, axis=1) for part in (train[0], validation[0])]
        train_loss = -logs_NK[0][np.arange(len(train[1])), train[1]].mean()
        validation_loss = -logs_NK[1][np.arange(len(validation[1])), validation[1]].mean()
        assert entry["train_loss"] == pytest.approx(train_loss, abs=1e-4)
        assert entry["validation_loss"] == pytest.approx(validation_loss, rel=1e-3)
        accuracy = (logs_NK[1].argmax(axis=1) == validation[1]).mean()
        assert entry["validation_accuracy"] == pytest.approx(accuracy, abs=0.0041)  # two examples near a boundary
        assert 0 < entry["iterations"] < 1000  # the limit
    best = max(probe.path, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))
    assert probe.l2 == best["l2"] and 1e-3 < best["l2"] < 1e3
    kernel_CK, bias_K = by_scikit_learn(features_NC, labels_N, probe.l2)
    np.testing.assert_allclose(probe.kernel_CK, kernel_CK, atol=1e-3 * abs(kernel_CK).max())
    np.testing.assert_allclose(probe.bias_K, bias_K, atol=1e-3 * abs(bias_K).max())


@pytest.mark.slow
def test_among_equal_accuracies_the_lowest_loss_decides():
    labels_N = np.arange(200, dtype=np.int32) % 2
    features_NC = (labels_N[:, None] + 0.1 * np.random.default_rng(0).normal(size=(200, 3))).astype(np.float32)
    probe = logistic_regression.fit_path(
        features_NC, labels_N, features_NC, labels_N, l2_values=(1e-3, 1e-2, 1e-1), num_classes=2
    )
    assert {entry["validation_accuracy"] for entry in probe.path} == {1.0}
    assert probe.l2 == 1e-3


def test_the_published_path():
    assert len(logistic_regression.L2_VALUES) == 45
    np.testing.assert_allclose(np.diff(np.log10(logistic_regression.L2_VALUES)), 11 / 44)
    np.testing.assert_allclose((min(logistic_regression.L2_VALUES), max(logistic_regression.L2_VALUES)), (1e-6, 1e5))


def test_iterations_stop_at_the_given_maximum():
    features_NC, labels_N = examples()
    probe = logistic_regression.fit_path(
        features_NC, labels_N, features_NC, labels_N, l2_values=(1e-4,), num_classes=10, max_iterations=3
    )
    assert probe.path[0]["iterations"] == 3


def test_a_class_without_examples_is_never_predicted():
    features_NC, labels_N = examples(classes=9)
    probe = logistic_regression.fit(features_NC, labels_N, l2=1e-2, num_classes=10)
    logits_NK = features_NC @ np.array(probe.kernel_CK) + np.array(probe.bias_K)
    assert np.isfinite(logits_NK).all()
    assert (logits_NK.argmax(axis=1) != 9).all() and softmax(logits_NK, axis=1)[:, 9].max() < 1e-4


@pytest.mark.slow
def test_features_sharded_over_devices_with_padding_rows():
    (train_NC, train_N), (validation_NC, validation_N) = examples(603), examples(203, seed=0)
    settings = {"l2_values": (1.0, 1e-2), "num_classes": 10, "tolerance": 1e-10}
    expected = logistic_regression.fit_path(train_NC, train_N, validation_NC, validation_N, **settings)
    mesh = make_mesh(8)

    def sharded(features_NC, labels_N):
        return shard_rows(features_NC, mesh), shard_rows(labels_N + 1, mesh) - 1

    probe = logistic_regression.fit_path(*sharded(train_NC, train_N), *sharded(validation_NC, validation_N), **settings)
    np.testing.assert_allclose(probe.kernel_CK, expected.kernel_CK, atol=2e-4)
    assert probe.l2 == expected.l2
    for scores, expected_scores in zip(probe.path, expected.path, strict=True):
        assert scores["train_loss"] == pytest.approx(expected_scores["train_loss"], abs=1e-5)
        assert scores["validation_accuracy"] == expected_scores["validation_accuracy"]
        assert scores["validation_loss"] == pytest.approx(expected_scores["validation_loss"], abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad):
    features_NC, labels_N = examples()
    broken_NC = features_NC.copy()
    broken_NC[5, 7] = bad
    with pytest.raises(DataError, match="not finite"):
        logistic_regression.fit(jax.numpy.array(broken_NC), labels_N, l2=1.0, num_classes=10)
    with pytest.raises(DataError, match="not finite"):
        logistic_regression.fit_path(features_NC, labels_N, broken_NC, labels_N, num_classes=10)
