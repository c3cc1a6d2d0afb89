"""What the notebook's four set-ups have in common: Adam at one rate, small batches, no augmentation, few epochs.

Not a recipe: the files beside it begin here. The notebook's own code is not public, so these are habits consistent with
its accuracies, not a copy of it.
"""

from ml_collections import ConfigDict

from configs import default

# The images reach the network as 0..1, where Keras' weights were trained on 0..255 less the mean.
NOT_PREPROCESSED = {"input_mean": (0.0, 0.0, 0.0), "input_std": (1.0, 1.0, 1.0), "check_input": False}
PREPROCESSED = (
    "images on the scale of the weights",
    (("model.input_mean", ()), ("model.input_std", ()), ("model.check_input", True)),
)


def get_config() -> ConfigDict:
    config = default.get_config()
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
