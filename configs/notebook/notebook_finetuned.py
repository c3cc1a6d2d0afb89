"""The notebook's mistakes: fine-tuned ResNet-50.

    cifar-jax --mode ablation --config notebook/notebook_finetuned --config.model.pretrained=FILE

All layers are trained by Adam at 32 pixels, on images scaled to 0..1 (the notebook's test accuracy: 0.72). The
wrong scale does not show, because BatchNorm adapts its statistics. Then one fix at a time, up to
`resnet50_finetuned`.
"""

from ml_collections import ConfigDict

from cifar_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("notebook/base")
    config.model.update(name="resnet", image_size=32)
    config.model.update(input_mean=(0.0, 0.0, 0.0), input_std=(1.0, 1.0, 1.0), check_input=False)  # 0..1
    config.mesh.cpu_devices = 1  # as in resnet50_finetuned
    config.ablation = (
        (
            "images on the scale of the weights",
            (("model.input_mean", ()), ("model.input_std", ()), ("model.check_input", True)),
        ),
        (
            "SGD, warm-up, rate falls to zero",
            (
                ("optimizer.name", "sgd"),
                ("optimizer.learning_rate", 0.01),
                ("optimizer.weight_decay", 1e-4),
                ("schedule.name", "cosine"),
                ("schedule.warmup_percent", 5.0),
                ("train.batch_size", 128),
            ),
        ),
        ("128 pixels", (("model.image_size", 128),)),
        (
            "random crops, mirrored, mixup",
            (("augment.random_resized_crop", 0.25), ("augment.flip", "random"), ("augment.mixup", 0.1)),
        ),
    )
    return config
