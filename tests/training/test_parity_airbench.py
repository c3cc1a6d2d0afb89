"""airbench94 and 96 give the logits, gradients and trained parameters of the published algorithms in PyTorch.

Run with `pytest -m torch`. The tests are skipped where PyTorch is not installed.
"""

import itertools

import jax
import numpy as np
import pytest
from jax import lax

from cifar_jax import experiment as experiments
from cifar_jax.config import load_config
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.data.batches import place
from cifar_jax.devices import DATA_AXIS, REPLICATED, replicate, split_over_devices
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.training.losses import smoothed_targets, training_loss
from cifar_jax.training.proxy import chosen_images, proxy_of
from cifar_jax.training.state import initial_state
from cifar_jax.training.step import compile_epoch_order, compile_steps

torch = pytest.importorskip("torch")
import airbench_oracle  # noqa: E402 (needs torch)

pytestmark = [pytest.mark.torch, pytest.mark.slow]

WIDTHS, CLASSES, BATCH, EPOCHS, STEPS_PER_EPOCH = (8, 16, 12), 5, 20, 3, 2
STEPS = EPOCHS * STEPS_PER_EPOCH
NETWORKS = {"cnn_94": {}, "cnn_96": {"convs": 3, "logit_scale": 1 / 9, "new_statistics": 0.1}}
NETWORKS["cnn_96_faster"] = NETWORKS["cnn_96"]


