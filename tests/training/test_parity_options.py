"""Options of the training step, SAM and class weights, against PyTorch in float64, on one device and on eight.

Run with `pytest -m torch`. The tests are skipped where PyTorch is not installed.
"""

import jax
import numpy as np
import pytest

from cifar_jax import experiment as experiments
from cifar_jax.config import default_config
from cifar_jax.data import Dataset, ImageSet
from cifar_jax.data.batches import place
from cifar_jax.devices import replicate
from cifar_jax.errors import UsageError
from cifar_jax.training.requirements import require_trainable
from cifar_jax.training.state import initial_state
from cifar_jax.training.step import compile_epoch_order, compile_steps

torch = pytest.importorskip("torch")
functional = torch.nn.functional
pytestmark = [pytest.mark.torch, pytest.mark.slow]

CLASSES, BATCH, STEPS, MOMENTUM, DECAY, RATE = 4, 16, 3, 0.9, 0.01, 0.5
KERNEL, BIAS, HEAD = ("block1_conv1", "kernel"), ("block1_norm1", "bias"), ("head", "kernel")
PARAMETERS = (KERNEL, BIAS, HEAD)


def image_set(size, seed):
    """Unbalanced: half of the labels are 0, a quarter 1 and so on."""
    random = np.random.default_rng(seed)
    labels_N = np.minimum(random.geometric(0.5, size) - 1, CLASSES - 1).astype(np.int32)
    labels_N[:CLASSES] = np.arange(CLASSES)
    return ImageSet(random.integers(0, 256, (size, 8, 8, 3), np.uint8), labels_N, tuple("abcd"))


