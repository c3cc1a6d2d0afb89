"""A configuration with its data, preprocessing and model. Training and evaluation start here."""

import dataclasses
import functools
import logging

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import devices, memory, models, pretrained, processes
from cifar_jax.data import Dataset, ImageSet, load, split_train_validation
from cifar_jax.errors import UsageError
from cifar_jax.models import freezing
from cifar_jax.models.classifier import Classifier, abstract_variables
from cifar_jax.preprocessing.preprocess import Preprocessing, channel_statistics
from cifar_jax.pretrained import Backbone

# On the fallback data set, training is cut to this many epochs: about three minutes on two cores.
FALLBACK_EPOCHS = 4
# Decoded images may take this share of the free memory, or data.pipeline=auto streams them.
SHARE_OF_IMAGES = 0.5
STREAMED_SAMPLE = 5000  # images for the statistics of streamed ones, which are decoded before training starts


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration with its data, model and devices.

    Attributes:
        config: with fewer epochs on the fallback data set, and the data.pipeline that was chosen.
        dataset: with its validation images split off; without any if `data.validation_fraction` is 0.
        backbone: the pretrained weights that the model starts from; its trees are empty if a checkpoint has them.
        initial_weights: params and batch_stats of the run `train.init_from`, in place of the model's own values.
        features: of a frozen backbone, for the splits computed so far, float32 (N, C).
    """

    config: ConfigDict
    mesh: Mesh
    dataset: Dataset
    preprocessing: Preprocessing
    model: Classifier
    backbone: Backbone | None = None
    initial_weights: dict | None = None
    features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def splits(self) -> dict[str, ImageSet]:
        """The images of 'train', 'validation' (if there are any) and 'test'."""
        return self.dataset.splits

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.config.train.batch_size

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    @property
    def log_every_steps(self) -> int:
        return self.config.train.log_every_steps or max(1, self.steps_per_epoch // 10)

    @property
    def steps_per_dispatch(self) -> int:
        """The most batches in one compiled call.

        On CPU one, because XLA:CPU is many times slower inside a loop; one as well if they are streamed.
        """
        if self.dataset.is_streamed:
            return 1
        on_cpu = devices.platform_of(self.mesh) == "cpu"
        configured = self.config.train.steps_per_dispatch or (1 if on_cpu else self.log_every_steps)
        return min(configured, self.log_every_steps)

    def training_size(self, epoch: int) -> int:
        """Side of the model's input in pixels while it trains in `epoch` (from 0): see `train.image_sizes`."""
        sizes = self.config.train.image_sizes or (self.preprocessing.image_size,)
        return sizes[epoch * len(sizes) // self.config.train.epochs]

    @functools.cached_property
    def class_weights(self) -> np.ndarray:
        """The inverse frequency of each class in the training split, float32 (K,); a balanced split has weights of 1.

        Raises:
            UsageError: a class without a training image.
        """
        train = self.splits["train"]
        counts_K = np.bincount(train.labels_N, minlength=len(train.class_names))
        if not counts_K.all():
            name = train.class_names[counts_K.argmin()]
            raise UsageError(f"--config.train.class_weights=balanced: class {name!r} has no training image")
        return (len(train) / (len(counts_K) * counts_K)).astype(np.float32)

    @property
    def data_description(self) -> dict:
        """What identifies the data in config.json, checkpoints and results; equal for the same data."""
        splits = {name: {"n": len(split), "fingerprint": split.fingerprint} for name, split in self.splits.items()}
        return {
            "name": self.dataset.name,
            "is_fallback": self.dataset.is_fallback,
            "classes": list(self.dataset.class_names),
            "splits": splits,
        }

    def logits(self, variables: dict, images_NHWC: jax.Array) -> jax.Array:
        """float32 (N, K), of uint8 images as stored, in evaluation."""
        return self.model.apply(variables, self.preprocessing(images_NHWC), train=False)

    @property
    def abstract_variables(self) -> dict:
        """Shapes and dtypes of params and batch_stats; nothing is computed."""
        return abstract_variables(self.model, self.preprocessing.image_size)

    @property
    def frozen_norms(self) -> tuple[str, ...]:
        """Paths of the norms that keep their running statistics in training."""
        if not self.config.model.freeze_statistics:
            return ()
        return freezing.frozen_norms(self.config.optimizer.rules, self.abstract_variables)


def build(config: ConfigDict, *, allow_fallback: bool, mesh: Mesh | None = None) -> Experiment:
    """Loads the data and the pretrained weights that `config` names and builds the model for them.

    `mesh` has the devices to compile for, whose memory decides nothing; None = those of this machine, see
    `config.mesh`.

    Raises:
        UsageError: an unknown model, a path or key that does not fit the data, or images that are not square.
        DataError: data or weights that cannot be found or read.
    """
    models.report_unused_keys(config.model)
    room = None if mesh else functools.partial(_room_for_images, config)
    if not config.model.pretrained:
        return assemble(config, load(config.data, allow_fallback=allow_fallback, room=room), mesh=mesh)
    backbone = pretrained.load(config.model.pretrained).with_channels(config.model.input_channels)
    experiment = assemble(config, load(config.data, allow_fallback=allow_fallback, room=room), backbone, mesh=mesh)
    logging.info("weights: %s", backbone.summary(used=experiment.preprocessing))
    return experiment


def _room_for_images(config: ConfigDict) -> int:
    """Bytes: each process holds all decoded images, and the devices together hold them as well.

    The least of all processes, which must make the same choice.
    """
    mesh = devices.make_mesh(config.mesh.devices)
    room = int(SHARE_OF_IMAGES * min(memory.free_bytes(), devices.free_bytes(mesh) * mesh.size))
    if jax.process_count() == 1:
        return room
    processes.wait_for_all("memory for images")  # a collective waits only 30 s for a slow file system
    megabytes = min(room >> 20, 2**31 - 1)
    return int(np.min(multihost_utils.process_allgather(np.int32(megabytes)))) << 20


def assemble(
    config: ConfigDict, dataset: Dataset, backbone: Backbone | None = None, *, mesh: Mesh | None = None
) -> Experiment:
    """As `build`, from a data set and weights that are already loaded."""
    config = config.copy_and_resolve_references()
    config.data.pipeline = "stream" if dataset.is_streamed else "device"
    if dataset.is_fallback:
        config.train.epochs = min(config.train.epochs, FALLBACK_EPOCHS)
    dataset = _with_validation(dataset, config.data)
    logging.info("data: %s", dataset)
    for warning in dataset.warnings:
        logging.warning("warning: %s", warning)
    height, width = dataset.train.images_NHWC.shape[1:3]
    if height != width:
        raise UsageError(f"images of {width}x{height} pixels: set --config.data.image_size=N to make them square")
    _require_fitting_sizes(config, stored_size=height)
    mesh = mesh or devices.make_mesh(config.mesh.devices, fsdp=config.mesh.fsdp)
    experiment = Experiment(
        config=config,
        mesh=mesh,
        dataset=dataset,
        preprocessing=_preprocessing(config.model, dataset.train, backbone),
        model=models.build(
            config.model,
            platform=devices.platform_of(mesh),
            num_classes=len(dataset.class_names),
            steps_per_epoch=max(1, len(dataset.train) // config.train.batch_size),
            architecture=backbone.architecture if backbone else None,
        ),
        backbone=backbone,
    )
    for size in {experiment.preprocessing.image_size, *config.train.image_sizes}:
        experiment.model.require_size(size)
    if config.train.cached_features:
        _require_frozen_backbone(experiment)
    return experiment


def _require_fitting_sizes(config: ConfigDict, *, stored_size: int) -> None:
    input_size = min(config.train.image_sizes or (config.model.image_size or stored_size,))
    for key, size in (("crop_padding", stored_size), ("cutout", input_size)):
        value = config.augment[key]
        if value >= size:
            raise UsageError(f"--config.augment.{key}={value}: must be below {size}, the image size in pixels")


def _require_frozen_backbone(experiment: Experiment) -> None:
    multipliers = freezing.multipliers(experiment.config.optimizer.rules, experiment.abstract_variables["params"])
    if {path[0] for path, multiplier in flatten_dict(multipliers).items() if multiplier} != {"head"}:
        raise UsageError(
            "--config.train.cached_features: all but the head must be frozen; "
            "set config.optimizer.rules to (('head/', 1.0), ('.*', 0.0))"
        )


def _preprocessing(model_config, images: ImageSet, backbone: Backbone | None) -> Preprocessing:
    """That of the pretrained weights; without them, with the statistics of the training images."""
    image_size = model_config.image_size or images.images_NHWC.shape[1]
    if backbone is None:
        return Preprocessing(*channel_statistics(_for_statistics(images)), image_size)
    published = backbone.preprocessing
    mean, std = tuple(model_config.input_mean) or published.mean, tuple(model_config.input_std) or published.std
    return Preprocessing(mean, std, image_size, published.resize_method)


def _for_statistics(images: ImageSet) -> ImageSet:
    """All images, or of many streamed ones a sample."""
    n, size = len(images), min(len(images), STREAMED_SAMPLE)
    if not images.is_streamed or size == n:
        return images
    logging.info("mean and standard deviation are those of %s of %s streamed images", f"{size:,}", f"{n:,}")
    return images.take(np.arange(size) * n // size)


def _with_validation(dataset: Dataset, data_config) -> Dataset:
    """With the source's own validation images, or with some of its training images, or without any."""
    if dataset.validation is None and data_config.validation_fraction:
        settings = {"fraction": data_config.validation_fraction, "seed": data_config.split_seed}
        train_rows, validation_rows = split_train_validation(dataset.train.labels_N, **settings)
        train, validation = dataset.train.take(train_rows), dataset.train.take(validation_rows)
        origin = f"{dataset.origin}, {len(validation_rows):,} of train for validation"
        dataset = dataclasses.replace(dataset, train=train, validation=validation, origin=origin)
    elif dataset.validation is not None and not data_config.validation_fraction:
        logging.info("data.validation_fraction=0: the source has its own validation split, which chooses the epoch")
    if dataset.validation is not None and not len(dataset.validation):
        problem = "--config.data.validation_fraction leaves no image to choose the best epoch on"
        raise UsageError(f"{problem}: raise it, or set it to 0 to train on all images")
    return dataset


def without_data(config: ConfigDict, *, mesh: Mesh | None = None) -> Experiment:
    """As `build`, with blank images; only a folder is still read, because its size and classes are unknown."""
    models.find(config.model)
    sizes = {"cifar10": (50_000, 10_000, 10), "cifar100": (50_000, 10_000, 100), "shapes": (20_000, 4_000, 10)}
    if config.data.name not in sizes:
        return build(config, allow_fallback=False, mesh=mesh)
    train, test, classes = sizes[config.data.name]

    def blank(size):
        size = min(size, config.data.limit or size)
        images = np.broadcast_to(np.uint8(0), (size, 32, 32, 3))  # takes no memory
        names = tuple(str(number) for number in range(classes))
        return ImageSet(images, np.arange(size, dtype=np.int32) % classes, names)

    dataset = Dataset(config.data.name, "not read", train=blank(train), test=blank(test))
    return assemble(config, dataset, mesh=mesh)
