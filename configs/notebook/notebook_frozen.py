"""The notebook's frozen ResNet-50 at 32 pixels (test accuracy 0.42), and what each of its habits costs.

    python main.py --mode ledger --config configs/notebook/notebook_frozen.py --config.model.pretrained=keras/resnet50

The images reach the weights as 0..1, where 0..255 less the mean is meant; then one repair at a time up to
configs/resnet50_frozen.py. What the notebook's set-ups share: habits.py.
"""

from ml_collections import ConfigDict

from configs.notebook import habits


def get_config() -> ConfigDict:
    config = habits.get_config()
    config.model.update(name="resnet", image_size=32, **habits.NOT_PREPROCESSED)
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.train.cached_features = True  # of a frozen backbone without augmentation: the same numbers, sooner
    config.train.epochs = 10
    config.repairs = (
        habits.PREPROCESSED,
        ("224 pixels", (("model.image_size", 224),)),
        ("L-BFGS, L2 chosen on validation", (("optimizer.name", "lbfgs"), ("train.epochs", 1))),
    )
    return config
