"""Model 1: frozen ResNet-50 with a linear probe.

    cifar-jax --config resnet50_frozen --config.model.pretrained=torchvision/resnet50_v1

Each image passes through the backbone once, at 224 pixels and without augmentation. The head is fitted by
L-BFGS with the best of 45 L2 strengths on the validation images, then fitted again on training and validation
images (Grill et al., Bootstrap Your Own Latent, 2020, appendix D.2).

Expected: 91.5 % is published for these weights, 93.6 % for another ResNet-50 (Grill et al.). Not measured
here with ImageNet weights.

Features of all stages:        --config.model.pooled_stages=all (better below 224 pixels: docs/results.md)
32 pixels, as in the notebook: --config.model.image_size=32
A head trained by AdamW:       --config.optimizer.name=adamw --config.optimizer.learning_rate=1e-3
                               --config.train.epochs=20
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "resnet"
    config.model.image_size = 224
    config.augment.flip = "none"
    config.augment.crop_padding = 0
    config.optimizer.name = "lbfgs"
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.train.cached_features = True
    config.train.label_smoothing = 0.0
    config.train.epochs = 1
    config.evaluation.batch_size = 128
    return config
