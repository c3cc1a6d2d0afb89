"""The base class of all models; the package's docstring has the contract."""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import quickly_compiled


class Classifier(nn.Module):
    """Features of an image, then dropout and a linear head.

    Attributes:
        num_classes: K.
        dropout: probability that training sets a feature to zero.
        dtype: of the computation; parameters, statistics, features and logits are float32.
        takes_pretrained_weights: whether `cifar_jax.pretrained` reads and writes weights of this class.
        config_keys: the keys of `config.model` that only some models use, and this one does; None: not declared.
        head_settings: of the Dense layer `head`.
    """

    num_classes: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    takes_pretrained_weights: ClassVar[bool] = False
    config_keys: ClassVar[tuple[str, ...] | None] = None
    head_settings: ClassVar[dict] = {"kernel_init": nn.initializers.zeros}

    @classmethod
    def from_config(cls, config, *, num_classes: int, dtype: jnp.dtype, steps_per_epoch: int) -> "Classifier":
        """The model that `config` (`config.model`) describes; here with the value of each of `config_keys`."""
        settings = {name: config[name] for name in cls.config_keys or ()}
        return cls(num_classes=num_classes, dropout=config.dropout, dtype=dtype, **settings)

    def setup(self):
        self.head = nn.Dense(self.num_classes, **self.head_settings)
        self.head_dropout = nn.Dropout(self.dropout)

    def features(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """The input of the head, float32 (N, C), of normalized images (N, H, W, 3); it needs no head's parameters."""
        raise NotImplementedError(f"{type(self).__name__} must override features")

    def classify(self, features_NC: jax.Array, *, train: bool) -> jax.Array:
        """Logits, float32 (N, K), of features; it needs the head's parameters only."""
        return self.head(self.head_dropout(features_NC, deterministic=not train))

    def __call__(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """Logits, float32 (N, K), of normalized images (N, H, W, 3).

        Training must run inside `devices.split_over_devices`: BatchNorm averages over the batch of all devices.
        """
        return self.classify(self.features(images_NHWC, train=train), train=train)

    @property
    def architecture(self) -> dict | None:
        """Keyword arguments of `pretrained.Backbone` for these weights; None if no weight file has names for them."""
        return None

    @nn.nowrap
    def first_norm(self, variables: dict, images_NHWC: jax.Array) -> tuple[jax.Array, dict] | None:
        """The input of the first BatchNorm, (N, H, W, C), and its running statistics 'mean' and 'var', each (C,).

        None: the scale of the images cannot be checked; see `training.input_check`.
        """
        return None

    @nn.nowrap
    def require_size(self, image_size: int) -> None:
        """Raises UsageError if images of this size (pixels) are too small for the network."""

    @nn.nowrap
    def initial_variables(
        self, *, seed: int, images_NHWC: np.ndarray, prepare: Callable[[jax.Array], jax.Array]
    ) -> dict:
        """params and batch_stats at step 0.

        Args:
            images_NHWC: the training images, uint8, as stored.
            prepare: the `Preprocessing` that turns them into the model's input.
        """
        sample_NHWC = jnp.zeros((1, prepare.image_size, prepare.image_size, 3))
        return quickly_compiled(functools.partial(self.init, train=False))(jax.random.key(seed), sample_NHWC)


@functools.lru_cache(maxsize=8)  # tracing a ResNet-50 takes 0.7 s
def abstract_variables(model: Classifier, image_size: int) -> dict:
    """Shapes and dtypes of params and batch_stats; nothing is computed."""
    images_NHWC = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images_NHWC)
