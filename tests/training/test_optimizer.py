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


def after(gradients, *, params, schedule=lambda step: 1.0, whiten_bias_updates=0, **values):
    """The parameters after one update for each tree of gradients."""
    updates = {"whiten_bias_updates": whiten_bias_updates}
    transformation = optimizer.build(settings_of(**values), params, schedule=schedule, **updates)

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
    assert multipliers((0, 1, 2, 3, 4, 19), name="constant", **warmup) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_a_warm_up_from_a_fraction_of_the_peak():
    values = multipliers((0, 1, 3, 4, 12), name="linear", warmup_steps=4, initial_fraction=0.2)
    assert values == pytest.approx([0.2, 0.4, 0.8, 1, 0.5])


def test_a_warm_up_of_one_step_changes_nothing():
    assert multipliers((0, 1), name="constant", warmup_steps=1) == [1, 1]


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_and_linear_go_from_one_to_the_final_fraction(final):
    steps = (0, 4, 8, 16, 20)
    times = [0, 0, 0.25, 0.75, 1]  # as fractions of the steps after the warm-up of 4
    cosine = multipliers(steps, name="cosine", final_fraction=final, warmup_steps=4)
    expected = [final + (1 - final) * (1 + math.cos(math.pi * t)) / 2 for t in times]
    assert cosine == pytest.approx([0.25, *expected[1:]], abs=1e-6)
    linear = multipliers(steps, name="linear", final_fraction=final, warmup_steps=4)
    assert linear == pytest.approx([0.25, *(1 - (1 - final) * t for t in times[1:])], abs=1e-6)


@pytest.mark.parametrize(
    "decay", [{"decay_steps": (10, 15)}, {"decay_epochs": (1.25, 1.875)}, {"decay_percent": (50.0, 75.0)}]
)
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_step_schedule_decays_at_the_configured_steps(decay, warmup):
    rates = multipliers((9, 10, 14, 15, 19), name="step", decay_factor=0.1, warmup_steps=warmup, **decay)
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_the_first_rule_that_matches_decides():
    settings = settings_of(rules=(("head", 0.5), ("kernel", 0.0), (".*", 2.0)))
    rules = optimizer.match_rules(settings, tree(0))
    assert rules["head"]["kernel"].multiplier == 0.5
    assert rules["conv"]["kernel"].multiplier == rules["whiten"]["kernel"].multiplier == 0
    assert rules["norm"]["bias"].multiplier == 2


def test_muon_updates_convolution_kernels_only():
    rules = optimizer.match_rules(settings_of(name="muon"), tree(0))
    assert rules["conv"]["kernel"].by_muon
    assert not rules["head"]["kernel"].by_muon
    assert not rules["norm"]["bias"].by_muon
    assert not optimizer.match_rules(settings_of(name="sgd"), tree(0))["conv"]["kernel"].by_muon


