"""Access to the drawn figures, and small finished run folders."""

import html.parser

import numpy as np
import pytest

from cifar_jax.config import default_config
from cifar_jax.config.validate import to_json
from cifar_jax.metrics import classification
from cifar_jax.report import style
from cifar_jax.runs.json_files import json_checksum, read_json, write_json
from cifar_jax.runs.predictions import write_predictions
from cifar_jax.runs.run_folder import RunFolder

VOID = {"meta", "img", "br", "link", "hr", "input", "wbr"}


class Parsed(html.parser.HTMLParser):
    """The tags with their attributes, and the text; unbalanced tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture
def parse():
    """`parse(path)`: the tags and the text of an HTML file."""
    return lambda path: Parsed(path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def low_resolution(monkeypatch):
    """Layout is in inches and points, so a low resolution only saves time."""
    monkeypatch.setattr(style, "DPI", 50)


@pytest.fixture
def drawn(monkeypatch):
    """A list to which every drawn figure is added."""
    drawn = []
    original = style.FigureCanvasAgg

    def keep(figure):
        drawn.append(figure)
        return original(figure)

    monkeypatch.setattr(style, "FigureCanvasAgg", keep)
    return drawn


@pytest.fixture
def history():
    """`history(epochs)`: the content of history.json; `validation=False`: of a run without a validation split."""

    def of(epochs, *, validation=True):
        steps = np.arange(1, epochs + 1)
        columns = {
            "epoch": steps.tolist(),
            "loss": (2 / steps).tolist(),
            "accuracy": (1 - 0.6 / steps).tolist(),
            "val_loss": (2.1 / steps).tolist(),
            "val_accuracy": (1 - 0.7 / steps).tolist(),
            "learning_rate": (0.1 * (1 - steps / epochs)).tolist(),
            "images_per_second": [1000.0] * epochs,
            "seconds": [1.0] * epochs,
        }
        return {name: values for name, values in columns.items() if validation or not name.startswith("val_")}

    return of


@pytest.fixture
def make_run(history):
    """`make_run(path, ...)`: a finished run folder; its accuracy grows with `skill`."""

    def make(
        path,
        *,
        seed=0,
        learning_rate=0.1,
        skill=1.0,
        data="shapes",
        command="python main.py",
        names=("a", "b", "c"),
        validation=True,
    ):
        folder = RunFolder(path)
        random = np.random.default_rng(seed)
        labels_N = np.random.default_rng(7).integers(0, len(names), 300)
        logits_NK = random.normal(size=(300, len(names))) + skill * np.eye(len(names))[labels_N]
        metrics = {"data": data, "split": "test", "checkpoint_step": 6, "tta": False}
        metrics |= classification.summarize(logits_NK=logits_NK, labels_N=labels_N, class_names=names)
        headline = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
        kinds = ("train", "validation", "test") if validation else ("train", "test")
        splits = {split: {"n": 300, "fingerprint": f"{data} {split}"} for split in kinds}
        description = {"name": data, "is_fallback": False, "classes": list(names), "splits": splits}
        config = default_config()
        config.optimizer.learning_rate, config.train.seed = learning_rate, seed
        if not validation:
            config.data.validation_fraction = 0.0
        layer = {"name": "head", "output_shape": [3], "parameter_count": 1234, "flops": 99, "trainable": True}
        write_json(folder.config_json, {"config": to_json(config), "command": command, "data": description})
        write_json(folder.history_json, history(3, validation=validation), with_checksum=False)
        counts = {"parameters": 1234, "trainable_parameters": 1200, "flops": 99}
        write_json(folder.architecture_json, {"model": "cnn", "input": [32, 32, 3], "layers": [layer], **counts})
        results = {split: headline | {"split": split} for split in splits}
        results |= {"seconds": {"compile": 1.5, "run": 2345.6}, "images_per_second": 1000.0}
        results |= {"parameters": 1234, "data": description, "seed": seed}
        results |= {"best_epoch": 3, "best_step": 6, "temperature": 1.5} if validation else {}
        results["history_checksum"] = json_checksum(history(3, validation=validation))
        environment = {"devices": "1 x cpu", "versions": {"jax": "9.8.7"}, "source_revision": "abc123"}
        write_json(folder.results_json, results | {"environment": environment})
        write_json(folder.evaluation_dir("test") / "metrics.json", metrics)
        arrays = {"labels_N": labels_N, "predictions_N": logits_NK.argmax(-1), "logits": np.float32(logits_NK)}
        write_predictions(folder.evaluation_dir("test") / "predictions.npz", **arrays)
        return folder

    return make


@pytest.fixture
def change():
    """`change(path, **values)`: a JSON file with some of its values replaced."""

    def apply(path, **values):
        write_json(path, read_json(path) | values)

    return apply
