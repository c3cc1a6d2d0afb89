"""The notebook's mistakes: CNN from scratch.

    cifar-jax --mode ablation --config notebook/notebook_cnn

Plain convolutions and Adam at a constant rate (the notebook's test accuracy: 0.72), then one fix at a time. Every
ablation step trains for 14 epochs with a network half as wide as the recipe's; the last one doubles the width and is
the recipe `cnn_scratch`.

Expected with --config.data.limit=20000, three seeds: from 66.7 to 87.0 % test accuracy on CIFAR-10 (JPEG q75), see
benchmarks/results/ablation_cnn.json.
"""

from ml_collections import ConfigDict

from cifar_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("notebook/base")
    config.model.widths = (24, 64, 96)
    config.model.norm = "none"
    config.model.whitening = False
    config.train.epochs = 14
    config.evaluation.batch_size = 256
    config.ablation = (
        ("BatchNorm", (("model.norm", "batch"),)),
        ("learning rate falls to zero", (("schedule.name", "linear"),)),
        ("mirrored and shifted images", (("augment.flip", "alternating"), ("augment.crop_padding", 2))),
        (
            "Muon, batches of 512",
            (
                ("optimizer.name", "muon"),
                ("optimizer.learning_rate", 0.15),
                ("optimizer.momentum", 0.6),
                ("optimizer.adam_learning_rate", 5e-3),
                ("train.batch_size", 512),
            ),
        ),
        (
            "whitening, label smoothing, test-time augmentation",
            (
                ("model.whitening", True),
                ("optimizer.rules", (("whiten/kernel", 0.0), (".*", 1.0))),
                ("train.label_smoothing", 0.2),
                ("evaluation.tta", True),
            ),
        ),
        ("twice the width, the recipe", (("model.widths", (48, 128, 192)),)),
    )
    return config
