"""The notebook's fine-tuned ResNet-50 (test accuracy 0.72), and what each of its habits costs.

    python main.py --mode ledger --config configs/notebook/notebook_finetuned.py --config.model.pretrained=FILE

All layers trained by Adam at 32 pixels on images of 0..1; BatchNorm, which learns the statistics anew, hides the
wrong scale. Then one repair at a time up to configs/resnet50_finetuned.py. What the set-ups share: habits.py.
"""

from ml_collections import ConfigDict

from configs.notebook import habits


def get_config() -> ConfigDict:
    config = habits.get_config()
    config.model.update(name="resnet", image_size=32, **habits.NOT_PREPROCESSED)
    config.mesh.cpu_devices = 1  # as in the recipe
    config.repairs = (
        habits.PREPROCESSED,
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
