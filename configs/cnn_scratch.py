"""A CNN trained from scratch, 14 epochs.

    cifar-jax --config cnn_scratch

Whitening, Muon, alternating flip, label smoothing and test-time augmentation.

On two CPU cores: 17 minutes (EPYC) to 26 minutes (Xeon). Test accuracy: 89.7 % [89.0, 90.2] and 90.0 % [89.4, 90.6] on
CIFAR-10 (JPEG q75), n = 10,000, one seed each.
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.widths = (48, 128, 192)
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.15  # best of 0.08, 0.15, 0.25 on validation (6 epochs, a narrower network)
    config.optimizer.momentum = 0.6
    config.optimizer.adam_learning_rate = 5e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.rules = (("whiten/kernel", 0.0), (".*", 1.0))
    config.schedule.name = "linear"
    config.train.label_smoothing = 0.2
    config.train.epochs = 14
    config.mesh.sized_for = "cpu"
    config.evaluation.tta = True
    config.evaluation.batch_size = 256  # 1000 needs half a gigabyte more and is not faster
    return config
