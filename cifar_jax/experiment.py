"""What a configuration means: data, model and preprocessing, put together. Training and evaluation start here."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import mesh as meshes
from cifar_jax import models
from cifar_jax.data import Dataset, ImageSet, load, split_train_validation
from cifar_jax.data.augment import channel_statistics, normalise
from cifar_jax.errors import DataError, UsageError
from cifar_jax.models.cnn import CNN

# On the stand-in, training is cut to this many epochs: about three minutes on two cores.
STAND_IN_EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the model wants its pictures; saved in every checkpoint.

    Attributes:
        mean: of each channel, RGB, of values in 0..1.
        std: likewise.
        image_size: pixels; pictures of another size are resized to this square, bicubic with antialiasing.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """uint8 pictures -> float32 (N, image_size, image_size, 3), normalised."""
        images_NHWC = normalise(images_NHWC, mean=self.mean, std=self.std)
        if images_NHWC.shape[1:3] == (self.image_size, self.image_size):
            return images_NHWC
        shape = (len(images_NHWC), self.image_size, self.image_size, images_NHWC.shape[-1])
        return jax.image.resize(images_NHWC, shape, method="bicubic")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration with its data, model and devices.

    Attributes:
        config: resolved: on a stand-in with fewer epochs than asked for.
        dataset: with its validation pictures split off.
    """

    config: ConfigDict
    mesh: Mesh
    dataset: Dataset
    preprocessing: Preprocessing
    model: CNN

    @property
    def splits(self) -> dict[str, ImageSet]:
        """The pictures of 'train', 'validation' and 'test'."""
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
            "is_stand_in": self.dataset.is_stand_in,
            "classes": list(self.dataset.class_names),
            "splits": {
                name: {"n": len(images), "fingerprint": images.fingerprint} for name, images in self.splits.items()
            },
        }

    def sample_input(self) -> jax.Array:
        size = self.preprocessing.image_size
        return jnp.zeros((1, size, size, 3))

    @functools.cached_property
    def abstract_variables(self) -> dict:
        """Shapes and dtypes of params and batch_stats; nothing is computed."""
        initialise = functools.partial(self.model.init, train=False)
        return jax.eval_shape(initialise, jax.random.key(0), self.sample_input())


def build(config: ConfigDict, *, allow_stand_in: bool) -> Experiment:
    """Loads the data that `config` names and builds the model for it.

    Raises:
        UsageError: a path or key that does not fit the data, or pictures that are not square.
        DataError: data that cannot be had or read.
    """
    return assemble(config, load(config.data, allow_stand_in=allow_stand_in))


def assemble(config: ConfigDict, dataset: Dataset) -> Experiment:
    """As `build`, of a data set that is loaded already."""
    if dataset.is_stand_in:
        config = config.copy_and_resolve_references()
        config.train.epochs = min(config.train.epochs, STAND_IN_EPOCHS)
    mesh = meshes.make_mesh(config.mesh.devices)
    dataset = _with_validation(dataset, config.data)
    height, width = dataset.train.images_NHWC.shape[1:3]
    if height != width:
        raise UsageError(f"pictures of {width}x{height} pixels: set --config.data.image_size=N to make them square")
    mean, std = channel_statistics(dataset.train)
    return Experiment(
        config=config,
        mesh=mesh,
        dataset=dataset,
        preprocessing=Preprocessing(
            tuple(mean), tuple(std), config.model.image_size or dataset.train.images_NHWC.shape[1]
        ),
        model=models.build(config.model, num_classes=len(dataset.class_names)),
    )


def _with_validation(dataset: Dataset, data_config) -> Dataset:
    """Validation pictures as the source has them, else split off from the training pictures by the seed."""
    if dataset.validation is None:
        train_indices, validation_indices = split_train_validation(
            dataset.train.labels_N, fraction=data_config.validation_fraction, seed=data_config.split_seed
        )
        train, validation = dataset.train.take(train_indices), dataset.train.take(validation_indices)
        dataset = dataclasses.replace(dataset, train=train, validation=validation)
    if not len(dataset.validation):
        raise UsageError("--config.data.validation_fraction leaves no picture to choose the best epoch on: raise it")
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
            "pictures: lower it"
        )


def without_data(config: ConfigDict) -> Experiment:
    """As `build`, with blank pictures in place of CIFAR or shapes: what a run would be, before there are data.

    An image folder is read all the same, since nothing else tells its size and classes.
    """
    sizes = {
        "cifar10": (50_000, 10_000, 10),
        "cifar100": (50_000, 10_000, 100),
        "shapes": (20_000, 4_000, 10),
    }
    if config.data.name not in sizes:
        return build(config, allow_stand_in=False)
    train, test, classes = sizes[config.data.name]

    def blank(size):
        size = min(size, config.data.limit or size)
        pictures = np.broadcast_to(np.uint8(0), (size, 32, 32, 3))  # takes no memory
        names = tuple(str(number) for number in range(classes))
        return ImageSet(pictures, np.arange(size, dtype=np.int32) % classes, names)

    return assemble(config, Dataset(config.data.name, "not read", train=blank(train), test=blank(test)))


def rebuild(recorded: dict) -> Experiment:
    """The experiment that a run folder's config.json describes, with the very data of that run.

    Args:
        recorded: the content of config.json.

    Raises:
        DataError: the data found are others, told by their fingerprints.
    """
    config = ConfigDict(recorded["config"])
    if not recorded["data"]["is_stand_in"]:
        experiment = build(config, allow_stand_in=False)
    else:  # drawn again without the warning, even if the real data have come since
        config.data.update(name="shapes", dir="")
        experiment = build(config, allow_stand_in=False)
        dataset = dataclasses.replace(experiment.dataset, name=recorded["data"]["name"], is_stand_in=True)
        experiment = dataclasses.replace(experiment, dataset=dataset)
    require_same_data(experiment, recorded["data"])
    return experiment


def require_same_data(experiment: Experiment, recorded: dict) -> None:
    """Refuses data that are not those of the run, told by their fingerprints.

    Raises:
        DataError: naming both.
    """
    found = experiment.data_description
    if found == recorded:
        return
    if found["name"] != recorded["name"]:
        raise DataError(
            f"this run was trained on {recorded['name']}, and the data found are {found['name']}: "
            "set --config.data.dir or CIFAR_JAX_DATA to the run's data, or choose another --workdir"
        )
    changed = [name for name in found["splits"] if found["splits"][name] != recorded["splits"].get(name)]
    raise DataError(
        f"{experiment.dataset.source}: not the data of this run, the fingerprint of {' and '.join(changed)} differs: "
        "set --config.data.dir or CIFAR_JAX_DATA to the run's data, or choose another --workdir"
    )
