"""airbench94 gives the logits, gradients and trained parameters of the published algorithm in PyTorch.

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
from cifar_jax.training.losses import smoothed_targets, training_loss
from cifar_jax.training.state import initial_state
from cifar_jax.training.step import compile_epoch_order, compile_steps

torch = pytest.importorskip("torch")
import airbench_oracle  # noqa: E402 (needs torch)

pytestmark = [pytest.mark.torch, pytest.mark.slow]

WIDTHS, CLASSES, BATCH, EPOCHS, STEPS_PER_EPOCH, WHITEN_BIAS_STEPS = (8, 16, 12), 5, 20, 3, 2, 3
DECAY = 1e-3  # per image; the published 2e-6 would not show in six steps


def image_set(size, seed):
    """Smooth random images."""
    random = np.random.default_rng(seed)
    coarse_NHWC = random.integers(0, 256, (size, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images_NHWC = (coarse_NHWC + random.integers(0, 256, coarse_NHWC.shape)) // 2
    return ImageSet(images_NHWC.astype(np.uint8), random.integers(0, CLASSES, size, np.int32), tuple("abcde"))


def experiment_of(model="airbench94", convs=2):
    config = load_config("cnn_94")
    config.model.update(name=model, widths=WIDTHS, convs_per_block=convs)
    config.augment.update(flip="none", crop_padding=0)
    config.train.update(batch_size=BATCH, epochs=EPOCHS)
    config.schedule.whiten_bias_epochs = WHITEN_BIAS_STEPS / STEPS_PER_EPOCH
    config.optimizer.update(sgd_learning_rate=0.053 * BATCH, weight_decay=DECAY / 0.053)
    config.mesh.devices = 1
    size = BATCH * STEPS_PER_EPOCH + 1
    data = Dataset("synthetic", "a test", image_set(size, 0), image_set(8, 1), validation=image_set(8, 2))
    return experiments.assemble(config, data)


NETWORKS = {
    "airbench94": {},
    "airbench96": {"convs": 3, "logit_scale": 1 / 9, "new_statistics": 0.1},
}


def normalized(experiment, images_NHWC):
    """The model's input, for both."""
    images_NHWC = np.asarray(experiment.preprocessing(images_NHWC))
    return images_NHWC, airbench_oracle.as_tensor(images_NHWC).permute(0, 3, 1, 2)


def assert_close(values, expected, tolerance):
    """Up to `tolerance` of the largest value of each array."""
    assert values.keys() == expected.keys()
    for layer in expected:
        for name, array in expected[layer].items():
            error = np.abs(values[layer][name] - array).max() / np.abs(array).max()
            assert error < tolerance, f"{layer}/{name}: {error:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients(name):
    experiment = experiment_of(name, convs=NETWORKS[name].get("convs", 2))
    state = jax.device_get(initial_state(experiment))
    network = airbench_oracle.Network(WIDTHS, CLASSES, **NETWORKS[name]).load(state.variables)
    images_NHWC, images_NCHW = normalized(experiment, experiment.splits["train"].images_NHWC[:BATCH])
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

    expected_NK = network.train()(images_NCHW)
    loss = torch.nn.functional.cross_entropy(expected_NK, torch.tensor(labels_N).long(), label_smoothing=0.2)
    loss.backward()
    assert_close({"logits": {"": logits_NK}}, {"logits": {"": airbench_oracle.as_numpy(expected_NK)}}, 1e-4)
    expected = network.as_flax(of=lambda parameter: parameter.grad)
    assert expected["whiten"].pop("kernel") is None  # not trained
    assert_close(jax.device_get(gradients), expected, 1e-3)


def test_training_steps():
    experiment = experiment_of()
    run, order_of = compile_steps(experiment), compile_epoch_order(experiment)
    split, seed = place(experiment.splits["train"], experiment.mesh), replicate(np.int32(0), experiment.mesh)
    state = initial_state(experiment)
    before = jax.tree.map(np.array, state)  # copies: the buffers of a state are reused in the next step
    network = airbench_oracle.Network(WIDTHS, CLASSES).load(before.variables).train()
    steps = EPOCHS * STEPS_PER_EPOCH
    published = {"decay": DECAY * BATCH, "bias_rate": 0.053, "head_rate": 0.67, "muon_rate": 0.24}
    training = airbench_oracle.Training(network, steps=steps, whiten_bias_steps=WHITEN_BIAS_STEPS, **published)

    loss_sum, whiten_biases = 0.0, [before.params["whiten_bias"]["bias"]]
    for step in range(steps):
        order = order_of(state.step, seed)
        rows_B = np.asarray(order.rows_EB[step % STEPS_PER_EPOCH])
        state, metrics = run(state, split, order, steps=1)
        _, images_NCHW = normalized(experiment, experiment.splits["train"].images_NHWC[rows_B])
        labels_B = torch.tensor(experiment.splits["train"].labels_N[rows_B]).long()
        loss_sum = training.update(images_NCHW, labels_B) * BATCH + (loss_sum if step % STEPS_PER_EPOCH else 0)
        assert float(metrics.loss_sum) == pytest.approx(loss_sum, rel=1e-3)
        assert_close(jax.device_get(state.params), network.as_flax(), 2e-3)
        whiten_biases.append(np.array(state.params["whiten_bias"]["bias"]))

    moves = [a.tobytes() != b.tobytes() for a, b in itertools.pairwise(whiten_biases)]
    assert moves == [True] * WHITEN_BIAS_STEPS + [False] * (steps - WHITEN_BIAS_STEPS)
    assert before.params["whiten"]["kernel"].tobytes() == np.asarray(state.params["whiten"]["kernel"]).tobytes()

    after = jax.tree.map(np.array, state)
    images_NHWC = experiment.splits["test"].images_NHWC
    logits_NK = jax.jit(experiment.logits)(after.variables, images_NHWC)
    trained = airbench_oracle.Network(WIDTHS, CLASSES).load(after.variables).eval()
    with torch.no_grad():
        expected_NK = airbench_oracle.as_numpy(trained(normalized(experiment, images_NHWC)[1]))
    assert_close({"logits": {"": logits_NK}}, {"logits": {"": expected_NK}}, 1e-3)
    for name, norm in network.named_children():
        if "norm" in name:
            n = BATCH * 3 * 3  # at least; PyTorch divides by n - 1
            statistics = after.batch_stats[name]
            np.testing.assert_allclose(statistics["mean"], norm.running_mean, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(statistics["var"], norm.running_var, rtol=2 / n, atol=1e-3)
