"""Settings that the notebook's four models share.

Adam at a constant rate, small batches, no augmentation, few epochs. The notebook's code is not public:
these settings are consistent with its accuracies (docs/ablation.md), but not a copy. The other recipes
in this folder build on them.
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.augment.flip = "none"
    config.augment.crop_padding = 0
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "constant"
    config.train.label_smoothing = 0.0
    config.train.batch_size = 64
    config.train.epochs = 5
    config.train.seeds = 3
    config.evaluation.batch_size = 128
    return config
