"""airbench96 on the hardest images, 45 epochs.

    cifar-jax --config cnn_96_faster

airbench96_faster of K. Jordan, cifar10-airbench, 2024: a small network, the proxy, trains along, and the network of
`cnn_96` trains only on the 512 images of each batch of 1,024 on which the proxy's loss is highest. A recipe for a GPU.
In the history, loss and accuracy of training are those of the hardest images.

Published: 96.00 %, 27.3 s on an A100 (Jordan 2024). Not measured here.

What differs from the publication is listed in `cnn_96`. The loss is a mean over 512 images: the rate is half that of
`cnn_96` and the weight decay, which is relative to it, twice, so that the updates are those of the published sum.
"""

from ml_collections import ConfigDict

from cifar_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("cnn_96")
    config.train.hardest_fraction = 0.5
    config.train.epochs = 45
    config.optimizer.learning_rate *= config.train.hardest_fraction
    config.optimizer.weight_decay /= config.train.hardest_fraction
    return config
