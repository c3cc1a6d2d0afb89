"""Architectures. A new one is a file here, a line in `MODELS` and a recipe.

The contract of a model, on which training, freezing, evaluation and export rely:

- It is a Flax Linen module that extends `Classifier` and overrides `features`, and `from_config` if the
  values of its `config_keys` are not its attributes.
- The last layer is the Dense layer `head`. Other top-level layers are named by their place: `stageN_...` or
  `blockN_...` (N from 1, towards the head), `final_...` behind the last stage, any other name before the first.
  Rules for parameters (`config.optimizer.rules`) match these names, and layer decay counts the stages.
- A bias behind whitening filters is the layer `whiten_bias`: `config.schedule.whiten_bias_epochs` freezes it early.
- Norms with running statistics are `nn.BatchNorm(axis_name=DATA_AXIS)`, called with `use_running_average=not train`:
  training averages over the batch of all devices, and `freezing.keep_statistics` finds the ones that are frozen.
- Dropout is an `nn.Dropout`, called with `deterministic=not train`; the training step gives it its generator.
- A model that takes pretrained weights sets `takes_pretrained_weights` and overrides `architecture`. It overrides
  `first_norm` too, so that the scale of its input can be checked; the base class returns None: cannot be checked.
- It may declare in `config_keys` which keys of `config.model` it uses: a value of another model's key is then reported.
"""

import difflib
import logging
from collections.abc import Mapping

import jax.numpy as jnp

from cifar_jax.config import default_config
from cifar_jax.errors import UsageError
from cifar_jax.models.airbench import Airbench94, Airbench96
from cifar_jax.models.classifier import Classifier
from cifar_jax.models.cnn import CNN
from cifar_jax.models.resnet import ResNet
from cifar_jax.models.wide_resnet import WideResNet

# The values of `config.model.name`.
MODELS: dict[str, type[Classifier]] = {
    "airbench94": Airbench94,
    "airbench96": Airbench96,
    "cnn": CNN,
    "resnet": ResNet,
    "wide_resnet": WideResNet,
}


def find(model_config) -> type[Classifier]:
    """The class that `config.model.name` names.

    Raises:
        UsageError: an unknown name, or pretrained weights for a model that takes none.
    """
    name = model_config.name
    if name not in MODELS:
        nearest = difflib.get_close_matches(name.lower(), MODELS, n=1, cutoff=0)[0]
        raise UsageError(f"--config.model.name={name}: must be one of {', '.join(MODELS)}; the nearest is {nearest!r}")
    if model_config.pretrained and not MODELS[name].takes_pretrained_weights:
        names = " or ".join(name for name, model in MODELS.items() if model.takes_pretrained_weights)
        key = f"--config.model.pretrained={model_config.pretrained}"
        raise UsageError(f"{key}: there are no weights for a {name}; set --config.model.name={names}")
    return MODELS[name]


def report_unused_keys(model_config) -> None:
    """Warns of keys that only other models use, unless they have their defaults."""
    used, defaults = find(model_config).config_keys, default_config().model
    others = {key for model in MODELS.values() for key in model.config_keys or ()} - set(used or ())
    for key in sorted(others if used else ()):
        if (value := model_config[key]) != defaults[key]:
            logging.warning("--config.model.%s=%s has no effect: a %s does not use it", key, value, model_config.name)


def build(
    model_config, *, platform: str, num_classes: int, steps_per_epoch: int, architecture: Mapping | None = None
) -> Classifier:
    """The Flax module that `config.model` describes, for the devices of `platform`.

    `dtype='auto'` computes in bfloat16 on accelerators and in float32 on CPU, where bfloat16 gains nothing (measured
    with jax 0.10.2: 1.03 times the images per second). `architecture`, of pretrained weights, replaces the keys of the
    same names.
    """
    dtype = model_config.dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    settings = model_config.copy_and_resolve_references()
    settings.update(architecture or {})
    return find(model_config).from_config(
        settings, num_classes=num_classes, dtype=jnp.dtype(dtype), steps_per_epoch=steps_per_epoch
    )
