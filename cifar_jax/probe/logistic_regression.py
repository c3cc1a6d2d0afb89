"""The linear probe: multinomial logistic regression on features that were computed once.

The optimizer is L-BFGS, as for published probes (Grill et al., Bootstrap Your Own Latent, 2020, appendix D.2). It works
in coordinates in which it converges quickly; the minimum is the same as for the original features.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cifar_jax.errors import DataError

L2_VALUES = tuple(np.logspace(-6, 5, 45).tolist())  # the path of Bootstrap Your Own Latent
ITERATIONS_PER_SCALING = 100


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear classifier with the logits features_NC @ kernel_CK + bias_K, float32; the mean of the bias is zero.

    Attributes:
        l2: the strength of the penalty.
        path: from `fit_path`, for each strength, strongest first: {l2, train_loss, train_accuracy, validation_accuracy,
            validation_loss, iterations}; the losses are cross-entropies in nats, without the penalty.
    """

    kernel_CK: jax.Array
    bias_K: jax.Array
    l2: float
    path: list[dict] = dataclasses.field(default_factory=list)


def fit_path(
    train_features_NC: jax.Array,
    train_labels_N: jax.Array,
    validation_features_NC: jax.Array,
    validation_labels_N: jax.Array,
    *,
    l2_values: tuple[float, ...] = L2_VALUES,
    num_classes: int,
    max_iterations: int = 1000,
    tolerance: float = 1e-8,
) -> Probe:
    """Selects the L2 strength by validation accuracy (by loss if equal), then fits a probe to all examples with it.

    The fit to the training examples with one strength starts from the weights of the next stronger one. For the other
    arguments and the errors, see `fit`.
    """
    _require_finite(train_features_NC, validation_features_NC)
    with jax.default_matmul_precision("highest"):
        problem = _along_principal_axes(train_features_NC, train_labels_N)
        weights = _Weights(jnp.zeros((num_classes, len(problem.mean_C))), jnp.zeros(num_classes))
        path, heads = [], []
        for l2 in sorted(l2_values, reverse=True):
            weights, train_loss, iterations = _minimize(problem, weights, l2, max_iterations, tolerance)
            heads.append(_in_features(problem, weights))
            train_accuracy, _ = _score(*heads[-1], train_features_NC, train_labels_N)
            validation_accuracy, validation_loss = _score(*heads[-1], validation_features_NC, validation_labels_N)
            scores = {
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "validation_accuracy": validation_accuracy,
                "validation_loss": validation_loss,
                "iterations": iterations,
            }
            path.append({"l2": float(l2), **{name: value.item() for name, value in scores.items()}})
    del problem  # as large as the features
    best = max(range(len(path)), key=lambda i: (path[i]["validation_accuracy"], -path[i]["validation_loss"]))
    features_NC = jnp.concatenate([train_features_NC, validation_features_NC])
    labels_N = jnp.concatenate([train_labels_N, validation_labels_N])
    settings = {"num_classes": num_classes, "max_iterations": max_iterations, "tolerance": tolerance}
    probe = fit(features_NC, labels_N, l2=path[best]["l2"], start=heads[best], **settings)
    return dataclasses.replace(probe, path=path)


def fit(
    features_NC: jax.Array,
    labels_N: jax.Array,
    *,
    l2: float,
    num_classes: int,
    start: tuple[jax.Array, jax.Array] | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-8,
) -> Probe:
    """Minimizes the mean cross-entropy + l2 / 2 * (sum of the kernel's squares); the bias is not penalized.

    Equals scikit-learn's LogisticRegression(C=1 / (l2 * N)).

    Args:
        features_NC: float32; if the rows are sharded over a mesh, so is the computation. Up to two more arrays of this
            size are allocated.
        labels_N: int32, 0..num_classes - 1; rows with a negative label are ignored (padding of the last device).
        l2: above 0, in nats.
        start: initial kernel_CK and bias_K; zeros by default.
        max_iterations: the search ends there without an error, even if the tolerance is not reached.
        tolerance: in nats; the search ends when the quadratic model of L-BFGS predicts a smaller gain. The objective is
            then a few tolerances above its minimum (25 at l2 = 1e-3); with 1e-8, up to 3e-5 nats if the classes are
            nearly separable and hardly penalized (l2 = 1e-6).

    Raises:
        DataError: features that are not finite.
    """
    _require_finite(features_NC)
    start = start or (jnp.zeros((features_NC.shape[1], num_classes)), jnp.zeros(num_classes))
    with jax.default_matmul_precision("highest"):
        problem = _along_principal_axes(features_NC, labels_N)
        weights, _, _ = _minimize(problem, _from_features(problem, *start), l2, max_iterations, tolerance)
        return Probe(*_in_features(problem, weights), l2=float(l2))


