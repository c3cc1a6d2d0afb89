"""The notebook's frozen ResNet-50 with augmentation at 224 pixels (test accuracy 0.20), and what its habits cost.

    python main.py --mode ledger --config configs/notebook/notebook_resized.py --config.model.pretrained=keras/resnet50

The images are divided by 255 and then preprocessed as if they were not, so that the weights see an almost black
square, and frozen BatchNorm runs on the statistics of each batch, as Keras on TensorFlow 1 had it; then one repair at a
time up to configs/resnet50_resized.py. The mean is that of Keras' weights; for others, 255 times their mean and
standard deviation. What the notebook's set-ups share: habits.py.
"""

from ml_collections import ConfigDict

from configs.notebook import habits


def get_config() -> ConfigDict:
    config = habits.get_config()
    config.model.update(name="resnet", image_size=224, check_input=False, freeze_statistics=False)
    config.model.input_mean = (123.68, 116.779, 103.939)
    config.model.input_std = (1.0, 1.0, 1.0)
    config.augment.flip = "random"
    config.augment.random_resized_crop = 0.25
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.repairs = (
        ("frozen BatchNorm in inference mode", (("model.freeze_statistics", True),)),
        habits.PREPROCESSED,
        (
            "SGD, rate falls to zero, batches of 256",
            (
                ("optimizer.name", "sgd"),
                ("optimizer.learning_rate", 0.1),
                ("schedule.name", "cosine"),
                ("train.batch_size", 256),
            ),
        ),
    )
    return config
