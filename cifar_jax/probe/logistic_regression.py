"""The linear probe: multinomial logistic regression on features that were computed once.

Minimized by L-BFGS as published probes are (Grill et al., Bootstrap Your Own Latent, 2020, appendix D.2), in a
coordinate system in which that is quick; the minimum is that of the features as they are.
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

ITERATIONS_A_TURN = 100


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear classifier: features_NC @ kernel_CK + bias_K are its logits.

    Attributes:
        kernel_CK: float32.
        bias_K: float32, of mean zero.
        l2: the strength that it was fitted with.
        path: for each strength that was tried, from the strongest: {l2, train_loss, train_accuracy,
            validation_accuracy, validation_loss, iterations}; the losses are cross-entropies in nats, without the
            penalty. Empty where the strength was given.
    """

    kernel_CK: jax.Array
    bias_K: jax.Array
    l2: float
    path: list[dict]


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
    """The probe fitted on training and validation examples, with the strength that did best in validation before.

    Best is the highest accuracy and, among equals, the lowest loss. Each strength starts from the weights of the next
    stronger one. All arguments and errors are those of `fit`.
    """
    settings = {"max_iterations": max_iterations, "tolerance": tolerance}
    _require_finite(train_features_NC, validation_features_NC)
    with jax.default_matmul_precision("highest"):
        problem = _along_principal_axes(train_features_NC, train_labels_N)
        weights = _zeros(problem, num_classes)
        path, probes = [], []
        for l2 in sorted(l2_values, reverse=True):
            weights, train_loss, iterations = _minimize(problem, weights, l2, **settings)
            probes.append(_in_features(problem, weights))
            train_accuracy, _ = _score(*probes[-1], train_features_NC, train_labels_N)
            validation_accuracy, validation_loss = _score(*probes[-1], validation_features_NC, validation_labels_N)
            found = {
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "validation_accuracy": validation_accuracy,
                "validation_loss": validation_loss,
                "iterations": iterations,
            }
            path.append({"l2": float(l2), **{name: value.item() for name, value in found.items()}})
        best = max(range(len(path)), key=lambda i: (path[i]["validation_accuracy"], -path[i]["validation_loss"]))
        del problem  # as large as the features
        features_NC = jnp.concatenate([train_features_NC, validation_features_NC])
        labels_N = jnp.concatenate([train_labels_N, validation_labels_N])
        return _fit(features_NC, labels_N, probes[best], path[best]["l2"], path=path, **settings)


def fit(
    features_NC: jax.Array,
    labels_N: jax.Array,
    *,
    l2: float,
    num_classes: int,
    max_iterations: int = 1000,
    tolerance: float = 1e-8,
) -> Probe:
    """The kernel and bias of least mean cross-entropy + l2 / 2 * (sum of the kernel's squares).

    The bias is not penalized. In scikit-learn's terms: LogisticRegression(C=1 / (l2 * N)).

    Args:
        features_NC: float32, wherever they are: with their rows sharded over a mesh, the fit is shared out likewise.
            At most two more arrays of their size are made.
        labels_N: int32, 0..num_classes - 1; rows with a negative label do not count (they fill up the last device).
        l2: above 0, in nats.
        tolerance: in nats: stops where the quadratic model that L-BFGS has of the objective predicts to gain no more
            than this. The minimum is then a few times as far (25 at l2 = 1e-3); with 1e-8 and hardly any penalty on
            classes that are nearly separable (l2 = 1e-6) up to 3e-5 nats. Where `max_iterations` ends the search before
            that, it is as far as it is: the path of `fit_path` has the iterations of each strength.

    Raises:
        DataError: features that are not finite.
    """
    _require_finite(features_NC)
    start = jnp.zeros((features_NC.shape[1], num_classes)), jnp.zeros(num_classes)
    with jax.default_matmul_precision("highest"):
        return _fit(features_NC, labels_N, start, l2, path=[], max_iterations=max_iterations, tolerance=tolerance)


def _fit(features_NC, labels_N, start, l2, *, path, max_iterations, tolerance) -> Probe:
    problem = _along_principal_axes(features_NC, labels_N)
    weights = _from_features(problem, *start)
    weights, _, _ = _minimize(problem, weights, l2, max_iterations=max_iterations, tolerance=tolerance)
    return Probe(*_in_features(problem, weights), l2=float(l2), path=path)


def _require_finite(*parts) -> None:
    if not all(_is_finite(features_NC) for features_NC in parts):
        raise DataError("the features of the probe are not finite: are these the weights and images that you mean?")


