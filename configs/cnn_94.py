"""The network of airbench94 with Muon, 8 epochs.

    cifar-jax --config cnn_94

airbench94_muon of K. Jordan, cifar10-airbench, 2024: Muon for the convolutions, SGD for the rest, batches of 2,000.
A recipe for a GPU. As published, all training images are trained on, 25 batches in an epoch, and the last epoch is
evaluated; --config.data.validation_fraction=0.1 keeps a tenth of them for validation.

Published: 94.01 %, 2.59 s on an A100 (Jordan 2024). Not measured here.

Two things differ from the publication:

- The loss is a mean over the batch, the published one a sum. The rates of SGD are therefore 2,000 times the published
  ones, and the weight decay, which is relative to the rate, 2,000 times smaller: the updates are the same. With
  another batch size, set optimizer.sgd_learning_rate to 0.053 times its value.
- bfloat16 on accelerators instead of float16.
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.validation_fraction = 0.0
    config.model.name = "airbench94"
    config.model.widths = (64, 256, 256)
    config.train.epochs = 8
    config.train.batch_size = 2000
    config.train.label_smoothing = 0.2
    config.optimizer.name = "muon_sgd"
    config.optimizer.learning_rate = 0.24
    config.optimizer.momentum = 0.6
    config.optimizer.sgd_learning_rate = 0.053 * config.train.batch_size
    config.optimizer.sgd_momentum = 0.85
    config.optimizer.weight_decay = 2e-6 / 0.053  # each update takes 2e-6 * 2,000 of a parameter at the peak
    config.optimizer.uniform_decay = True
    config.optimizer.rules = (("whiten/kernel", 0.0), ("^head/", 0.67 / 0.053), (".*", 1.0))
    config.schedule.name = "linear"
    config.schedule.whiten_bias_epochs = 3.0
    config.mesh.sized_for = "accelerator"
    config.evaluation.tta = True
    config.evaluation.batch_size = 2000
    return config