def experiment_of(devices, **changes):
    config = default_config()
    config.augment.update(flip="none", crop_padding=0)
    config.model.update(widths=(8,), convs_per_block=1, whitening=False)
    config.optimizer.update(learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    config.schedule.name = "constant"
    config.train.update(batch_size=BATCH, epochs=1, label_smoothing=0.1)
    config.mesh.devices = devices
    config.update_from_flattened_dict(changes)
    data = Dataset("synthetic", "a test", image_set(50, 0), image_set(8, 1), validation=image_set(8, 2))
    return experiments.assemble(config, data)


class Network:
    """The CNN with one convolution, written out. BatchNorm has a bias, and its momentum is 0.6."""

    def __init__(self, variables):
        params, self.statistics = jax.device_get((variables["params"], variables["batch_stats"]["block1_norm1"]))
        self.parameters = {
            path: torch.tensor(np.float64(params[path[0]][path[1]]), requires_grad=True) for path in PARAMETERS
        }

    def logits(self, images_NHWC, *, track):
        kernel_HWIO, bias_C, head_CK = self.parameters.values()
        x_NCHW = torch.tensor(np.float64(images_NHWC)).permute(0, 3, 1, 2)
        x_NCHW = functional.conv2d(x_NCHW, kernel_HWIO.permute(3, 2, 0, 1), padding=1)
        x_NCHW = x_NCHW.reshape(*x_NCHW.shape[:2], 4, 2, 4, 2).amax((3, 5))  # ties share the gradient
        mean_C, var_C = x_NCHW.mean((0, 2, 3)), x_NCHW.var((0, 2, 3), unbiased=False)
        if track:
            for name, value in (("mean", mean_C), ("var", var_C)):
                self.statistics[name] = 0.6 * self.statistics[name] + 0.4 * value.detach().numpy()
        normal_NHWC = (x_NCHW.permute(0, 2, 3, 1) - mean_C) / (var_C + 1e-5).sqrt() + bias_C
        return functional.gelu(normal_NHWC, approximate="tanh").amax((1, 2)) @ head_CK / 9


def train_by_torch(experiment, batches, *, radius=0.0, trained=PARAMETERS, **loss_settings):
    """SGD; with a `radius` in the two steps of github.com/davda54/sam, with running statistics of the first."""
    network, losses = Network(initial_state(experiment).variables), []
    parameters = [network.parameters[path] for path in trained]
    kernels = [value for value in parameters if value.ndim > 1]
    biases = [value for value in parameters if value.ndim == 1]
    groups = [{"params": kernels, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], RATE, MOMENTUM, nesterov=True)

    def backward(images_NHWC, labels_N, *, track):
        optimizer.zero_grad()
        logits_NK = network.logits(experiment.preprocessing(images_NHWC), track=track)
        loss = functional.cross_entropy(logits_NK, torch.tensor(labels_N).long(), label_smoothing=0.1, **loss_settings)
        loss.backward()
        return loss.item()

    for batch in batches:
        losses.append(backward(*batch, track=True))
        if radius:
            with torch.no_grad():
                before = [value.clone() for value in parameters]
                norm = torch.stack([value.grad.norm() for value in parameters]).norm()
                for value in parameters:
                    value += value.grad * radius / (norm + 1e-12)
            backward(*batch, track=False)
            with torch.no_grad():
                for value, old in zip(parameters, before, strict=True):
                    value.copy_(old)
        optimizer.step()
    return network, losses


def train_here(experiment):
    """The state after all steps, the loss of each, and the batches."""
    run, state = compile_steps(experiment), initial_state(experiment)
    train, seed = experiment.splits["train"], replicate(np.int32(0), experiment.mesh)
    order, split = compile_epoch_order(experiment)(state.step, seed), place(train, experiment.mesh)
    sums, batches = [0.0], []
    for rows_B in np.asarray(order.rows_EB):
        batches.append((train.images_NHWC[rows_B], train.labels_N[rows_B]))
        state, metrics = run(state, split, order, steps=1)
        sums.append(float(metrics.loss_sum) / BATCH)
    assert len(batches) == STEPS
    return jax.device_get(state), np.diff(sums), batches


def assert_equal(state, losses, network, expected_losses):
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for layer, name in PARAMETERS:
        expected = network.parameters[layer, name].detach()
        np.testing.assert_allclose(state.params[layer][name], expected, rtol=1e-4, atol=1e-5)
    for name, expected in network.statistics.items():
        np.testing.assert_allclose(state.batch_stats["block1_norm1"][name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("frozen", [(), (KERNEL,)], ids=["all train", "frozen kernel"])
def test_sam_takes_the_gradient_at_the_highest_point_nearby(frozen, devices):
    rules = (*(("/".join(path), 0.0) for path in frozen), (".*", 1.0))
    changes = {"optimizer.rules": rules, "model.freeze_statistics": False}
    experiment = experiment_of(devices, **changes, **{"optimizer.sam_radius": 0.3})
    state, losses, batches = train_here(experiment)
    trained = [path for path in PARAMETERS if path not in frozen]
    assert_equal(state, losses, *train_by_torch(experiment, batches, radius=0.3, trained=trained))
    plain, _ = train_by_torch(experiment, batches, trained=trained)
    assert abs(state.params["head"]["kernel"] - plain.parameters[HEAD].detach().numpy()).max() > 1e-3


@pytest.mark.parametrize("devices", [1, 8])
def test_balanced_class_weights_are_those_of_torch(devices):
    experiment = experiment_of(devices, **{"train.class_weights": "balanced"})
    counts_K = np.bincount(experiment.splits["train"].labels_N, minlength=CLASSES)
    weights_K = 50 / (CLASSES * counts_K)  # scikit-learn's class_weight='balanced'
    np.testing.assert_allclose(experiment.class_weights, weights_K, rtol=1e-6)
    assert weights_K.max() > 3 * weights_K.min()
    state, losses, batches = train_here(experiment)
    assert_equal(state, losses, *train_by_torch(experiment, batches, weight=torch.tensor(weights_K)))


def test_a_class_without_training_images_has_no_weight():
    experiment = experiment_of(1, **{"train.class_weights": "balanced"})
    experiment.splits["train"].labels_N[experiment.splits["train"].labels_N == 2] = 0
    with pytest.raises(UsageError, match="class 'c' has no training image"):
        require_trainable(experiment)