@jax.jit
def _is_finite(features_NC):
    return jnp.isfinite(features_NC).all()


class _Problem(NamedTuple):
    """Features as seen from their mean along their principal axes, and the way back.

    Turning the axes leaves the penalty of a kernel as it is, and moving the origin is made good by the bias, which has
    no penalty: the minimum is the same. But the curvature of the objective is nearly diagonal here.
    """

    scores_NC: jax.Array
    labels_N: jax.Array
    share_N: jax.Array  # of each row in a mean: 1 / rows that count, or 0
    mean_C: jax.Array
    axes_CC: jax.Array
    variances_C: jax.Array


class _Weights(NamedTuple):
    """Classes first: with the classes in the rows of all arrays, XLA:CPU reads the features 3 times as fast."""

    kernel_KC: jax.Array
    bias_K: jax.Array


@jax.jit
def _along_principal_axes(features_NC, labels_N) -> _Problem:
    counts_N = labels_N >= 0
    share_N = counts_N / counts_N.sum()
    mean_C = share_N @ features_NC
    centerd_NC = jnp.where(counts_N[:, None], features_NC - mean_C, 0)
    covariance_CC = centerd_NC.T @ centerd_NC / counts_N.sum()
    variances_C, axes_CC = jnp.linalg.eigh(covariance_CC)
    return _Problem(centerd_NC @ axes_CC, labels_N, share_N, mean_C, axes_CC, jnp.maximum(variances_C, 0))


def _zeros(problem: _Problem, num_classes: int) -> _Weights:
    return _Weights(jnp.zeros((num_classes, len(problem.mean_C))), jnp.zeros(num_classes))


@jax.jit
def _in_features(problem: _Problem, weights: _Weights):
    """kernel_CK and bias_K for the features themselves."""
    kernel_CK = problem.axes_CC @ weights.kernel_KC.T
    bias_K = weights.bias_K - problem.mean_C @ kernel_CK
    return kernel_CK, bias_K - bias_K.mean()  # the same number on all logits changes nothing


@jax.jit
def _from_features(problem: _Problem, kernel_CK, bias_K) -> _Weights:
    return _Weights((problem.axes_CC.T @ kernel_CK).T, bias_K + problem.mean_C @ kernel_CK)


@jax.jit
def _score(kernel_CK, bias_K, features_NC, labels_N) -> tuple[jax.Array, jax.Array]:
    """Accuracy and mean cross-entropy."""
    logits_NK = features_NC @ kernel_CK + bias_K
    counts_N = labels_N >= 0
    losses_N = optax.softmax_cross_entropy_with_integer_labels(logits_NK, jnp.maximum(labels_N, 0))
    correct_N = logits_NK.argmax(axis=1) == labels_N
    return correct_N.sum() / counts_N.sum(), jnp.where(counts_N, losses_N, 0).sum() / counts_N.sum()


class _Search(NamedTuple):
    """Where L-BFGS stands, with the direction that it takes next."""

    scales: _Weights
    weights: _Weights  # in units of `scales`
    logits_KN: jax.Array
    gradient: _Weights
    memory: optax.OptState
    direction: _Weights
    iteration: jax.Array

    @property
    def predicted_gain(self):
        """Nats that the quadratic model behind the direction expects to gain."""
        return -optax.tree.vdot(self.gradient, self.direction) / 2

    def in_axes(self) -> _Weights:
        return jax.tree.map(jnp.multiply, self.weights, self.scales)


