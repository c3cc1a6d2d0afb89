"""Train, fine-tune and evaluate CIFAR-sized image classifiers in JAX.

>>> import tempfile, cifar_jax, numpy as np
>>> small = {"data.name": "shapes", "data.limit": 200, "model.widths": (8, 8)}
>>> config = cifar_jax.load_config("cnn_scratch", **small, **{"train.epochs": 1, "train.batch_size": 40})
>>> workdir = tempfile.mkdtemp()
>>> results = cifar_jax.train(config, workdir)
>>> results["test"]["n"]
200
>>> cifar_jax.evaluate(workdir)["accuracy"] == results["test"]["accuracy"]
True
>>> images = np.zeros((3, 48, 64, 3), np.uint8)
>>> len(cifar_jax.predict(workdir, images))
3
>>> run = cifar_jax.load_run(workdir)
>>> run.history["epoch"]
[1]
>>> apply, variables, preprocessing = run.model()
>>> apply(variables, preprocessing(images)).shape
(3, 10)

Importing the package does not import JAX; the first call that needs it does.
"""

TYPE_CHECKING = False  # as in `typing`, whose import would delay `signals.watch`
if TYPE_CHECKING:
    from cifar_jax.config import load_config
    from cifar_jax.modes.evaluate import evaluate
    from cifar_jax.modes.predict import Prediction, predict
    from cifar_jax.modes.train import train
    from cifar_jax.run import Run, load_run

__version__ = "0.1.0"
__all__ = ["Prediction", "Run", "evaluate", "load_config", "load_run", "predict", "train"]

_MODULES = {
    "Prediction": "cifar_jax.modes.predict",
    "Run": "cifar_jax.run",
    "evaluate": "cifar_jax.modes.evaluate",
    "load_config": "cifar_jax.config",
    "load_run": "cifar_jax.run",
    "predict": "cifar_jax.modes.predict",
    "train": "cifar_jax.modes.train",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'cifar_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
