"""The notebook's mistakes: frozen ResNet-50.

    cifar-jax --mode ablation --config notebook/notebook_frozen --config.model.pretrained=keras/resnet50

Images of 32 pixels, scaled to 0..1, although the weights were trained on 0..255 minus the mean (the notebook's
test accuracy: 0.42). Then one fix at a time, up to `resnet50_frozen`.
"""

from ml_collections import ConfigDict

from cifar_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("notebook/base")
    config.model.update(name="resnet", image_size=32)
    config.model.update(input_mean=(0.0, 0.0, 0.0), input_std=(1.0, 1.0, 1.0), check_input=False)  # 0..1
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.train.cached_features = True  # without augmentation: the same results, faster
    config.train.epochs = 10
    config.ablation = (
        (
            "images on the scale of the weights",
            (("model.input_mean", ()), ("model.input_std", ()), ("model.check_input", True)),
        ),
        ("224 pixels", (("model.image_size", 224),)),
        ("L-BFGS, L2 chosen on validation", (("optimizer.name", "lbfgs"), ("train.epochs", 1))),
    )
    return config
