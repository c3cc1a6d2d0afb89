"""The notebook's mistakes: ResNet-50 at 224 pixels.

    cifar-jax --mode ablation --config notebook/notebook_resized --config.model.pretrained=keras/resnet50

Frozen, at 224 pixels, with augmentation (the notebook's test accuracy: 0.20). The images are divided by 255
and then preprocessed as if they were not, so that the network sees almost black images; and frozen BatchNorm
uses the statistics of each batch, as in Keras on TensorFlow 1. Then one fix at a time, up to
`resnet50_resized`. The mean is that of Keras' weights; for other weights, use 255 times their mean and
standard deviation.
"""

from ml_collections import ConfigDict

from cifar_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("notebook/base")
    config.model.update(name="resnet", image_size=224, check_input=False, freeze_statistics=False)
    config.model.input_mean = (123.68, 116.779, 103.939)
    config.model.input_std = (1.0, 1.0, 1.0)
    config.augment.flip = "random"
    config.augment.random_resized_crop = 0.25
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.ablation = (
        ("frozen BatchNorm in inference mode", (("model.freeze_statistics", True),)),
        (
            "images on the scale of the weights",
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
