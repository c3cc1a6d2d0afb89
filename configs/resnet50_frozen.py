"""Model 1: ResNet-50 with ImageNet weights, frozen; a linear probe on its features.

    python main.py --config configs/resnet50_frozen.py --config.model.pretrained=torchvision/resnet50_v1

Each image passes the backbone once, at 224 pixels and without augmentation. The head is fitted by L-BFGS; its L2
strength is the best of 45 on the validation images, and the last fit takes these in (Grill et al., Bootstrap Your Own
Latent, 2020, appendix D.2; there 93.6 % with another ResNet-50, and 91.5 % is published for the weights above).

As the notebook had it, at 32 pixels:    --config.model.image_size=32
A head by gradient steps instead:        --config.optimizer.name=adamw --config.optimizer.learning_rate=1e-3
                                         --config.train.epochs=20
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
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
