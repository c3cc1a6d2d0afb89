"""Rules between keys: each is an error message and a condition that a configuration must fulfill.

Rules that depend on the data or the devices are in `cifar_jax/experiment.py`.
"""

from ml_collections import ConfigDict


def _units(config: ConfigDict, kind: str) -> int:
    """The number of keys that are set among, for example, warmup_steps, warmup_epochs and warmup_percent."""
    return sum(bool(config.schedule[f"{kind}_{unit}"]) for unit in ("steps", "epochs", "percent"))


def _augments(config: ConfigDict) -> bool:
    return config.augment.flip != "none" or any(value for key, value in config.augment.items() if key != "flip")


def _is_random(config: ConfigDict) -> bool:
    return not (config.model.pretrained or config.train.init_from)


def _freezes(config: ConfigDict) -> bool:
    """Something other than the filters that whiten the images, which are computed and not trained."""
    return any(not multiplier and "whiten" not in pattern for pattern, multiplier in config.optimizer.rules)


RULES = (
    (
        "--config.train.seed={0.train.seed}: the last of {0.train.seeds} seeds must be below 2**31",
        lambda c: c.train.seed + c.train.seeds <= 2**31,
    ),
    ("--config.schedule: set one of warmup_steps, warmup_epochs, warmup_percent", lambda c: _units(c, "warmup") < 2),
    ("--config.schedule: set one of decay_steps, decay_epochs, decay_percent", lambda c: _units(c, "decay") < 2),
    (
        "--config.schedule.name=step: set schedule.decay_steps, decay_epochs or decay_percent",
        lambda c: c.schedule.name != "step" or _units(c, "decay"),
    ),
    (
        "--config.train.batch_size={0.train.batch_size}: must be a multiple of mesh.devices={0.mesh.devices}",
        lambda c: c.train.batch_size % max(1, c.mesh.devices) == 0,
    ),
    (
        "--config.model.stem={0.model.stem}: pretrained weights have their own stem; leave it empty",
        lambda c: not (c.model.pretrained and c.model.stem),
    ),
    (
        "--config.train.cached_features: each image is seen once: set --config.augment.flip=none, "
        "augment.trivial_augment=False, and augment.crop_padding, cutout, random_resized_crop, mixup and cutmix to 0",
        lambda c: not (c.train.cached_features and _augments(c)),
    ),
    (
        "--config.augment: set one of mixup={0.augment.mixup} and cutmix={0.augment.cutmix} to 0",
        lambda c: not (c.augment.mixup and c.augment.cutmix),
    ),
    (
        "--config.optimizer.name=lbfgs fits a linear probe in one epoch: set --config.train.cached_features=True and "
        "--config.train.epochs=1",
        lambda c: c.optimizer.name != "lbfgs" or (c.train.cached_features and c.train.epochs == 1),
    ),
    (
        "--config.optimizer.name=lbfgs ignores dropout and label smoothing: set --config.model.dropout=0 and "
        "--config.train.label_smoothing=0",
        lambda c: c.optimizer.name != "lbfgs" or not (c.model.dropout or c.train.label_smoothing),
    ),
    (
        "--config.train.hardest_fraction={0.train.hardest_fraction}: a proxy sees every image of every batch: set "
        "--config.train.cached_features=False and --config.optimizer.accumulate_steps=1",
        lambda c: c.train.hardest_fraction == 1 or not (c.train.cached_features or c.optimizer.accumulate_steps > 1),
    ),
    (
        "--config.optimizer.rules={0.optimizer.rules}: every multiplier is 0, so nothing trains; give the head one, as "
        "in (('^head/', 1.0), ('.*', 0.0))",
        lambda c: any(multiplier for _, multiplier in c.optimizer.rules) or not c.optimizer.rules,
    ),
)

