"""What a configuration means: data, model and preprocessing, put together. Training and evaluation start here."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import devices, models, pretrained
from cifar_jax.data import Dataset, ImageSet, load, split_train_validation
from cifar_jax.errors import UsageError
from cifar_jax.models.cnn import CNN
from cifar_jax.models.freezing import frozen_layers
from cifar_jax.models.resnet import ResNet
from cifar_jax.preprocessing.preprocess import Preprocessing, channel_statistics
from cifar_jax.pretrained import Backbone

# On the stand-in, training is cut to this many epochs: about three minutes on two cores.
FALLBACK_EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration with its data, model and devices.

    Attributes:
        config: resolved: on a stand-in with fewer epochs than asked for.
        dataset: with its validation images split off.
        backbone: the pretrained weights that the model starts from; without the weights, where a checkpoint has them.
        features: what a frozen backbone made of a split, float32 (N, C), as far as it is computed.
    """

    config: ConfigDict
    mesh: Mesh
    dataset: Dataset
    preprocessing: Preprocessing
    model: CNN | ResNet
    backbone: Backbone | None = None
    features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def splits(self) -> dict[str, ImageSet]:
        """The images of 'train', 'validation' and 'test'."""
        return {"train": self.dataset.train, "validation": self.dataset.validation, "test": self.dataset.test}

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.config.train.batch_size

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    @property
    def data_description(self) -> dict:
        """What identifies the data in config.json, checkpoints and results: two runs are alike where this is."""
        return {
            "name": self.dataset.name,
            "is_fallback": self.dataset.is_fallback,
            "classes": list(self.dataset.class_names),
            "splits": {
                name: {"n": len(images), "fingerprint": images.fingerprint} for name, images in self.splits.items()
            },
        }

    def logits(self, variables: dict, images_NHWC: jax.Array) -> jax.Array:
        """float32 (N, K), of uint8 images, as in evaluation."""
        return self.model.apply(variables, self.preprocessing(images_NHWC), train=False)

    def sample_input(self) -> jax.Array:
        size = self.preprocessing.image_size
        return jnp.zeros((1, size, size, 3))

    @functools.cached_property
    def abstract_variables(self) -> dict:
        """Shapes and dtypes of params and batch_stats; nothing is computed."""
        return jax.eval_shape(lambda: self.model.init(jax.random.key(0), self.sample_input(), train=False))


def build(config: ConfigDict, *, allow_fallback: bool) -> Experiment:
    """Loads the data and the pretrained weights that `config` names and builds the model for them.

    Raises:
        UsageError: a path or key that does not fit the data, or images that are not square.
        DataError: data or weights that cannot be had or read.
    """
    backbone = pretrained.load(config.model.pretrained) if config.model.pretrained else None
    return assemble(config, load(config.data, allow_fallback=allow_fallback), backbone)


