"""What the JSON files of a run must contain, for `json_files.problems`: only what is read from them."""

from cifar_jax.config.keys import SWITCH, Range, integer, number

TEXT = Range("text", lambda x: isinstance(x, str))
COUNT = integer(0, 2**63)
ANY = number(-1e300, 1e300)
SHARE = number(0, 1)


def _range_of(bounds: Range) -> Range:
    holds = lambda x: isinstance(x, list) and len(x) == 2 and all(map(bounds.allows, x))  # noqa: E731
    return Range(f"a list of two, each {bounds.description}", holds)


_SPLIT = {"n": COUNT, "fingerprint": TEXT}
_DATA = {
    "name": TEXT,
    "is_fallback": SWITCH,
    "classes": [TEXT],
    "splits": {"train": _SPLIT, "validation": (_SPLIT,), "test": _SPLIT},
}
_PREPROCESSING = {"mean": [ANY], "std": [ANY], "image_size": COUNT, "resize_method": TEXT}
_BACKBONE = {
    "source": TEXT,
    "sha256": TEXT,
    "variant": TEXT,
    "stage_sizes": [COUNT],
    "width": COUNT,
    "block": TEXT,
    "preprocessing": _PREPROCESSING,
}
CONFIG = {
    "config": {},  # validated as what a user types
    "command": TEXT,
    "data": _DATA,
    "backbone": (_BACKBONE,),
    "initial_weights": ({"source": TEXT, "sha256": TEXT},),
}

_LAYER = {"name": TEXT, "output_shape": [COUNT], "parameter_count": COUNT, "trainable": SWITCH, "flops": COUNT}
ARCHITECTURE = {
    "model": TEXT,
    "input": [COUNT],
    "layers": [_LAYER],
    "parameters": COUNT,
    "trainable_parameters": COUNT,
    "flops": COUNT,
}

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second", "seconds")
VALIDATION_HISTORY = {name: [ANY] for name in ("val_loss", "val_accuracy")}  # of a run with a validation split
HISTORY = {name: [ANY] for name in COLUMNS if name not in VALIDATION_HISTORY}

_CALIBRATION = {
    "loss": number(0, 1e300),
    "loss_interval": _range_of(ANY),
    "ece": SHARE,
    "ece_interval": _range_of(ANY),
}
_HEADLINE = {"n": COUNT, "accuracy": SHARE, "accuracy_interval": _range_of(SHARE), **_CALIBRATION}
_TEMPERATURE = number(1e-300, 1e300)
_METRICS = {
    "data": TEXT,
    "split": TEXT,
    **_HEADLINE,
    "tta": SWITCH,
    "checkpoint_step": COUNT,
    "top5_accuracy": (SHARE,),
    "top5_accuracy_interval": (_range_of(SHARE),),
    "without_tta": (_HEADLINE,),
    "temperature_scaled": ({"temperature": _TEMPERATURE, **_CALIBRATION},),
    "before_final_fit": ({"accuracy": SHARE, "loss": ANY},),
}
RESULTS = {
    "train": _METRICS,
    "test": _METRICS,
    "seconds": {"compile": ANY, "run": ANY},
    "images_per_second": ANY,
    "parameters": COUNT,
    "data": _DATA,
    "seed": COUNT,
    "environment": {"devices": TEXT, "versions": {}},
    "history_checksum": (TEXT,),
}
WITH_VALIDATION = {"validation": _METRICS, "best_epoch": COUNT, "best_step": COUNT, "temperature": _TEMPERATURE}
SEEDS = {"seeds": [COUNT]}  # results.json of several seeds, as far as it is read

METRICS = _METRICS | {
    "reliability": {"count": [COUNT], "confidence": [SHARE], "accuracy": [SHARE]},
    "per_class": {"names": [TEXT], "precision": [SHARE], "recall": [SHARE], "f1": [SHARE], "support": [COUNT]},
    "confusion_matrix": [[COUNT]],
}
