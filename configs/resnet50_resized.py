"""Model 2: ResNet-50 with ImageNet weights, frozen; images resized to 224 pixels and augmented.

    python main.py --config configs/resnet50_resized.py --config.model.pretrained=torchvision/resnet50_v1

A random part of each image (a quarter of it at least), mirrored or not, is resized inside the compiled step, bicubic
with antialiasing. Only the head trains; the backbone, its running statistics too, stays as it is to the last bit.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.name = "resnet"
    config.model.image_size = 224
    config.augment.flip = "random"
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = 0.25
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.train.label_smoothing = 0.0
    config.train.epochs = 10
    config.train.batch_size = 256
    config.evaluation.batch_size = 128
    return config
