"""Losses. Gradient descent minimizes `training_loss`; replace its body to use another. L-BFGS probes do not use it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cifar_jax.devices import DATA_AXIS


def training_loss(logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
    """The mean over this device's part of the batch, float32 ().

    The targets are smoothed labels, blended by mixup or CutMix; with `train.class_weights` they are weighted.
    """
    return softmax_cross_entropy(logits_BK, targets_BK).mean()


def softmax_cross_entropy(logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
    """The cross-entropy of each image, in nats, float32 (B,)."""
    return optax.softmax_cross_entropy(logits_BK, targets_BK)


def smoothed_targets(labels_B: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """float32 (B, K): 1 - label_smoothing on the label plus label_smoothing / K (Szegedy et al. 2016, Inception-v3)."""
    return optax.smooth_labels(jax.nn.one_hot(labels_B, num_classes), label_smoothing)


def weighted_targets(targets_BK: jax.Array, labels_B: jax.Array, weights_K: np.ndarray) -> jax.Array:
    """Targets times the weights of their classes, relative to the mean weight of the labels of the whole batch.

    With them, the mean cross-entropy is that of PyTorch's `cross_entropy(weight=weights_K, label_smoothing=...)`.
    Inside `split_over_devices`. Mixup and CutMix exchange labels within the batch and leave its mean weight as it is.
    """
    mean = lax.pmean(jnp.asarray(weights_K)[labels_B].mean(), DATA_AXIS)
    return targets_BK * weights_K / mean
