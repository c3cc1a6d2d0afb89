"""The notebook's frozen ResNet-50 with augmentation at 224 pixels (test accuracy 0.20), and what its habits cost.

    python main.py --mode ledger --config configs/notebook/notebook_resized.py --config.model.pretrained=keras/resnet50

The pictures are divided by 255 and then preprocessed as if they were not, so that the weights see an almost black
square, and frozen BatchNorm runs on the statistics of each batch, as Keras had it before version 2.1.3; then one repair
at a time up to configs/resnet50_resized.py. The mean is that of Keras' weights; for others, 255 times their mean and
standard deviation. The notebook's own code is not public: this is consistent with its accuracy, not a copy of it.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.name = "resnet"
    config.model.image_size = 224
    config.model.input_mean = (123.68, 116.779, 103.939)
    config.model.input_std = (1.0, 1.0, 1.0)
    config.model.check_input = False
    config.model.freeze_statistics = False
    config.augment.flip = "random"
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = 0.25
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.schedule.name = "constant"
    config.train.label_smoothing = 0.0
    config.train.batch_size = 64
    config.train.epochs = 5
    config.train.seeds = 3
    config.evaluation.batch_size = 128
    config.repairs = (
        ("frozen BatchNorm in inference mode", (("model.freeze_statistics", True),)),
        (
            "pictures on the scale of the weights",
            (("model.input_mean", ()), ("model.input_std", ()), ("model.check_input", True)),
        ),
        (
            "SGD, rate falls to zero, batches of 256",
            (
                ("optimizer.name", "sgd"),
                ("optimizer.learning_rate", 0.1),
                ("schedule.name", "cosine"),
                ("train.batch_size", 256),
            ),
        ),
    )
    return config