@jax.jit
def _minimize(problem: _Problem, start: _Weights, l2, *, max_iterations, tolerance):
    """Weights of the minimum, mean cross-entropy there, and iterations. Each reads the features twice."""
    targets_KN = jax.nn.one_hot(problem.labels_N, len(start.bias_K), axis=0)
    optimizer = optax.scale_by_lbfgs(memory_size=10)
    penalty = _Weights(l2, 0.0)

    def towards_minimum(scales, weights, logits_KN, memory, iteration) -> _Search:
        residuals_KN = (jax.nn.softmax(logits_KN, axis=0) - targets_KN) * problem.share_N
        in_axes = _Weights(residuals_KN @ problem.scores_NC, residuals_KN.sum(axis=1))
        gradient = jax.tree.map(lambda g, s, w, p: s * (g + p * s * w), in_axes, scales, weights, penalty)
        uphill, memory = optimizer.update(gradient, memory, weights)
        direction = jax.tree.map(jnp.negative, uphill)
        return _Search(scales, weights, logits_KN, gradient, memory, direction, iteration)

    def begin(in_axes: _Weights, iteration) -> _Search:
        logits_KN = _logits(problem, in_axes)
        scales = _scales(problem, logits_KN, l2)
        weights = jax.tree.map(jnp.divide, in_axes, scales)
        return towards_minimum(scales, weights, logits_KN, optimizer.init(weights), iteration)

    def iterate(search: _Search) -> _Search:
        scales, weights, logits_KN, _, memory, direction, iteration = search
        change_KN = _logits(problem, jax.tree.map(jnp.multiply, direction, scales))
        bent = jax.tree.map(lambda d, s, p: p * s**2 * d, direction, scales, penalty)
        step = _line_minimum(
            logits_KN,
            change_KN,
            targets_KN,
            problem.share_N,
            slope=optax.tree.vdot(weights, bent),
            curvature=optax.tree.vdot(direction, bent),
        )
        weights = jax.tree.map(lambda w, d: w + step * d, weights, direction)
        return towards_minimum(scales, weights, logits_KN + step * change_KN, memory, iteration + 1)

    def goes_on(search: _Search):
        return (search.predicted_gain > tolerance) & (search.iteration < max_iterations)

    def turn(search: _Search) -> _Search:
        """Runs some iterations with a new estimate of the curvature. Converged = the predicted gain is small again."""
        end = search.iteration + ITERATIONS_A_TURN
        search = lax.while_loop(lambda s: goes_on(s) & (s.iteration < end), iterate, search)
        return begin(search.in_axes(), search.iteration)

    last = lax.while_loop(goes_on, turn, begin(start, 0))
    losses_N = jax.nn.logsumexp(last.logits_KN, axis=0) - (targets_KN * last.logits_KN).sum(axis=0)
    return last.in_axes(), problem.share_N @ losses_N, last.iteration


def _logits(problem: _Problem, weights: _Weights) -> jax.Array:
    return jnp.einsum("kc,nc->kn", weights.kernel_KC, problem.scores_NC) + weights.bias_K[:, None]


def _scales(problem: _Problem, logits_KN, l2) -> _Weights:
    """Units of the weights in which the objective's curvature is about 1 in every direction.

    Along principal axis c the curvature is l2 + (mean of p (1 - p) z_c^2, p the probability of the class), which is
    here taken to be l2 + (mean of p (1 - p)) * variance. The 45 strengths on 45,000 x 2,048 features take some 500
    iterations in all, and thousands in the features as they are.
    """
    probabilities_KN = jax.nn.softmax(logits_KN, axis=0)
    spread_K = jnp.maximum((probabilities_KN * (1 - probabilities_KN)) @ problem.share_N, 1e-7)  # 0 without examples
    return _Weights(lax.rsqrt(spread_K[:, None] * problem.variances_C + l2), lax.rsqrt(spread_K))


def _line_minimum(logits_KN, change_KN, targets_KN, share_N, *, slope, curvature) -> jax.Array:
    """The step at which the objective has lost 9/10 of its slope along a direction.

    Logits are linear in the step, so a trial reads no features; and it is the slope that is driven to zero, by Newton's
    method within a bracket, since near the minimum float32 no longer distinguishes two values of the objective.

    Args:
        change_KN: of the logits, for a step of 1.
        slope: of the penalty at step 0.
        curvature: of the penalty.
    """

    class Trial(NamedTuple):
        step: jax.Array
        slope: jax.Array
        curvature: jax.Array

    def at(step):
        probabilities_KN = jax.nn.softmax(logits_KN + step * change_KN, axis=0)
        mean_N = (probabilities_KN * change_KN).sum(axis=0)
        variance_N = (probabilities_KN * (change_KN - mean_N) ** 2).sum(axis=0)
        gained_N = mean_N - (targets_KN * change_KN).sum(axis=0)
        return Trial(step, share_N @ gained_N + slope + step * curvature, share_N @ variance_N + curvature)

    def refine(carry):
        number, low, high, trial = carry
        low = jnp.where(trial.slope < 0, trial.step, low)
        high = jnp.where(trial.slope < 0, high, trial.step)
        newton = trial.step - trial.slope / trial.curvature
        middle = jnp.where(jnp.isinf(high), 2 * low, (low + high) / 2)
        return number + 1, low, high, at(jnp.where((newton > low) & (newton < high), newton, middle))

    steep = 0.1 * jnp.abs(at(0.0).slope)
    carry = lax.while_loop(lambda c: (jnp.abs(c[-1].slope) > steep) & (c[0] < 20), refine, (0, 0.0, jnp.inf, at(1.0)))
    return carry[-1].step
