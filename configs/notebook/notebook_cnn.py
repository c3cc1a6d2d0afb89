"""The notebook's CNN from scratch (test accuracy 0.72), and what each of its habits costs.

    python main.py --config configs/notebook/notebook_cnn.py --mode ledger

Plain convolutions and a few epochs of Adam at one rate, then one repair at a time up to configs/cnn_scratch.py. Every
rung sees the training images three times, in a net half as wide as the recipe's. What it gave:
benchmarks/results/ledger_cnn.json; what the notebook's set-ups share: habits.py.
"""

from ml_collections import ConfigDict

from configs.notebook import habits


def get_config() -> ConfigDict:
    config = habits.get_config()
    config.model.widths = (24, 64, 96)
    config.model.norm = "none"
    config.model.whitening = False
    config.train.epochs = 3
    config.evaluation.batch_size = 256
    config.repairs = (
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
    )
    return config
