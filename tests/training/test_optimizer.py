"""Schedules and optimizers against formulas written out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_jax.config import default_config
from cifar_jax.errors import UsageError
from cifar_jax.training import optimizer

SHAPES = {
    "whiten": {"kernel": (2, 2, 3, 4)},
    "conv": {"kernel": (3, 3, 4, 8)},
    "norm": {"bias": (8,)},
    "head": {"kernel": (8, 5)},
}
FREEZE_WHITENING = (("whiten/kernel", 0.0), (".*", 1.0))


def tree(seed, scale=1.0):
    random = np.random.default_rng(seed)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * random.normal(size=shape), jnp.float32), SHAPES, is_leaf=is_shape
    )


def settings_of(**values):
    settings = default_config().optimizer
    settings.update(values)
    return settings


def after(gradients, *, params, schedule=lambda step: 1.0, **values):
    """The parameters after one update for each tree of gradients."""
    transformation = optimizer.build(settings_of(**values), params, schedule=schedule)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return jax.device_get(params)


def multipliers(steps, *, updates_per_epoch=8, total_updates=20, **values):
    schedule = default_config().schedule
    schedule.update(values)
    multiplier = optimizer.learning_rate_schedule(
        schedule, updates_per_epoch=updates_per_epoch, total_updates=total_updates
    )
    return [float(multiplier(step)) for step in steps]


@pytest.mark.parametrize("warmup", [{"warmup_steps": 4}, {"warmup_epochs": 0.5}, {"warmup_percent": 20.0}])
def test_warm_up_is_linear_and_ends_at_the_peak(warmup):
    found = multipliers((0, 1, 2, 3, 4, 19), name="constant", **warmup)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_a_warm_up_of_one_step_is_none():
    assert multipliers((0, 1), name="constant", warmup_steps=1) == [1, 1]


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_and_linear_go_from_one_to_the_final_fraction(final):
    steps = (0, 4, 8, 16, 20)
    times = [0, 0, 0.25, 0.75, 1]  # of what the warm-up of 4 leaves
    cosine = multipliers(steps, name="cosine", final_fraction=final, warmup_steps=4)
    expected = [final + (1 - final) * (1 + math.cos(math.pi * t)) / 2 for t in times]
    assert cosine == pytest.approx([0.25, *expected[1:]], abs=1e-6)
    linear = multipliers(steps, name="linear", final_fraction=final, warmup_steps=4)
    assert linear == pytest.approx([0.25, *(1 - (1 - final) * t for t in times[1:])], abs=1e-6)


@pytest.mark.parametrize(
    "decay", [{"decay_steps": (10, 15)}, {"decay_epochs": (1.25, 1.875)}, {"decay_percent": (50.0, 75.0)}]
)
@pytest.mark.parametrize("warmup", [0, 4])
def test_steps_of_the_rate_are_where_they_are_said_to_be(decay, warmup):
    found = multipliers((9, 10, 14, 15, 19), name="step", decay_factor=0.1, warmup_steps=warmup, **decay)
    assert found == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def with_rules(*rules):
    settings = default_config().optimizer
    settings.rules = rules
    return settings


def test_the_first_rule_that_matches_decides():
    found = optimizer.match_rules(with_rules(("head", 0.5), ("kernel", 0.0), (".*", 2.0)), tree(0))
    assert found["head"]["kernel"].multiplier == 0.5
    assert found["conv"]["kernel"].multiplier == found["whiten"]["kernel"].multiplier == 0
    assert found["norm"]["bias"].multiplier == 2
    assert found["conv"]["kernel"].by_muon
    assert not found["head"]["kernel"].by_muon


def test_a_rule_multiplies_the_learning_rate():
    params, gradient = tree(0), tree(1)
    rules = (("head", 0.5), (".*", 1.0))
    found = after([gradient], params=params, rules=rules, weight_decay=0.0, momentum=0.0, learning_rate=0.1)
    for name, leaf, factor in (("head", "kernel", 0.05), ("conv", "kernel", 0.1)):
        expected = params[name][leaf] - factor * gradient[name][leaf]
        np.testing.assert_allclose(found[name][leaf], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "rules, message",
    [((("kernel", 1.0),), "norm/bias"), ((("stem/kernel", 0.0), (".*", 1.0)), "stem/kernel")],
    ids=["unmatched parameter", "idle rule"],
)
def test_rules_that_leave_something_over_are_errors(rules, message):
    with pytest.raises(UsageError, match=message):
        optimizer.match_rules(with_rules(*rules), tree(0))


@pytest.mark.parametrize("name", ["sgd", "muon", "adamw"])
def test_a_frozen_kernel_stays_bit_for_bit(name):
    params = tree(0)
    gradients = [tree(seed) for seed in (1, 2, 3)]
    found = after(gradients, params=params, name=name, rules=FREEZE_WHITENING, weight_decay=0.1)
    np.testing.assert_array_equal(found["whiten"]["kernel"], params["whiten"]["kernel"])
    for part, leaf in (("conv", "kernel"), ("norm", "bias"), ("head", "kernel")):
        assert (found[part][leaf] != params[part][leaf]).any()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_acts_on_kernels_only(name):
    params, nothing = tree(0), jax.tree.map(jnp.zeros_like, tree(0))
    found = after([nothing], params=params, name=name, weight_decay=0.1, learning_rate=0.5, momentum=0.0)
    np.testing.assert_array_equal(found["norm"]["bias"], params["norm"]["bias"])
    np.testing.assert_allclose(found["conv"]["kernel"], 0.95 * params["conv"]["kernel"], rtol=1e-5)


def test_clipping_bounds_the_norm_of_what_is_trained():
    params, gradient = tree(0), tree(1)
    trained = [jax.tree.leaves(gradient[part])[0] for part in ("conv", "norm", "head")]
    norm = math.sqrt(sum((np.asarray(value, np.float64) ** 2).sum() for value in trained))
    # Were it counted, the frozen gradient would leave nothing of the others.
    gradient["whiten"]["kernel"] = 1e6 * gradient["whiten"]["kernel"]
    plain = {"params": params, "rules": FREEZE_WHITENING, "weight_decay": 0.0, "momentum": 0.0, "learning_rate": 1.0}
    for clip_norm, factor in ((2 * norm, 1.0), (norm / 4, 0.25)):
        found = after([gradient], clip_norm=clip_norm, **plain)
        expected = params["conv"]["kernel"] - factor * gradient["conv"]["kernel"]
        np.testing.assert_allclose(found["conv"]["kernel"], expected, rtol=1e-5, atol=1e-5)


def test_two_half_batches_are_one_batch():
    params, first, second = tree(0), tree(1), tree(2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    np.testing.assert_array_equal(
        after([first], params=params, accumulate_steps=2)["conv"]["kernel"], params["conv"]["kernel"]
    )
    halves = after([first, second, second, first], params=params, accumulate_steps=2)
    whole = after([mean, mean], params=params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), halves, whole)


def test_sgd_is_nesterov_with_coupled_decay():
    """Sutskever et al. 2013 in the form of the frameworks: m = mu m + g, p = p - rate (g + mu m); float64."""
    params, gradients = tree(0), [tree(seed) for seed in (1, 2, 3)]
    rate, momentum, decay = 0.05, 0.9, 0.01
    found = after(
        gradients,
        params=params,
        schedule=lambda step: 1 / (step + 1),
        learning_rate=rate,
        momentum=momentum,
        weight_decay=decay,
    )
    for part, leaf in (("conv", "kernel"), ("norm", "bias"), ("head", "kernel")):
        value = np.asarray(params[part][leaf], np.float64)
        velocity = np.zeros_like(value)
        for step, gradient in enumerate(gradients):
            slope = np.asarray(gradient[part][leaf], np.float64) + (decay * value if leaf == "kernel" else 0)
            velocity = momentum * velocity + slope
            value = value - rate / (step + 1) * (slope + momentum * velocity)
        np.testing.assert_allclose(found[part][leaf], value, rtol=1e-5, atol=1e-6)


def test_muon_adds_a_nearly_orthogonal_update_to_a_kernel_of_fixed_norm():
    params, gradient = tree(0, scale=3.0), tree(1)
    rate = 0.5
    found = after([gradient], params=params, name="muon", learning_rate=rate, momentum=0.6)
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    renewed = kernel * math.sqrt(8) / np.linalg.norm(kernel)
    update = (renewed - found["conv"]["kernel"]) / rate
    values = np.linalg.svd(update.reshape(-1, 8), compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.5
    # Newton-Schulz keeps the singular directions: the update is the gradient with its singular values made equal.
    left, _, right = np.linalg.svd(np.asarray(gradient["conv"]["kernel"], np.float64).reshape(-1, 8), False)
    off = left.T @ update.reshape(-1, 8) @ right.T
    assert np.abs(off - np.diag(np.diag(off))).max() < 0.05