def image_set(size, seed):
    """Smooth random images."""
    random = np.random.default_rng(seed)
    coarse_NHWC = random.integers(0, 256, (size, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images_NHWC = (coarse_NHWC + random.integers(0, 256, coarse_NHWC.shape)) // 2
    return ImageSet(images_NHWC.astype(np.uint8), random.integers(0, CLASSES, size, np.int32), tuple("abcde"))


def experiment_of(recipe, **changes):
    config = load_config(recipe)
    config.model.widths = WIDTHS
    config.augment.update(flip="none", crop_padding=0, cutout=0)
    config.train.update(batch_size=BATCH, epochs=EPOCHS)
    config.mesh.devices = 1
    config.update_from_flattened_dict(changes)
    size = BATCH * STEPS_PER_EPOCH + 1
    data = Dataset("synthetic", "a test", image_set(size, 0), image_set(8, 1), validation=image_set(8, 2))
    return experiments.assemble(config, data)


def network_of(recipe, variables):
    return airbench_oracle.Network(WIDTHS, CLASSES, **NETWORKS[recipe]).load(variables)


def normalized(experiment, images_NHWC):
    """The model's input, for both."""
    images_NHWC = np.asarray(experiment.preprocessing(images_NHWC))
    return images_NHWC, airbench_oracle.as_tensor(images_NHWC).permute(0, 3, 1, 2)


def assert_close(array, expected, tolerance, name="logits"):
    """Up to `tolerance` of the largest value."""
    error = np.abs(array - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{name}: {error:.1e}"


def assert_trees_close(values, expected, tolerance):
    assert values.keys() == expected.keys()
    for layer in expected:
        for name, array in expected[layer].items():
            assert_close(values[layer][name], array, tolerance, f"{layer}/{name}")


@pytest.mark.parametrize(("recipe", "contrast"), [("cnn_94", 1.0), ("cnn_96", 0.1)])
def test_logits_and_gradients(recipe, contrast):
    """With little contrast, BatchNorm's epsilon shows."""
    experiment = experiment_of(recipe)
    state = jax.device_get(initial_state(experiment))
    network = network_of(recipe, state.variables).train()
    images_NHWC, images_NCHW = normalized(experiment, experiment.splits["train"].images_NHWC[:BATCH])
    images_NHWC, images_NCHW = contrast * images_NHWC, contrast * images_NCHW
    labels_N = experiment.splits["train"].labels_N[:BATCH]
    targets_NK = smoothed_targets(labels_N, CLASSES, 0.2)

    def loss_of(params, images_NHWC):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits_NK, _ = experiment.model.apply(variables, images_NHWC, train=True, mutable=["batch_stats"])
        return lax.pmean(training_loss(logits_NK, targets_NK), DATA_AXIS), logits_NK

    differentiate = jax.grad(loss_of, has_aux=True)
    specs = {"in_specs": (REPLICATED, REPLICATED), "out_specs": REPLICATED}
    gradients, logits_NK = jax.jit(split_over_devices(differentiate, experiment.mesh, **specs))(
        replicate(state.params, experiment.mesh), replicate(images_NHWC, experiment.mesh)
    )

    expected_NK = network(images_NCHW)
    (airbench_oracle.loss_of(expected_NK, torch.tensor(labels_N).long()) / BATCH).backward()
    assert_close(logits_NK, airbench_oracle.as_numpy(expected_NK), 1e-4)
    expected = network.as_flax(of=lambda parameter: parameter.grad)
    assert expected["whiten"].pop("kernel") is None  # not trained
    assert_trees_close(jax.device_get(gradients), expected, 1e-3)


def train_both(experiment, training):
    """All steps in both, compared after each; the states after 0, 1, ... steps."""
    run, order_of = compile_steps(experiment), compile_epoch_order(experiment)
    train, seed = experiment.splits["train"], replicate(np.int32(0), experiment.mesh)
    split, state = place(train, experiment.mesh), initial_state(experiment)
    states = [jax.tree.map(np.array, state)]  # copies: the buffers of a state are reused in the next step
    loss_sum = 0.0
    for step in range(STEPS):
        order = order_of(state.step, seed)
        rows_B = np.asarray(order.rows_EB[step % STEPS_PER_EPOCH])
        state, metrics = run(state, split, order, steps=1)
        _, images_NCHW = normalized(experiment, train.images_NHWC[rows_B])
        loss_sum = training.update(images_NCHW, torch.tensor(train.labels_N[rows_B]).long()) + (
            loss_sum if step % STEPS_PER_EPOCH else 0
        )
        assert float(metrics.loss_sum) == pytest.approx(loss_sum, rel=1e-3)
        states.append(jax.tree.map(np.array, state))
        assert_trees_close(states[-1].params, training.network.as_flax(), 2e-3)
        for name, norm in training.network.named_children():
            if "norm" in name:
                statistics = states[-1].batch_stats[name]
                np.testing.assert_allclose(statistics["mean"], norm.running_mean, rtol=2e-3, atol=2e-3)
                smallest = chosen_images(experiment) * 3 * 3  # values of a channel; PyTorch divides by their number - 1
                np.testing.assert_allclose(statistics["var"], norm.running_var, rtol=2 / smallest, atol=2e-3)
    return states


def assert_evaluates_as_published(recipe, experiment, variables):
    """With test-time augmentation."""
    test, network = experiment.splits["test"], network_of(recipe, variables).eval()
    predict = compile_predict(experiment.mesh, forward=experiment.logits, tta=True)
    split, size = place(test, experiment.mesh), {"size": len(test), "batch_size": len(test), "mesh": experiment.mesh}
    logits_NK = predict_split(predict, replicate(variables, experiment.mesh), split, **size)["tta"]
    expected_NK = airbench_oracle.six_views(network, normalized(experiment, test.images_NHWC)[1])
    assert_close(logits_NK, airbench_oracle.as_numpy(expected_NK), 1e-3)


def test_training_of_airbench94():
    whiten_bias_steps, decay = 3, 1e-3  # the published decay, 2e-6, would not show in six steps
    changes = {
        "schedule.whiten_bias_epochs": whiten_bias_steps / STEPS_PER_EPOCH,
        "optimizer.sgd_learning_rate": 0.053 * BATCH,
        "optimizer.weight_decay": decay / 0.053,
    }
    experiment = experiment_of("cnn_94", **changes)
    network = network_of("cnn_94", initial_state(experiment).variables).train()
    settings = {"steps": STEPS, "whiten_bias_steps": whiten_bias_steps, "decay": decay * BATCH}
    states = train_both(experiment, airbench_oracle.Training94(network, **settings))
    biases = [state.params["whiten_bias"]["bias"].tobytes() for state in states]
    moves = [a != b for a, b in itertools.pairwise(biases)]
    assert moves == [True] * whiten_bias_steps + [False] * (STEPS - whiten_bias_steps)
    kernels = [state.params["whiten"]["kernel"].tobytes() for state in states]
    assert len(set(kernels)) == 1
    assert_evaluates_as_published("cnn_94", experiment, states[-1].variables)


def test_training_of_airbench96():
    decay = 12.0  # the published decay, 0.012, would not show in six steps
    changes = {
        "schedule.whiten_bias_epochs": 0.0,
        "schedule.warmup_percent": 34.0,
        "optimizer.learning_rate": load_config("cnn_96").optimizer.learning_rate * BATCH / 1024,
        "optimizer.weight_decay": decay / 9,
    }
    experiment = experiment_of("cnn_96", **changes)
    network = network_of("cnn_96", initial_state(experiment).variables).train()
    settings = {"steps": STEPS, "warmup_steps": 2, "batch_size": BATCH, "decay": decay}
    states = train_both(experiment, airbench_oracle.Training96(network, **settings))
    jax.tree.map(np.testing.assert_array_equal, states[-1].slow["params"], states[-1].params)
    assert_evaluates_as_published("cnn_96", experiment, states[-1].variables)


def test_training_of_airbench96_faster():
    decay, proxy_widths = 12.0, (4, 8, 8)
    rate = load_config("cnn_96_faster").optimizer.learning_rate * BATCH / 1024
    changes = {
        **{"schedule.whiten_bias_epochs": 0.0, "schedule.warmup_percent": 34.0, "train.proxy_widths": proxy_widths},
        **{"optimizer.learning_rate": rate, "optimizer.weight_decay": 2 * decay / 9},
    }
    experiment = experiment_of("cnn_96_faster", **changes)
    state = initial_state(experiment)
    network = network_of("cnn_96_faster", state.variables).train()
    small = proxy_of(experiment)
    statistics = jax.tree.map(np.ones_like, small.abstract_variables["batch_stats"])  # of no use
    proxy = airbench_oracle.Network(proxy_widths, CLASSES, logit_scale=1 / 9)
    proxy = proxy.load({"params": jax.device_get(state.proxy["params"]), "batch_stats": statistics}).train()
    settings = {"steps": STEPS, "warmup_steps": 2, "batch_size": BATCH, "decay": decay, "chosen": BATCH // 2}
    training = airbench_oracle.Training96Faster(network, proxy, **settings)
    states = train_both(experiment, training)
    proxies = [state.proxy["params"] for state in states]
    expected = proxy.as_flax()
    assert not expected.pop("whiten_bias")["bias"].any() and not proxies[-1]["whiten_bias"]["bias"].any()
    assert_trees_close({layer: proxies[-1][layer] for layer in expected}, expected, 2e-3)
    changes = [not all(map(np.array_equal, *map(jax.tree.leaves, pair))) for pair in itertools.pairwise(proxies)]
    assert changes == [step % 4 == 0 for step in range(STEPS)]
    assert len({tuple(rows) for rows in training.choices}) > 1
    assert_evaluates_as_published("cnn_96_faster", experiment, states[-1].variables)
