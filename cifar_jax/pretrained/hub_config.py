"""What the config.json next to a weight file states: the architecture and preprocessing of timm or transformers.

Tensor names and shapes do not show everything: timm's resnetaa50 and resnetblur50 have those of resnet50 and compute
something else, and no weight file states the normalization of its images.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

from cifar_jax.errors import DataError, one_line
from cifar_jax.files.untrusted import open_regular
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained.backbone import DEPTHS

_LARGEST = 1 << 20  # bytes; published ones have 1 to 70 kB, the latter with the names of 1,000 classes
_LAYERS = {depth: layers for layers, depth in DEPTHS.items()}
# timm's names of plain ResNets, with those of older versions (tv_resnet50, gluon_resnet50_v1b, swsl_resnet50).
_PLAIN = re.compile(r"(?:tv_|ssl_|swsl_|gluon_)?resnet(\d+)(?:_v1b)?(d|_v1d)?")
_HARMLESS = {"num_classes", "drop_rate", "drop_path_rate"}  # arguments of a timm model that change no backbone
_METHODS = {"bilinear": "bilinear", "bicubic": "bicubic", 2: "bilinear", 3: "bicubic"}  # numbers: Pillow's


@dataclasses.dataclass(frozen=True)
class Stated:
    """What config.json and preprocessor_config.json, or the header of a weight file, state.

    Attributes:
        architecture: the stated part of `Backbone.architecture`.
        preprocessing: None if they state none.
        channels: 'BGR' if the images' channels are reversed, else 'RGB'.
        place: where it is stated, for messages.
    """

    architecture: dict
    preprocessing: Preprocessing | None
    channels: str
    place: str


def read(weights: Path) -> Stated | None:
    """The configuration of timm or transformers next to a weight file; None if there is none.

    Raises:
        DataError: it cannot be read, or describes a network or preprocessing that is not supported.
    """
    path = weights.with_name("config.json")
    config = _read_json(path)
    if not isinstance(config, dict):
        return None
    try:
        if "architecture" in config:
            stated = config.get("pretrained_cfg", config)
            size = stated.get("input_size", (3, 224, 224))[-1]
            preprocessing = stated_preprocessing(stated, method=stated.get("interpolation", "bilinear"), size=size)
            return Stated(_of_timm(config), preprocessing, "RGB", f"{path.name} next to it")
        if "model_type" in config:
            beside = path.with_name("preprocessor_config.json")
            preprocessing, channels = _of_processor(_read_json(beside))
            files = f"{path.name} and {beside.name}" if preprocessing else path.name
            return Stated(_of_transformers(config), preprocessing, channels, f"{files} next to it")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"{path}: not a configuration of timm or transformers ({one_line(error)}); correct it, or move "
            f"{weights.name} to another folder and set --config.model.input_mean and input_std"
        ) from error
    return None


def _read_json(path: Path) -> object:
    """None if there is no such file."""
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        return json.loads(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: states how to use the weights next to it, but cannot be read ({one_line(error)}); correct it, or "
            "move the weights to another folder"
        ) from error


def _of_timm(config: dict) -> dict:
    name = str(config["architecture"]).partition(".")[0]
    match = _PLAIN.fullmatch(name)
    changed = config.get("model_args", {}).keys() - _HARMLESS
    if match is None or int(match[1]) not in _LAYERS or changed:
        shown = f"{name} with {', '.join(sorted(changed))}" if changed else name
        depths = ", ".join(map(str, _LAYERS))
        raise DataError(
            f"the architecture is {shown[:80]!r}, which is not supported, even where its tensors have the names and "
            f"shapes of a ResNet; supported: resnetN and resnetNd with N in {depths}"
        )
    stage_sizes, block = _LAYERS[int(match[1])]
    return {"variant": "d" if match[2] else "v1.5", "stage_sizes": stage_sizes, "width": 64, "block": block}


def _of_transformers(config: dict) -> dict:
    plain = {
        "model_type": "resnet",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,  # True: the stride is in the first 1x1 convolution
    }
    for key, value in plain.items():
        if config.get(key, value) != value:
            raise DataError(f"{key} is {str(config[key])[:80]!r}, which is not supported: must be {value!r}")
    stated = {
        "stage_sizes": ("depths", tuple),
        "width": ("embedding_size", int),
        "block": ("layer_type", str),
    }
    return {"variant": "v1.5"} | {name: kind(config[key]) for name, (key, kind) in stated.items() if key in config}


def _of_processor(config: object) -> tuple[Preprocessing | None, str]:
    """The preprocessing and channel order of transformers' preprocessor_config.json."""
    if not isinstance(config, dict) or not {"image_mean", "do_normalize"} & config.keys():
        return None, "RGB"
    size = config.get("size", 224)
    size = next(iter(size.values())) if isinstance(size, dict) else size
    # (x * scale - mean) / std of pixels x of 0..255
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    normalizes = config.get("do_normalize", True)
    mean, std = (config["image_mean"], config["image_std"]) if normalizes else ([0] * 3, [1] * 3)
    stated = {kind: [value / (255 * scale) for value in values] for kind, values in (("mean", mean), ("std", std))}
    channels = "BGR" if config.get("do_flip_channel_order", False) else "RGB"
    if channels == "BGR":
        stated = {kind: values[::-1] for kind, values in stated.items()}
    return stated_preprocessing(stated, method=config.get("resample", 2), size=size), channels


def stated_preprocessing(stated: dict, *, method: object, size: int) -> Preprocessing | None:
    """From 'mean' and 'std' of values in 0..1; None if they are not stated."""
    if "mean" not in stated:
        return None
    mean, std = (tuple(map(float, stated[name])) for name in ("mean", "std"))
    if (len(mean), len(std)) != (3, 3) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise DataError(f"mean {mean}, std {std}: each must be three finite numbers, those of std above 0"[:300])
    if method not in _METHODS:
        raise DataError(f"images are resized with {str(method)[:40]!r}; supported: bilinear (2) and bicubic (3)")
    return Preprocessing(mean, std, int(size), _METHODS[method])
