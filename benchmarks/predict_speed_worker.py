"""One variant of the `--mode predict` comparison, in its own process, started by `predict_speed.py`.

    python benchmarks/predict_speed_worker.py {ours,keras,keras_threads} SETTINGS_JSON

Protocol: one JSON object per line on stdout. First the description of the variant, or {"absent": reason}; then, for
every line on stdin, the speed in images/s. Settings: run (a run folder), images (a folder), widths.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SIZE, BATCH = 32, 128


class Ours:
    """`Predictor`, as `main.py --mode predict` uses it."""

    def __init__(self, settings):
        import jax
        import PIL

        from cifar_jax.data import decode
        from cifar_jax.modes.predict import Predictor

        self.files = decode.find_image_files([settings.images])
        self.predictor = Predictor(settings.run, tta=False)
        self.description = {"versions": {"jax": jax.__version__, "pillow": PIL.__version__}}

    def predict(self) -> np.ndarray:
        return np.stack([list(prediction.probabilities.values()) for prediction in self.predictor(self.files)])


class Keras:
    """`keras.utils.load_img` for each file in turn, as in Keras' guides, then `model.predict`."""

    threads = 1

    def __init__(self, settings):
        import jax
        import keras
        import PIL
        from keras import layers

        self.keras = keras
        images = keras.Input((SIZE, SIZE, 3))
        x = layers.Rescaling(1 / 64, offset=-2.0)(images)
        x = layers.Conv2D(24, 2, padding="same", activation="gelu")(x)
        for width in settings.widths:
            x = layers.MaxPooling2D(2)(layers.Conv2D(width, 3, padding="same", use_bias=False)(x))
            x = layers.Activation("gelu")(layers.BatchNormalization(scale=False)(x))
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.Activation("gelu")(layers.BatchNormalization(scale=False)(x))
        x = layers.Dense(10, use_bias=False, activation="softmax")(layers.GlobalMaxPooling2D()(x))
        self.model = keras.Model(images, x)
        self.files = sorted(path for path in Path(settings.images).iterdir())
        self.description = {
            "versions": {"keras": keras.__version__, "jax": jax.__version__, "pillow": PIL.__version__},
            "threads": self.threads,
        }

    def predict(self) -> np.ndarray:
        with ThreadPoolExecutor(self.threads) as threads:
            load = threads.map if self.threads > 1 else map
            images_NHWC = np.stack(list(load(self._load, self.files)))
        return self.model.predict(images_NHWC, batch_size=BATCH, verbose=0)

    def _load(self, path: Path) -> np.ndarray:
        utils = self.keras.utils
        options = {"target_size": (SIZE, SIZE), "interpolation": "bicubic", "keep_aspect_ratio": True}
        return utils.img_to_array(utils.load_img(path, **options))


class KerasThreads(Keras):
    """The same with one loading thread per core."""

    threads = os.cpu_count()


def main(name: str, settings: SimpleNamespace) -> None:
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries goes to stderr
    try:
        variant = {"ours": Ours, "keras": Keras, "keras_threads": KerasThreads}[name](settings)
    except ModuleNotFoundError as error:
        print(json.dumps({"absent": str(error)}), file=output)
        return
    variant.predict()  # compiles and fills the page cache
    print(json.dumps(variant.description), file=output)
    for _ in sys.stdin:
        started = time.perf_counter()
        probabilities_NK = variant.predict()
        speed = len(probabilities_NK) / (time.perf_counter() - started)
        if len(probabilities_NK) != len(variant.files) or not np.isfinite(probabilities_NK).all():
            sys.exit(f"error: {name} did not classify every image")
        print(json.dumps({"images_per_second": speed}), file=output)


if __name__ == "__main__":
    main(sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2])))