def assemble(config: ConfigDict, dataset: Dataset, backbone: Backbone | None = None) -> Experiment:
    """As `build`, of a data set and weights that are loaded already."""
    if dataset.is_fallback:
        config = config.copy_and_resolve_references()
        config.train.epochs = min(config.train.epochs, FALLBACK_EPOCHS)
    dataset = _with_validation(dataset, config.data)
    logging.info("data: %s", dataset)
    height, width = dataset.train.images_NHWC.shape[1:3]
    if height != width:
        raise UsageError(f"images of {width}x{height} pixels: set --config.data.image_size=N to make them square")
    _require_fitting_keys(config, pixels=height)
    experiment = Experiment(
        config=config,
        mesh=devices.make_mesh(config.mesh.devices),
        dataset=dataset,
        preprocessing=_preprocessing(config.model, dataset.train, backbone),
        model=models.build(
            config.model,
            num_classes=len(dataset.class_names),
            steps_per_epoch=max(1, len(dataset.train) // config.train.batch_size),
            architecture=backbone.architecture if backbone else None,
        ),
        backbone=backbone,
    )
    return _with_frozen_norms(experiment)


def _require_fitting_keys(config: ConfigDict, *, pixels: int) -> None:
    """Refuses keys that do not fit the model or images of `pixels` x `pixels`; see also config/rules.py."""
    for key, side in (("crop_padding", pixels), ("cutout", config.model.image_size or pixels)):
        if config.augment[key] >= side:
            raise UsageError(
                f"--config.augment.{key}={config.augment[key]}: must be below the {side} pixels of a image's side"
            )
    if config.model.name != "resnet" and config.model.pretrained:
        raise UsageError(
            f"--config.model.pretrained={config.model.pretrained} is for ResNets: set --config.model.name=resnet"
        )
    if config.train.cached_features and config.model.name != "resnet":
        raise UsageError("--config.train.cached_features is for ResNets: set --config.model.name=resnet")


def _preprocessing(model_config, images: ImageSet, backbone: Backbone | None) -> Preprocessing:
    """What the weights were trained on; without pretrained weights, the statistics of the training images."""
    image_size = model_config.image_size or images.images_NHWC.shape[1]
    if backbone is None:
        mean, std = channel_statistics(images)
        return Preprocessing(tuple(mean), tuple(std), image_size)
    wanted = backbone.preprocessing
    return Preprocessing(
        tuple(model_config.input_mean) or wanted.mean,
        tuple(model_config.input_std) or wanted.std,
        image_size,
        wanted.resize_method,
    )


def _with_frozen_norms(experiment: Experiment) -> Experiment:
    """A frozen BatchNorm keeps its running statistics too: without this, training on would change the network."""
    rules = experiment.config.optimizer.rules
    if experiment.config.model.name != "resnet":
        return experiment
    frozen = frozen_layers(rules, experiment.abstract_variables["params"])
    if experiment.config.train.cached_features and {layer.split("/")[0] for layer in frozen} != set(
        experiment.abstract_variables["params"]
    ) - {"head"}:
        raise UsageError(
            "--config.train.cached_features: all but the head must be frozen; "
            "set config.optimizer.rules to (('head/', 1.0), ('.*', 0.0))"
        )
    if not experiment.config.model.freeze_statistics:
        return experiment
    norms = tuple(layer for layer in frozen if "norm" in layer.split("/")[-1])
    if not norms:  # `experiment` keeps its `abstract_variables`: tracing a ResNet-50 takes 0.7 s
        return experiment
    return dataclasses.replace(experiment, model=experiment.model.clone(frozen_norms=norms))


def _with_validation(dataset: Dataset, data_config) -> Dataset:
    """Validation images as the source has them, else split off from the training images by the seed."""
    if dataset.validation is None:
        train_indices, validation_indices = split_train_validation(
            dataset.train.labels_N, fraction=data_config.validation_fraction, seed=data_config.split_seed
        )
        train, validation = dataset.train.take(train_indices), dataset.train.take(validation_indices)
        dataset = dataclasses.replace(dataset, train=train, validation=validation)
    if not len(dataset.validation):
        raise UsageError("--config.data.validation_fraction leaves no image to choose the best epoch on: raise it")
    return dataset


def require_divisible(experiment: Experiment) -> None:
    """Checks that the devices can share out the batches of training; evaluation fills its own up.

    Raises:
        UsageError: naming the batch size and what would do.
    """
    batch_size, devices = experiment.config.train.batch_size, experiment.mesh.size
    if batch_size % devices:
        raise UsageError(
            f"--config.train.batch_size={batch_size} does not divide by the {devices} devices: "
            f"use a multiple of {devices}, or --config.mesh.devices=N"
        )
    if experiment.config.augment.mixup and (batch_size // devices) % 2:
        raise UsageError(
            f"--config.augment.mixup blends pairs: --config.train.batch_size={batch_size} must be a multiple of "
            f"{2 * devices} on {devices} devices"
        )
    if batch_size > len(experiment.dataset.train):
        raise UsageError(
            f"--config.train.batch_size={batch_size} is more than the {len(experiment.dataset.train)} training "
            "images: lower it"
        )


def without_data(config: ConfigDict) -> Experiment:
    """As `build`, with blank images in place of CIFAR or shapes: what a run would be, before there are data.

    An image folder is read all the same, since nothing else tells its size and classes.
    """
    sizes = {
        "cifar10": (50_000, 10_000, 10),
        "cifar100": (50_000, 10_000, 100),
        "shapes": (20_000, 4_000, 10),
    }
    if config.data.name not in sizes:
        return build(config, allow_fallback=False)
    train, test, classes = sizes[config.data.name]

    def blank(size):
        size = min(size, config.data.limit or size)
        images = np.broadcast_to(np.uint8(0), (size, 32, 32, 3))  # takes no memory
        names = tuple(str(number) for number in range(classes))
        return ImageSet(images, np.arange(size, dtype=np.int32) % classes, names)

    return assemble(config, Dataset(config.data.name, "not read", train=blank(train), test=blank(test)))
