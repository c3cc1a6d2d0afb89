"""The hardest images of a batch, on one device and on several, and what has no proxy."""

import jax
import numpy as np
import pytest

from cifar_jax import experiment as experiments
from cifar_jax.config import load_config
from cifar_jax.data.batches import place
from cifar_jax.devices import REPLICATED, SHARDED, replicate, split_over_devices
from cifar_jax.errors import UsageError
from cifar_jax.training import proxy
from cifar_jax.training.requirements import require_trainable
from cifar_jax.training.state import LookaheadState, initial_state, make_optimizer
from cifar_jax.training.step import compile_epoch_order, compile_steps

SMALL = {
    **{"data.name": "shapes", "data.limit": 64, "model.widths": (8, 8), "train.proxy_widths": (4, 4)},
    **{"train.batch_size": 32, "train.epochs": 2, "train.lookahead_steps": 0},
}


def small(recipe="cnn_96_faster", **changes):
    return experiments.build(load_config(recipe, **SMALL | changes), allow_fallback=False)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_images_of_the_highest_loss_are_chosen_in_their_order(devices):
    experiment = small(**{"mesh.devices": devices, "train.hardest_fraction": 0.25})
    state, network = initial_state(experiment).proxy, proxy.proxy_of(experiment)
    images_BHWC = np.random.default_rng(0).normal(size=(32, 32, 32, 3)).astype(np.float32)
    labels_B = np.arange(32) % 10
    targets_BK = np.eye(10, dtype=np.float32)[labels_B]
    optimizer = make_optimizer(network, every=proxy.EVERY)

    def on_device(state, images_BHWC, targets_BK):
        state, chosen_C, _ = proxy.hardest(network, state, images_BHWC, targets_BK, step=1, optimizer=optimizer)
        return chosen_C, proxy.only(chosen_C, images_BHWC), proxy.only(chosen_C, targets_BK)

    specs = {"in_specs": (REPLICATED, SHARDED, SHARDED), "out_specs": (REPLICATED, SHARDED, SHARDED)}
    run = jax.jit(split_over_devices(on_device, experiment.mesh, **specs))
    chosen_C, images_CHWC, targets_CK = map(np.asarray, run(state, images_BHWC, targets_BK))

    def logits(params, images_BHWC):
        return network.model.apply({"params": params}, images_BHWC, train=True, mutable=["batch_stats"])[0]

    on_one = split_over_devices(logits, small(**{"mesh.devices": 1}).mesh, in_specs=REPLICATED, out_specs=REPLICATED)
    logits_BK = np.float64(jax.jit(on_one)(jax.device_get(state["params"]), images_BHWC))
    losses_B = np.log(np.exp(logits_BK).sum(1)) - logits_BK[np.arange(32), labels_B]
    np.testing.assert_array_equal(chosen_C, np.sort(np.argsort(losses_B)[-8:]))
    np.testing.assert_array_equal(images_CHWC, images_BHWC[chosen_C])
    np.testing.assert_array_equal(targets_CK, targets_BK[chosen_C])


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [0, 2])
def test_one_device_and_four_give_the_same_training(lookahead):
    states = []
    for devices in (1, 4):
        experiment = small(**{"mesh.devices": devices, "train.lookahead_steps": lookahead})
        state, seed = initial_state(experiment), replicate(np.int32(0), experiment.mesh)
        order = compile_epoch_order(experiment)(state.step, seed)
        split = place(experiment.splits["train"], experiment.mesh)
        state, metrics = compile_steps(experiment)(state, split, order, steps=1)
        assert isinstance(state, LookaheadState) and bool(state.slow) == bool(lookahead)
        assert int(metrics.count) == 16
        states.append(jax.device_get((state.params, state.proxy, state.metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *states)


def test_a_loss_of_the_proxy_that_is_not_finite_is_recorded():
    experiment = small(**{"mesh.devices": 1})
    state, run = initial_state(experiment), compile_steps(experiment)
    head = {"kernel": state.proxy["params"]["head"]["kernel"] + np.float32(np.inf)}
    state = state.replace(proxy=state.proxy | {"params": state.proxy["params"] | {"head": head}})
    order = compile_epoch_order(experiment)(state.step, replicate(np.int32(0), experiment.mesh))
    _, metrics = run(state, place(experiment.splits["train"], experiment.mesh), order, steps=1)
    assert np.isfinite(metrics.loss_sum) and int(metrics.first_bad_step) == 0


def test_without_a_fraction_there_is_no_proxy():
    experiment = small("cnn_96", **{"train.hardest_fraction": 1.0, "train.proxy_widths": (32, 64, 64)})
    assert not proxy.is_on(experiment) and not hasattr(initial_state(experiment), "proxy")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train.hardest_fraction": 0.01}, "0 images of a batch of 32 do not divide by the 4 devices"),
        ({"train.hardest_fraction": 0.2}, "6 images of a batch of 32 do not divide"),
        ({"model.name": "resnet", "model.stage_sizes": (1,), "model.width": 4}, r"a resnet has no model\.widths"),
        ({"train.proxy_widths": (4,) * 6}, "block"),
    ],
)
def test_what_has_no_proxy_is_refused(changes, message):
    config = load_config("cnn_scratch", **{"train.hardest_fraction": 0.5, "mesh.devices": 4} | SMALL_CNN)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UsageError, match=message):
        require_trainable(experiments.without_data(config))


SMALL_CNN = {name: value for name, value in SMALL.items() if not name.startswith("train.look")}


@pytest.mark.parametrize("changes", [{"optimizer.accumulate_steps": 2}, {"train.cached_features": True}])
def test_a_proxy_that_cannot_see_the_images_is_refused(changes):
    with pytest.raises(UsageError, match="a proxy sees every image of every batch"):
        load_config("cnn_96_faster", **changes)
