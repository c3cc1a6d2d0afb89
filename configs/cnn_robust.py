"""cnn_scratch with TrivialAugment, 14 epochs.

    cifar-jax --config cnn_robust

One random operation for each training image (Müller and Hutter, TrivialAugment, 2021). With narrower layers and 18,000
training images, the accuracy on corrupted images rises by 9 points, and that on clean images falls by 2:
docs/robustness.md. This recipe as it is: not measured.
"""

from ml_collections import ConfigDict

from cifar_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("cnn_scratch")
    config.augment.trivial_augment = True
    return config
