"""Losses. Gradient descent minimizes `training_loss`; replace its body to use another. L-BFGS probes do not use it."""

import jax
import optax


def training_loss(logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
    """The mean over this device's part of the batch, float32 (); the targets are smoothed labels, blended by mixup."""
    return softmax_cross_entropy(logits_BK, targets_BK).mean()


def softmax_cross_entropy(logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
    """The cross-entropy of each image, in nats, float32 (B,)."""
    return optax.softmax_cross_entropy(logits_BK, targets_BK)


def smoothed_targets(labels_B: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """float32 (B, K): 1 - label_smoothing on the label plus label_smoothing / K (Szegedy et al. 2016, Inception-v3)."""
    return optax.smooth_labels(jax.nn.one_hot(labels_B, num_classes), label_smoothing)