# Only training must fulfill these: a recipe may leave the weights to the user, and needs none to be inspected.
TRAINING_RULES = (
    (
        "--config.train.image_sizes={0.train.image_sizes}: more sizes than train.epochs={0.train.epochs}",
        lambda c: len(c.train.image_sizes) <= c.train.epochs,
    ),
    (
        "--config.schedule.warmup_epochs={0.schedule.warmup_epochs}: longer than train.epochs={0.train.epochs}",
        lambda c: c.schedule.warmup_epochs <= c.train.epochs,
    ),
    (
        "--config.schedule.head_epochs={0.schedule.head_epochs}: only the head would train in all "
        "train.epochs={0.train.epochs}; lower it, or freeze the rest with config.optimizer.rules",
        lambda c: c.schedule.head_epochs < c.train.epochs or not c.schedule.head_epochs,
    ),
    (
        "--config.schedule.decay_epochs={0.schedule.decay_epochs}: the last is not before the end, "
        "train.epochs={0.train.epochs}",
        lambda c: not c.schedule.decay_epochs or c.schedule.decay_epochs[-1] < c.train.epochs,
    ),
    (
        "--config.schedule.decay_percent={0.schedule.decay_percent}: the last must be below 100",
        lambda c: not c.schedule.decay_percent or c.schedule.decay_percent[-1] < 100,
    ),
    (
        "--config.optimizer.rules={0.optimizer.rules}: freezes layers with random weights; set "
        "--config.model.pretrained to weights such as torchvision/resnet50_v1 or to a file, or "
        "--config.train.init_from to a run, or train all layers, as the recipe resnet50_pretrain does",
        lambda c: not (_is_random(c) and _freezes(c)),
    ),
    (
        "--config.model.input_mean, input_std and input_channels are of pretrained weights; without "
        "--config.model.pretrained, images are normalized by their own mean and standard deviation: remove these keys",
        lambda c: c.model.pretrained or not (c.model.input_mean or c.model.input_std or c.model.input_channels),
    ),
    (
        "--config.mesh.fsdp={0.mesh.fsdp}: optimizer.name={0.optimizer.name} needs whole parameters: set it to sgd or "
        "adamw, or mesh.fsdp to 1",
        lambda c: c.mesh.fsdp == 1 or c.optimizer.name in ("sgd", "adamw"),
    ),
    (
        "--config.mesh.fsdp={0.mesh.fsdp}: set --config.train.cached_features=False and "
        "--config.train.hardest_fraction=1: they need whole parameters",
        lambda c: c.mesh.fsdp == 1 or not (c.train.cached_features or c.train.hardest_fraction < 1),
    ),
)

# Keys (a group of keys ends in '.' or '_'), the condition under which they have an effect, and why they have none.
EFFECTS = (
    (
        ("train.steps_per_dispatch",),
        lambda c: c.data.pipeline != "stream",
        "data.pipeline=stream passes one batch to each call",
    ),
    (("schedule.decay_",), lambda c: c.schedule.name == "step", "only schedule.name=step uses it"),
    (
        ("schedule.final_fraction",),
        lambda c: c.schedule.name in ("cosine", "linear"),
        "only schedule.name=cosine and linear use it",
    ),
    (("mesh.fsdp_parameters",), lambda c: c.mesh.fsdp > 1, "mesh.fsdp=1 splits no parameter"),
    (("train.proxy_widths",), lambda c: c.train.hardest_fraction < 1, "train.hardest_fraction=1 has no proxy"),
    (("schedule.initial_fraction",), lambda c: _units(c, "warmup"), "there is no warm-up"),
    (("optimizer.adam_learning_rate",), lambda c: c.optimizer.name == "muon", "only optimizer.name=muon uses it"),
    (("optimizer.sgd_",), lambda c: c.optimizer.name == "muon_sgd", "only optimizer.name=muon_sgd uses it"),
    (
        ("optimizer.uniform_decay",),
        lambda c: c.optimizer.name in ("sgd", "muon_sgd"),
        "only optimizer.name=sgd and muon_sgd use it",
    ),
    (
        (
            *("optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay", "optimizer.layer_decay"),
            *("optimizer.clip_norm", "optimizer.accumulate_steps", "schedule.", "train.ema_decay"),
            *("train.lookahead_steps", "train.class_weights", "optimizer.sam_radius"),
        ),
        lambda c: c.optimizer.name != "lbfgs",
        "optimizer.name=lbfgs fits the head in one optimization without it",
    ),
    (
        (
            *("schedule.head_epochs", "schedule.whiten_bias_epochs", "optimizer.layer_decay"),
            *("model.remat", "model.freeze_statistics"),
            *("evaluation.tta", "train.image_sizes"),
        ),
        lambda c: not c.train.cached_features,
        "train.cached_features trains only the head, on features of unchanged images",
    ),
)