def _require_finite(*features: jax.Array) -> None:
    if not all(jnp.isfinite(features_NC).all() for features_NC in features):
        raise DataError("the features of the probe are not finite: check the pretrained weights and the images")


class _Problem(NamedTuple):
    """Features relative to their mean along their principal axes, and the way back.

    The curvature of the objective is nearly diagonal in these coordinates. Its minimum does not change: a rotation
    preserves the penalty of the kernel, and the bias, which has no penalty, compensates for the new origin.
    """

    scores_NC: jax.Array
    labels_N: jax.Array
    share_N: jax.Array  # of each row in a mean: 1 / number of labeled rows, or 0
    mean_C: jax.Array
    axes_CC: jax.Array
    variances_C: jax.Array


class _Weights(NamedTuple):
    """Classes first: with the classes in the rows of all arrays, XLA:CPU reads the features 3 times as fast."""

    kernel_KC: jax.Array
    bias_K: jax.Array


@jax.jit
def _along_principal_axes(features_NC, labels_N) -> _Problem:
    labeled_N = labels_N >= 0
    share_N = labeled_N / labeled_N.sum()
    mean_C = share_N @ features_NC
    centered_NC = jnp.where(labeled_N[:, None], features_NC - mean_C, 0)
    covariance_CC = centered_NC.T @ centered_NC / labeled_N.sum()
    variances_C, axes_CC = jnp.linalg.eigh(covariance_CC)
    return _Problem(centered_NC @ axes_CC, labels_N, share_N, mean_C, axes_CC, jnp.maximum(variances_C, 0))


@jax.jit
def _in_features(problem: _Problem, weights: _Weights) -> tuple[jax.Array, jax.Array]:
    """kernel_CK and bias_K for the original features."""
    kernel_CK = problem.axes_CC @ weights.kernel_KC.T
    bias_K = weights.bias_K - problem.mean_C @ kernel_CK
    return kernel_CK, bias_K - bias_K.mean()  # a constant added to all logits has no effect


@jax.jit
def _from_features(problem: _Problem, kernel_CK, bias_K) -> _Weights:
    return _Weights((problem.axes_CC.T @ kernel_CK).T, bias_K + problem.mean_C @ kernel_CK)


@jax.jit
def _score(kernel_CK, bias_K, features_NC, labels_N) -> tuple[jax.Array, jax.Array]:
    """Accuracy and mean cross-entropy."""
    logits_NK = features_NC @ kernel_CK + bias_K
    labeled_N = labels_N >= 0
    losses_N = optax.softmax_cross_entropy_with_integer_labels(logits_NK, jnp.maximum(labels_N, 0))
    correct_N = logits_NK.argmax(axis=1) == labels_N
    return correct_N.sum() / labeled_N.sum(), jnp.where(labeled_N, losses_N, 0).sum() / labeled_N.sum()


class _State(NamedTuple):
    """The state of L-BFGS, with the direction of its next step."""

    scales: _Weights
    scaled_weights: _Weights  # the weights divided by `scales`
    logits_KN: jax.Array
    gradient: _Weights
    memory: optax.OptState
    direction: _Weights
    iteration: jax.Array

    @property
    def weights(self) -> _Weights:
        return jax.tree.map(jnp.multiply, self.scaled_weights, self.scales)

    @property
    def predicted_gain(self) -> jax.Array:
        """Of the next step in nats, by the quadratic model."""
        return -optax.tree.vdot(self.gradient, self.direction) / 2


