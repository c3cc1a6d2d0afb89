"""Every model of `MODELS` keeps the contract in the docstring of `cifar_jax.models`."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import experiment as experiments
from cifar_jax import models
from cifar_jax.config import default_config
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.data.batches import place
from cifar_jax.errors import UsageError
from cifar_jax.models import MODELS
from cifar_jax.models.freezing import keep_statistics
from cifar_jax.training.optimizer import match_rules
from cifar_jax.training.state import initial_state, initial_variables
from cifar_jax.training.step import compile_epoch_order, compile_steps

pytestmark = pytest.mark.slow

# Settings that make each model small.
SMALL = {
    "airbench94": {"widths": (8, 16)},
    "airbench96": {"widths": (8, 16), "convs_per_block": 3},
    "cnn": {"widths": (8, 16), "convs_per_block": 1},
    "resnet": {"stage_sizes": (1, 1, 1, 1), "width": 8, "block": "basic", "stem": "small"},
    "wide_resnet": {"stage_sizes": (1, 1, 1), "width": 8},
}
HEAD_ONLY = (("^head/", 1.0), (".*", 0.0))


def image_set(size, seed):
    random = np.random.default_rng(seed)
    images_NHWC, labels_N = random.integers(0, 256, (size, 16, 16, 3), np.uint8), random.integers(0, 5, size, np.int32)
    return ImageSet(images_NHWC, labels_N, tuple("abcde"))


def experiment_of(name, *, seed=0, dropout=0.0, rules=((".*", 1.0),), **changes):
    config = default_config()
    config.model.update(name=name, dropout=dropout, **SMALL[name])
    config.optimizer.rules = rules
    config.train.update(batch_size=8, epochs=1, seed=seed)
    config.mesh.devices = 1
    config.update_from_flattened_dict(changes)
    data = Dataset("synthetic", "a test", image_set(16, 0), image_set(8, 1), validation=image_set(8, 2))
    return experiments.assemble(config, data)


def trained(experiment):
    """The state after two steps."""
    state = initial_state(experiment)
    order = compile_epoch_order(experiment)(state.step, state.step)
    split = place(experiment.dataset.train, experiment.mesh)
    state, _ = compile_steps(experiment)(state, split, order, steps=2)
    return jax.device_get(state)


def with_random_head(variables):
    """With the initial head, which is zero, all logits would be equal."""
    kernel_CK = np.random.default_rng(0).normal(size=variables["params"]["head"]["kernel"].shape).astype(np.float32)
    head = {**variables["params"]["head"], "kernel": kernel_CK}
    return {**variables, "params": {**variables["params"], "head": head}}


def assert_identical(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_every_model_has_small_settings_here():
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_training_the_head_only_changes_no_other_parameter_and_no_statistic(name):
    experiment = experiment_of(name, rules=HEAD_ONLY)
    before, after = initial_variables(experiment), trained(experiment)
    assert_identical(before["batch_stats"], after.batch_stats)
    assert_identical({**before["params"], "head": None}, {**after.params, "head": None})
    assert (before["params"]["head"]["kernel"] != after.params["head"]["kernel"]).any()


# The layers towards the input.
FROZEN = {**dict.fromkeys(MODELS, "^(whiten|block1)"), **dict.fromkeys(("resnet", "wide_resnet"), "^(stem|stage[12])")}


@pytest.mark.parametrize("name", MODELS)
def test_frozen_layers_and_their_statistics_stay_bit_identical_while_the_others_train(name):
    experiment = experiment_of(name, rules=((FROZEN[name], 0.0), (".*", 1.0)))
    before, after = initial_variables(experiment), trained(experiment)
    for kind, trees in (("params", after.params), ("batch_stats", after.batch_stats)):
        for layer, tree in trees.items():
            pairs = list(zip(jax.tree.leaves(before[kind][layer]), jax.tree.leaves(tree), strict=True))
            if re.search(FROZEN[name], layer):
                assert all(old.tobytes() == np.asarray(new).tobytes() for old, new in map(np.asarray, pairs)), layer
            else:
                assert any((old != new).any() for old, new in pairs), layer


@pytest.mark.parametrize("name", MODELS)
def test_statistics_of_frozen_layers_change_without_freeze_statistics(name):
    experiment = experiment_of(name, rules=HEAD_ONLY, **{"model.freeze_statistics": False})
    before, after = initial_variables(experiment), trained(experiment)
    pairs = zip(jax.tree.leaves(before["batch_stats"]), jax.tree.leaves(after.batch_stats), strict=True)
    assert all((old != new).any() for old, new in pairs)


def test_a_key_of_another_model_is_reported(caplog):
    config = default_config()
    config.model.update(name="resnet", widths=(8,), width=8)
    models.report_unused_keys(config.model)
    assert caplog.messages == ["--config.model.widths=(8,) has no effect: a resnet does not use it"]
    assert all(key in config.model for model in MODELS.values() for key in model.config_keys or ())


@pytest.mark.parametrize("name", MODELS)
def test_layer_decay_reduces_learning_rates_towards_the_input(name):
    experiment = experiment_of(name, **{"optimizer.layer_decay": 0.5})
    images_NHWC = jnp.zeros((1, 16, 16, 3))
    rules = match_rules(experiment.config.optimizer, experiment.abstract_variables["params"])
    # Independent of the names: the order in which the layers run.
    order = {}

    def record(call, arguments, keywords, context):
        if context.module.path:
            order.setdefault(context.module.path[0])
        return call(*arguments, **keywords)

    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(experiment.model.init, train=False), jax.random.key(0), images_NHWC)
    rates = [max(rule.multiplier for rule in jax.tree.leaves(rules[layer])) for layer in order if layer in rules]
    assert rates == sorted(rates)
    assert rates[-1] == 1
    assert len(set(rates)) > 2


@pytest.mark.parametrize("name", MODELS)
def test_the_head_on_cached_features_gives_the_logits_of_the_network(name):
    experiment = experiment_of(name, dropout=0.5)
    variables = with_random_head(initial_variables(experiment))
    images_NHWC = experiment.preprocessing(jnp.asarray(experiment.dataset.test.images_NHWC))
    apply = functools.partial(experiment.model.apply, train=False)
    backbone = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}
    features_NC = apply(backbone, images_NHWC, method="features")
    logits_NK = apply({"params": {"head": variables["params"]["head"]}}, features_NC, method="classify")
    assert (features_NC.dtype, logits_NK.dtype, logits_NK.shape) == (jnp.float32, jnp.float32, (8, 5))
    np.testing.assert_allclose(logits_NK, apply(variables, images_NHWC), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_only(name):
    plain, dropping = (experiment_of(name, dropout=dropout, rules=HEAD_ONLY) for dropout in (0.0, 0.5))
    variables = with_random_head(initial_variables(dropping))
    assert_identical(variables, with_random_head(initial_variables(plain)))
    images_NHWC = plain.dataset.test.images_NHWC
    assert_identical(plain.logits(variables, images_NHWC), dropping.logits(variables, images_NHWC))

    @jax.jit
    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        with keep_statistics(dropping.frozen_norms):
            return dropping.model.apply(variables, dropping.preprocessing(images_NHWC), train=True, rngs=rngs)

    assert_identical(logits(1), logits(1))
    assert (logits(1) != logits(2)).any()


@pytest.mark.parametrize("name", MODELS)
def test_the_input_of_a_model_that_takes_pretrained_weights_can_be_checked(name):
    experiment = experiment_of(name)
    images_NHWC = jnp.zeros((1, 16, 16, 3))
    first_norm = jax.eval_shape(experiment.model.first_norm, experiment.abstract_variables, images_NHWC)
    if not experiment.model.takes_pretrained_weights:
        assert first_norm is None
    else:
        x_NHWC, statistics = first_norm
        assert statistics["mean"].shape == statistics["var"].shape == x_NHWC.shape[-1:]


@pytest.mark.parametrize("name", MODELS)
def test_parameters_features_and_logits_are_float32_when_the_computation_is_bfloat16(name):
    experiment = experiment_of(name, **{"model.dtype": "bfloat16"})
    assert experiment.model.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(experiment.abstract_variables)} == {jnp.dtype("float32")}
    images_NHWC = experiment.dataset.test.images_NHWC
    logits = jax.eval_shape(experiment.logits, experiment.abstract_variables, images_NHWC)
    assert (logits.shape, logits.dtype) == ((8, 5), jnp.float32)
    apply = functools.partial(experiment.model.apply, train=False, method="features")
    assert jax.eval_shape(apply, experiment.abstract_variables, jnp.zeros((8, 16, 16, 3))).dtype == jnp.float32


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_determines_the_initial_values(name):
    first, repeated, other = (initial_variables(experiment_of(name, seed=seed)) for seed in (1, 1, 2))
    assert_identical(first, repeated)
    abstract = experiment_of(name).abstract_variables
    jax.tree.map(lambda value, expected: np.testing.assert_equal(value.shape, expected.shape), first, abstract)
    params = [tree["params"] for tree in (first, other)]
    differing = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), *params)
    changed_layers = {path[0].key for path, differs in jax.tree.leaves_with_path(differing) if differs}
    assert len(changed_layers) >= 2


def test_an_unknown_model_is_refused_with_the_nearest_name():
    config = default_config().model
    config.name = "resnt"
    with pytest.raises(UsageError, match=r"--config\.model\.name=resnt.*nearest is 'resnet'"):
        models.find(config)


def test_pretrained_weights_for_a_model_that_takes_none_are_refused():
    config = default_config().model
    config.pretrained = "timm/resnet50.a1_in1k"
    with pytest.raises(UsageError, match=r"--config\.model\.name=resnet"):
        models.find(config)