def test_a_rule_multiplies_the_learning_rate():
    params, gradient = tree(0), tree(1)
    rules = (("head", 0.5), (".*", 1.0))
    updated = after([gradient], params=params, rules=rules, weight_decay=0.0, momentum=0.0, learning_rate=0.1)
    for name, rate in (("head", 0.05), ("conv", 0.1)):
        expected = params[name]["kernel"] - rate * gradient[name]["kernel"]
        np.testing.assert_allclose(updated[name]["kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "rules, message",
    [((("kernel", 1.0),), "norm/bias"), ((("stem/kernel", 0.0), (".*", 1.0)), "stem/kernel")],
    ids=["parameter without a rule", "rule without a parameter"],
)
def test_each_parameter_has_a_rule_and_each_rule_a_parameter(rules, message):
    with pytest.raises(UsageError, match=message):
        optimizer.match_rules(settings_of(rules=rules), tree(0))


@pytest.mark.parametrize("name", ["sgd", "muon", "adamw"])
def test_a_frozen_kernel_is_bit_identical_after_training(name):
    params = tree(0)
    gradients = [tree(seed) for seed in (1, 2, 3)]
    updated = after(gradients, params=params, name=name, rules=FREEZE_WHITENING, weight_decay=0.1)
    np.testing.assert_array_equal(updated["whiten"]["kernel"], params["whiten"]["kernel"])
    for layer, leaf in (("conv", "kernel"), ("norm", "bias"), ("head", "kernel")):
        assert (updated[layer][leaf] != params[layer][leaf]).any()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_acts_on_kernels_only(name):
    params, zeros = tree(0), jax.tree.map(jnp.zeros_like, tree(0))
    updated = after([zeros], params=params, name=name, weight_decay=0.1, learning_rate=0.5, momentum=0.0)
    np.testing.assert_array_equal(updated["norm"]["bias"], params["norm"]["bias"])
    np.testing.assert_allclose(updated["conv"]["kernel"], 0.95 * params["conv"]["kernel"], rtol=1e-5)


def test_clipping_ignores_the_gradients_of_frozen_parameters():
    params, gradient = tree(0), tree(1)
    trained = [jax.tree.leaves(gradient[layer])[0] for layer in ("conv", "norm", "head")]
    norm = math.sqrt(sum((np.asarray(value, np.float64) ** 2).sum() for value in trained))
    # If the frozen gradient counted, clipping would reduce the others to almost zero.
    gradient["whiten"]["kernel"] = 1e6 * gradient["whiten"]["kernel"]
    plain = {"params": params, "rules": FREEZE_WHITENING, "weight_decay": 0.0, "momentum": 0.0, "learning_rate": 1.0}
    for clip_norm, factor in ((2 * norm, 1.0), (norm / 4, 0.25)):
        updated = after([gradient], clip_norm=clip_norm, **plain)
        expected = params["conv"]["kernel"] - factor * gradient["conv"]["kernel"]
        np.testing.assert_allclose(updated["conv"]["kernel"], expected, rtol=1e-5, atol=1e-5)


def test_accumulation_over_two_batches_equals_one_batch_of_their_mean_gradient():
    params, first, second = tree(0), tree(1), tree(2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    after_half = after([first], params=params, accumulate_steps=2)
    np.testing.assert_array_equal(after_half["conv"]["kernel"], params["conv"]["kernel"])
    accumulated = after([first, second, second, first], params=params, accumulate_steps=2)
    expected = after([mean, mean], params=params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), accumulated, expected)


def test_sgd_is_nesterov_with_coupled_decay():
    """Sutskever et al. 2013, as PyTorch and Keras write it: m = mu m + g, p = p - rate (g + mu m); in float64."""
    params, gradients = tree(0), [tree(seed) for seed in (1, 2, 3)]
    rate, momentum, decay = 0.05, 0.9, 0.01
    updated = after(
        gradients,
        params=params,
        schedule=lambda step: 1 / (step + 1),
        learning_rate=rate,
        momentum=momentum,
        weight_decay=decay,
    )
    for layer, leaf in (("conv", "kernel"), ("norm", "bias"), ("head", "kernel")):
        value = np.asarray(params[layer][leaf], np.float64)
        velocity = np.zeros_like(value)
        for step, gradient in enumerate(gradients):
            decayed = np.asarray(gradient[layer][leaf], np.float64) + (decay * value if leaf == "kernel" else 0)
            velocity = momentum * velocity + decayed
            value = value - rate / (step + 1) * (decayed + momentum * velocity)
        np.testing.assert_allclose(updated[layer][leaf], value, rtol=1e-5, atol=1e-6)


def test_muon_adds_a_nearly_orthogonal_update_to_a_kernel_of_fixed_norm():
    params, gradient = tree(0, scale=3.0), tree(1)
    rate = 0.5
    updated = after([gradient], params=params, name="muon", learning_rate=rate, momentum=0.6)
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    rescaled = kernel * math.sqrt(8) / np.linalg.norm(kernel)
    update = ((rescaled - updated["conv"]["kernel"]) / rate).reshape(-1, 8)
    singular_values = np.linalg.svd(update, compute_uv=False)
    assert singular_values.min() > 0.3
    assert singular_values.max() < 1.5
    # Newton-Schulz keeps the singular vectors of the gradient and makes its singular values nearly equal.
    left, _, right = np.linalg.svd(np.asarray(gradient["conv"]["kernel"], np.float64).reshape(-1, 8), False)
    in_singular_basis = left.T @ update @ right.T
    assert np.abs(in_singular_basis - np.diag(np.diag(in_singular_basis))).max() < 0.05


def test_muon_sgd_sums_gradients_and_orthogonalizes_as_published():
    """cifar10-airbench in float64: the kernel as a matrix (out, in x height x width), three Newton-Schulz steps."""
    params, gradients = tree(0, scale=3.0), [tree(seed) for seed in (1, 2, 3)]
    rate, momentum = 0.5, 0.6
    updated = after(gradients, params=params, name="muon_sgd", learning_rate=rate, momentum=momentum)
    kernel = np.asarray(params["conv"]["kernel"], np.float64).reshape(-1, 8).T
    total = np.zeros_like(kernel)
    for gradient in gradients:
        matrix = np.asarray(gradient["conv"]["kernel"], np.float64).reshape(-1, 8).T
        total = momentum * total + matrix
        update = matrix + momentum * total
        update /= np.linalg.norm(update)
        for _ in range(3):
            square = update @ update.T
            update = 3.4445 * update + (-4.7750 * square + 2.0315 * square @ square) @ update
        kernel = kernel * math.sqrt(8) / np.linalg.norm(kernel) - rate * update
    np.testing.assert_allclose(updated["conv"]["kernel"], kernel.T.reshape(3, 3, 4, 8), rtol=1e-4, atol=1e-5)
    # Optax's momentum, an average without its initial bias, weighs the second gradient differently.
    by_muon = after(gradients, params=params, name="muon", learning_rate=rate, momentum=momentum)
    assert np.abs(by_muon["conv"]["kernel"] - updated["conv"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", ["sgd", "muon_sgd"])
def test_uniform_decay_acts_on_biases_and_at_any_multiplier_equally(name):
    params, zeros = tree(0), jax.tree.map(jnp.zeros_like, tree(0))
    rules = (("whiten", 0.0), ("head", 4.0), ("norm", 0.5), (".*", 1.0))
    rates = {"learning_rate": 0.5, "sgd_learning_rate": 0.5, "momentum": 0.0, "sgd_momentum": 0.0}
    updated = after([zeros], params=params, name=name, rules=rules, weight_decay=0.1, uniform_decay=True, **rates)
    for layer, leaf in (("norm", "bias"), ("head", "kernel"), *([("conv", "kernel")] if name == "sgd" else [])):
        np.testing.assert_allclose(updated[layer][leaf], 0.95 * params[layer][leaf], rtol=1e-5)


def test_muon_sgd_trains_all_but_the_kernels_as_sgd_does():
    params, gradients = tree(0), [tree(seed) for seed in (1, 2, 3)]
    rates = {"sgd_learning_rate": 0.05, "sgd_momentum": 0.8, "learning_rate": 0.3, "momentum": 0.6}
    updated = after(gradients, params=params, name="muon_sgd", weight_decay=0.01, **rates)
    expected = after(gradients, params=params, name="sgd", weight_decay=0.01, learning_rate=0.05, momentum=0.8)
    for layer, leaf in (("norm", "bias"), ("head", "kernel")):
        np.testing.assert_array_equal(updated[layer][leaf], expected[layer][leaf])


def test_the_whitening_bias_trains_at_a_falling_rate_and_stops():
    params = {**tree(0), "whiten_bias": {"bias": jnp.ones(4)}}
    ones = jax.tree.map(jnp.ones_like, params)
    settings = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "whiten_bias_updates": 4}
    biases = [after([ones] * updates, params=params, **settings)["whiten_bias"]["bias"][0] for updates in range(7)]
    np.testing.assert_allclose(-np.diff(biases), [0.1, 0.075, 0.05, 0.025, 0, 0], atol=1e-6)
    assert biases[4] == biases[5] == biases[6]
    conv = after([ones] * 6, params=params, **settings)["conv"]["kernel"]
    np.testing.assert_allclose(conv, params["conv"]["kernel"] - 0.6, rtol=1e-5, atol=1e-5)


def test_whitening_epochs_of_a_model_without_the_layer_are_refused():
    with pytest.raises(UsageError, match="whiten_bias_epochs: this model has no layer whiten_bias"):
        optimizer.build(settings_of(), tree(0), schedule=lambda step: 1.0, whiten_bias_updates=3)


def test_the_arrays_of_the_optimizer_keep_their_names_in_checkpoints():
    assert str(optimizer.Rule(0.5, False, True)) == "Rule(multiplier=0.5, by_muon=False, in_head=True)"
    assert str(optimizer.Rule(0.5, False, False, True)) != str(optimizer.Rule(0.5, False, False))