@jax.jit
def _minimize(problem: _Problem, start: _Weights, l2, max_iterations, tolerance):
    """Weights at the minimum, mean cross-entropy there, and iterations, each of which reads the features twice."""
    targets_KN = jax.nn.one_hot(problem.labels_N, len(start.bias_K), axis=0)
    optimizer = optax.scale_by_lbfgs(memory_size=10)
    penalty = _Weights(l2, 0.0)

    def with_direction(scales, scaled_weights, logits_KN, memory, iteration) -> _State:
        residuals_KN = (jax.nn.softmax(logits_KN, axis=0) - targets_KN) * problem.share_N
        loss_gradient = _Weights(residuals_KN @ problem.scores_NC, residuals_KN.sum(axis=1))
        gradient = jax.tree.map(lambda g, s, w, p: s * (g + p * s * w), loss_gradient, scales, scaled_weights, penalty)
        uphill, memory = optimizer.update(gradient, memory, scaled_weights)
        direction = jax.tree.map(jnp.negative, uphill)
        return _State(scales, scaled_weights, logits_KN, gradient, memory, direction, iteration)

    def rescale(weights: _Weights, iteration) -> _State:
        """Starts L-BFGS with scales for the curvature at `weights`, and with an empty memory."""
        logits_KN = _logits(problem, weights)
        scales = _scales(problem, logits_KN, l2)
        scaled_weights = jax.tree.map(jnp.divide, weights, scales)
        return with_direction(scales, scaled_weights, logits_KN, optimizer.init(scaled_weights), iteration)

    def iterate(state: _State) -> _State:
        scales, weights, logits_KN, _, memory, direction, iteration = state
        change_KN = _logits(problem, jax.tree.map(jnp.multiply, direction, scales))
        penalized = jax.tree.map(lambda d, s, p: p * s**2 * d, direction, scales, penalty)
        slope, curvature = optax.tree.vdot(weights, penalized), optax.tree.vdot(direction, penalized)
        step = _line_minimum(logits_KN, change_KN, targets_KN, problem.share_N, slope, curvature)
        weights = jax.tree.map(lambda w, d: w + step * d, weights, direction)
        return with_direction(scales, weights, logits_KN + step * change_KN, memory, iteration + 1)

    def unfinished(state: _State):
        return (state.predicted_gain > tolerance) & (state.iteration < max_iterations)

    def iterate_and_rescale(state: _State) -> _State:
        """So the search ends only if the predicted gain is still small after rescaling."""
        end = state.iteration + ITERATIONS_PER_SCALING
        state = lax.while_loop(lambda state: unfinished(state) & (state.iteration < end), iterate, state)
        return rescale(state.weights, state.iteration)

    last = lax.while_loop(unfinished, iterate_and_rescale, rescale(start, 0))
    losses_N = jax.nn.logsumexp(last.logits_KN, axis=0) - (targets_KN * last.logits_KN).sum(axis=0)
    return last.weights, problem.share_N @ losses_N, last.iteration


def _logits(problem: _Problem, weights: _Weights) -> jax.Array:
    return jnp.einsum("kc,nc->kn", weights.kernel_KC, problem.scores_NC) + weights.bias_K[:, None]


def _scales(problem: _Problem, logits_KN, l2) -> _Weights:
    """Units of the weights in which the curvature of the objective is about 1 in every direction.

    Along principal axis c the curvature is l2 + mean(p (1 - p) z_c^2) with the class probability p, approximated by
    l2 + mean(p (1 - p)) * variance. The 45 strengths on 45,000 x 2,048 features take about 500 iterations in total,
    instead of thousands in the original coordinates.
    """
    probabilities_KN = jax.nn.softmax(logits_KN, axis=0)
    spread_K = jnp.maximum((probabilities_KN * (1 - probabilities_KN)) @ problem.share_N, 1e-7)  # 0 without examples
    return _Weights(lax.rsqrt(spread_K[:, None] * problem.variances_C + l2), lax.rsqrt(spread_K))


def _line_minimum(logits_KN, change_KN, targets_KN, share_N, penalty_slope, penalty_curvature) -> jax.Array:
    """The step along a direction that reduces the slope of the objective to a tenth.

    Logits are linear in the step, so a trial reads no features. Newton's method within a bracket drives the slope to
    zero, because near the minimum two values of the objective are equal in float32. `change_KN` is the change of the
    logits for a step of 1; `penalty_slope` is the slope of the penalty at step 0.
    """

    def derivatives(step):
        probabilities_KN = jax.nn.softmax(logits_KN + step * change_KN, axis=0)
        mean_N = (probabilities_KN * change_KN).sum(axis=0)
        variance_N = (probabilities_KN * (change_KN - mean_N) ** 2).sum(axis=0)
        slope_N = mean_N - (targets_KN * change_KN).sum(axis=0)
        return share_N @ slope_N + penalty_slope + step * penalty_curvature, share_N @ variance_N + penalty_curvature

    def refine(carry):
        trials, low, high, step, (slope, curvature) = carry
        low, high = jnp.where(slope < 0, step, low), jnp.where(slope < 0, high, step)
        newton = step - slope / curvature
        middle = jnp.where(jnp.isinf(high), 2 * low, (low + high) / 2)
        step = jnp.where((newton > low) & (newton < high), newton, middle)
        return trials + 1, low, high, step, derivatives(step)

    def unfinished(carry):
        trials, _, _, _, (slope, _) = carry
        return (jnp.abs(slope) > largest_slope) & (trials < 20)

    largest_slope = 0.1 * jnp.abs(derivatives(0.0)[0])
    return lax.while_loop(unfinished, refine, (0, 0.0, jnp.inf, 1.0, derivatives(1.0)))[3]
