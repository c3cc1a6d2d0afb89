"""The notebook's frozen ResNet-50 at 32 pixels (test accuracy 0.42), and what each of its habits costs.

    python main.py --mode ledger --config configs/notebook/notebook_frozen.py --config.model.pretrained=keras/resnet50

The pictures reach the weights as 0..1, where 0..255 less the mean is meant; then one repair at a time up to
configs/resnet50_frozen.py. The notebook's own code is not public: this is consistent with its accuracy, not a copy.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.name = "resnet"
    config.model.image_size = 32
    config.model.input_mean = (0.0, 0.0, 0.0)
    config.model.input_std = (1.0, 1.0, 1.0)
    config.model.check_input = False
    config.augment.flip = "none"
    config.augment.crop_padding = 0
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.schedule.name = "constant"
    config.train.cached_features = True  # of a frozen backbone without augmentation: the same numbers, sooner
    config.train.label_smoothing = 0.0
    config.train.batch_size = 64
    config.train.epochs = 10
    config.train.seeds = 3
    config.evaluation.batch_size = 128
    config.repairs = (
        (
            "pictures on the scale of the weights",
            (("model.input_mean", ()), ("model.input_std", ()), ("model.check_input", True)),
        ),
        ("224 pixels", (("model.image_size", 224),)),
        ("L-BFGS, L2 chosen on validation", (("optimizer.name", "lbfgs"), ("train.epochs", 1))),
    )
    return config
