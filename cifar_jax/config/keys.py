"""Every configuration key, declared once in the table `KEYS`: default, range, one line of help, unit."""

import dataclasses
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Container

from ml_collections import ConfigDict

SMALLEST = 1e-12  # of numbers above 0: far below it, float32 is 0 and the key has no effect


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a key allows."""

    description: str  # completes the sentence 'must be ...'
    allows: Callable[[object], bool]
    choices: tuple[str, ...] = ()  # if the range is a list of names


@dataclasses.dataclass(frozen=True)
class Key:
    """One configuration key."""

    default: object  # never None: its type is the type of the key
    range: Range
    help: str  # one line
    unit: str = ""
    free: bool = False  # may change when a run resumes, because it does not affect the trained model
    is_argument: bool = False  # of the compiled training step: all values above 0 share one program


def _is_integer(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_number(x: object) -> bool:
    return _is_integer(x) or (isinstance(x, float) and math.isfinite(x))


def integer(minimum: int, maximum: int) -> Range:
    text = f"an integer of at least {minimum}, at most {maximum}"
    return Range(text, lambda x: _is_integer(x) and minimum <= x <= maximum)


def number(minimum: float, maximum: float) -> Range:
    text = f"a finite number of at least {minimum}, at most {maximum}"
    return Range(text, lambda x: _is_number(x) and minimum <= x <= maximum)


def above_0(maximum: float) -> Range:
    text = f"a finite number above 0 ({SMALLEST} to {maximum})"
    return Range(text, lambda x: _is_number(x) and SMALLEST <= x <= maximum)


def one_of(*names: str) -> Range:
    return Range(f"one of {', '.join(map(repr, names))}", lambda x: x in names, names)


def tuple_of(element: Range, length: str, lengths: Container[int], holds: Callable[[tuple], bool] = lambda x: True):
    """A tuple whose length is one of `lengths`, in words `length`, and which fulfills `holds`."""
    description = f"a tuple of {length}, each element {element.description}"
    return Range(
        description,
        lambda x: isinstance(x, tuple) and len(x) in lengths and all(map(element.allows, x)) and holds(x),
    )


def increasing(element: Range) -> Range:
    def is_increasing(x: tuple) -> bool:
        return all(a < b for a, b in itertools.pairwise(x))

    return tuple_of(element, "at most 100 elements in increasing order", range(101), is_increasing)


def _is_pair(x: object) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str) and len(x[0]) <= 200


def _is_text(x: object) -> bool:
    return isinstance(x, str) and len(x) <= 4096 and not any(unicodedata.category(c) == "Cc" for c in x)


def _is_regex(x: str) -> bool:
    try:
        return bool(re.compile(x))
    except (re.error, RecursionError, OverflowError):
        return False


BELOW_1 = Range("a finite number of at least 0 and below 1", lambda x: _is_number(x) and 0 <= x < 1)
SEED = integer(0, 2**31 - 1)
TEXT = Range("text of at most 4096 characters without control characters", _is_text)  # the longest path on Linux
REGEX = Range("a regular expression", lambda x: _is_text(x) and _is_regex(x))
SWITCH = Range("True or False", lambda x: isinstance(x, bool))
PIXELS = integer(0, 4096)  # 16 million pixels
IMAGES = integer(1, 1_000_000)  # in a batch; ImageNet has 1.3 million
EPOCHS = 100_000
STEPS = integer(0, 10**9)  # the step is an int32
CHANNELS = integer(1, 16384)  # a kernel of 3x3 between 16384 channels takes 10 GB
LARGE = 1e6  # float32 has 7 digits
SCALE = Range(f"a finite number of at most {LARGE} and at least {-LARGE}", lambda x: _is_number(x) and abs(x) <= LARGE)
WIDTHS = tuple_of(CHANNELS, "1 to 16 elements", range(1, 17))
SIZES = tuple_of(integer(1, 4096), "at most 100 elements", range(101))
STAGES = tuple_of(integer(1, 500), "1 to 8 elements", range(1, 9))  # a stage of ResNet-1001 has 111 blocks
MEAN = tuple_of(SCALE, "0 or 3 elements", (0, 3))
STD = tuple_of(above_0(LARGE), "0 or 3 elements", (0, 3))
MULTIPLIERS = tuple_of(
    Range(
        "a pair such as ('.*/kernel', 1.0), a regular expression and a number of at least 0, at most 1000",
        lambda x: _is_pair(x) and _is_regex(x[0]) and _is_number(x[1]) and 0 <= x[1] <= 1000,
    ),
    "1 to 1000 elements",
    range(1, 1001),
)
FIXES = tuple_of(
    Range(
        "a name with changes, such as ('BatchNorm', (('model.norm', 'batch'),))",
        lambda x: _is_pair(x) and isinstance(x[1], tuple) and all(map(_is_pair, x[1])),
    ),
    "at most 100 elements",
    range(101),
)

OPTIMIZERS = ("sgd", "adamw", "muon", "muon_sgd", "lbfgs")  # muon: with adamw for all but the 3x3 kernels

KEYS = {
    "data.name": Key("cifar10", one_of("cifar10", "cifar100", "shapes", "folder"), "shapes: drawn by the program"),
    "data.dir": Key("", TEXT, "TFDS folder, Toronto archive, images, .npz; '' = $CIFAR_JAX_DATA", free=True),
    "data.fallback": Key("shapes", one_of("", "shapes"), "data set where data.name is not available; '' = error"),
    "data.pipeline": Key("auto", one_of("auto", "device", "stream"), "stream: decoded as needed; device: kept there"),
    "data.image_size": Key(0, PIXELS, "images of a folder are resized to this square; 0 = as stored", "pixels"),
    "data.validation_fraction": Key(0.1, BELOW_1, "share of train, if the source has no such split; 0 = none"),
    "data.split_seed": Key(0, SEED, "of the train/validation split, so that seeds share a split"),
    "data.limit": Key(0, STEPS, "use at most this many of each split, stratified; 0 = all", "images"),
    "augment.flip": Key("alternating", one_of("none", "random", "alternating"), "alternating: every second epoch"),
    "augment.crop_padding": Key(2, PIXELS, "reflection padding before a random crop; 0 = off", "pixels"),
    "augment.cutout": Key(0, PIXELS, "side of a square set to the mean color; 0 = off", "pixels"),
    "augment.random_resized_crop": Key(0.0, number(0, 1), "smallest area of a random crop, of 1; 0 = off"),
    "augment.mixup": Key(0.0, number(0, 100), "alpha of the Beta distribution; 0 = off"),
    "augment.cutmix": Key(0.0, number(0, 100), "alpha of the Beta distribution; 0 = off"),
    "augment.trivial_augment": Key(False, SWITCH, "TrivialAugment Wide: one random operation for each image"),
    "model.name": Key("cnn", TEXT, "cnn, airbench94, airbench96, resnet, wide_resnet, or one added to `MODELS`"),
    "model.image_size": Key(0, PIXELS, "model input, resized in the compiled step; 0 = as loaded", "pixels"),
    "model.dtype": Key("auto", one_of("float32", "bfloat16", "auto"), "auto: bfloat16 on accelerators, else float32"),
    "model.dropout": Key(0.0, BELOW_1, "probability of a 0, before the head; of wide_resnet, in its blocks; 0 = off"),
    # cnn and airbench use the first two of these:
    "model.widths": Key((64, 128, 256), WIDTHS, "of the blocks; each block halves the image", "channels"),
    "model.convs_per_block": Key(2, integer(1, 32), "convolutions in each block"),
    "model.norm": Key("batch", one_of("batch", "none"), "batch: BatchNorm"),
    "model.whitening": Key(True, SWITCH, "first layer: frozen filters that whiten 2x2 patches of the images"),
    # resnet; pretrained weights determine the first five. Variants: caffe is that of the authors' release, v1 of Keras,
    # v1.5 of torchvision, timm and Hugging Face, v2 of Keras' ResNet50V2, d of timm, bit of Big Transfer.
    "model.variant": Key("v1.5", one_of("caffe", "v1", "v1.5", "v2", "d", "bit"), "v1: Keras; v1.5: torchvision"),
    "model.stage_sizes": Key((3, 4, 6, 3), STAGES, "of each stage; the default with bottlenecks: ResNet-50", "blocks"),
    "model.width": Key(64, CHANNELS, "inside the blocks of the first stage", "channels"),
    "model.stem_width": Key(0, integer(0, 16384), "of the stem; 0 = model.width", "channels"),
    "model.block": Key("bottleneck", one_of("bottleneck", "basic"), "type of the residual blocks"),
    "model.stem": Key("", one_of("", "imagenet", "deep", "small"), "small: 3x3, stride 1; '' = that of the variant"),
    "model.pooled_stages": Key("last", one_of("last", "all"), "whose means over the image are the features"),
    "model.remat": Key(False, SWITCH, "recompute activations for the gradient: less memory, a third more time"),
    "model.pretrained": Key("", TEXT, "file, or name such as torchvision/resnet50_v1; '' = random", free=True),
    # Input is (x - mean) / std. Set another scale than that of the weights only to measure what the mistake costs.
    "model.input_mean": Key((), MEAN, "of RGB in 0..1; () = that of the pretrained weights"),
    "model.input_std": Key((), STD, "of RGB in 0..1; () = that of the pretrained weights"),
    "model.input_channels": Key("", one_of("", "RGB", "BGR"), "that pretrained weights take; '' = usual for the file"),
    "model.check_input": Key(True, SWITCH, "refuse images on another scale than the weights were trained on"),
    "model.freeze_statistics": Key(True, SWITCH, "of frozen BatchNorm layers; False: those of each batch"),
    "optimizer.name": Key("sgd", one_of(*OPTIMIZERS), "lbfgs: linear probe on cached features"),
    "optimizer.learning_rate": Key(0.1, above_0(1000), "peak; of muon, for the 3x3 kernels", is_argument=True),
    "optimizer.momentum": Key(0.9, BELOW_1, "Nesterov momentum of sgd, b1 of adamw, beta of muon"),
    "optimizer.weight_decay": Key(
        5e-4, number(0, 1000), "coupled for sgd, else decoupled; not on norms and biases", is_argument=True
    ),
    "optimizer.uniform_decay": Key(False, SWITCH, "sgd: biases decay too, and no multiplier changes the decay"),
    "optimizer.adam_learning_rate": Key(
        2e-3, above_0(1000), "muon: peak for all but the 3x3 kernels", is_argument=True
    ),
    "optimizer.sgd_learning_rate": Key(
        0.1, above_0(1000), "muon_sgd: peak for all but the 3x3 kernels", is_argument=True
    ),
    "optimizer.sgd_momentum": Key(0.9, BELOW_1, "muon_sgd: Nesterov momentum for all but the 3x3 kernels"),
    # The first expression that matches a parameter's path applies; a parameter without a match is an error.
    "optimizer.rules": Key(((".*", 1.0),), MULTIPLIERS, "of the learning rate, by parameter path; 0 freezes"),
    "optimizer.layer_decay": Key(1.0, above_0(1), "multiplies the rate once per stage away from the head"),
    "optimizer.clip_norm": Key(0.0, number(0, LARGE), "global norm of the gradient; 0 = off"),
    "optimizer.accumulate_steps": Key(1, integer(1, 10**6), "whose gradients are averaged into one update", "batches"),
    "optimizer.sam_radius": Key(0.0, number(0, 1000), "sharpness-aware minimization, twice the work; 0 = off"),
    "schedule.name": Key("cosine", one_of("cosine", "linear", "step", "constant"), "after a linear warm-up"),
    "schedule.final_fraction": Key(0.0, number(0, 1), "at the end of cosine and linear", "of the peak"),
    "schedule.initial_fraction": Key(0.0, number(0, 1), "at the start of a warm-up; 0 = 1 / its steps", "of the peak"),
    "schedule.warmup_steps": Key(0, STEPS, "set at most one of the three warm-up keys", "steps"),
    "schedule.warmup_epochs": Key(0.0, number(0, EPOCHS), "see warmup_steps", "epochs"),
    "schedule.warmup_percent": Key(0.0, number(0, 100), "see warmup_steps", "% of all steps"),
    "schedule.head_epochs": Key(0.0, number(0, EPOCHS), "at the start, only the head trains", "epochs"),
    "schedule.whiten_bias_epochs": Key(0.0, number(0, EPOCHS), "in which its rate falls to 0; 0 = as others", "epochs"),
    "schedule.decay_steps": Key((), increasing(integer(1, 10**9)), "schedule step: set one of three keys", "steps"),
    "schedule.decay_epochs": Key((), increasing(above_0(EPOCHS)), "see decay_steps", "epochs"),
    "schedule.decay_percent": Key((), increasing(number(0, 100)), "see decay_steps", "% of all steps"),
    "schedule.decay_factor": Key(0.1, number(0, 1), "schedule step: multiplies the rate at each of these"),
    "train.epochs": Key(20, integer(1, EPOCHS), "passes over the training images"),
    "train.image_sizes": Key((), SIZES, "of the model input in training, an equal share of the epochs each", "pixels"),
    "train.batch_size": Key(512, IMAGES, "over all devices, whose number must divide it", "images"),
    "train.seed": Key(0, SEED, "of initial weights, order and augmentation"),
    "train.seeds": Key(1, integer(1, 1000), "with train.seed, train.seed + 1, ...; reports their mean", "runs"),
    "train.label_smoothing": Key(0.1, BELOW_1, "probability spread over all classes"),
    "train.class_weights": Key("none", one_of("none", "balanced"), "of the loss; balanced: by inverse frequency"),
    "train.cached_features": Key(False, SWITCH, "compute the features of a frozen backbone once; train the head"),
    "train.ema_decay": Key(0.0, BELOW_1, "per update, of averaged weights for evaluation; 0 = off"),
    "train.lookahead_steps": Key(0, STEPS, "until training restarts from a slow average; 0 = off", "steps"),
    "train.hardest_fraction": Key(1.0, above_0(1), "of each batch, by a proxy's loss, to train on; 1 = all"),
    "train.proxy_widths": Key((32, 64, 64), WIDTHS, "of its blocks of two convolutions", "channels"),
    "train.log_every_steps": Key(0, STEPS, "between reads of the metrics; 0 = 10 an epoch", "steps", free=True),
    # 0 = 1 on CPU, the logging interval elsewhere
    "train.steps_per_dispatch": Key(0, STEPS, "in one compiled call; 0 = by device", "steps", free=True),
    "train.init_from": Key("", TEXT, "folder of a run whose weights a new run starts from; '' = none", free=True),
    "evaluation.batch_size": Key(512, IMAGES, "rounded up to a multiple of the devices", "images", free=True),
    "evaluation.tta": Key(False, SWITCH, "test-time augmentation: mirror images and shifts by one pixel"),
    "checkpoint.every_steps": Key(0, STEPS, "besides the end of each epoch; 0 = only there", "steps", free=True),
    "checkpoint.keep": Key(2, integer(1, 10_000), "latest checkpoints, besides the best on validation", free=True),
    "mesh.sized_for": Key("", one_of("", "cpu", "accelerator"), "a recipe's devices; elsewhere a note", free=True),
    "mesh.devices": Key(0, integer(0, 100_000), "number of devices to use; 0 = all", free=True),
    "mesh.fsdp": Key(1, integer(1, 100_000), "devices that share one copy of the parameters", free=True),
    "mesh.fsdp_parameters": Key("kernel$", REGEX, "paths of the parameters that they split", free=True),
    "mesh.cpu_devices": Key(0, integer(0, 256), "parts of the CPU; 0 = one per core that divides the batch", free=True),
    "mesh.compilation_cache": Key(True, SWITCH, "keep compiled programs in $CIFAR_JAX_CACHE/compiled", free=True),
    "ablation": Key((), FIXES, "--mode ablation: the fixes, applied one after another"),
}
# `data.dir` and `model.pretrained` are free because files may move: checksums of their content are compared instead.
FREE_KEYS = frozenset(name for name, key in KEYS.items() if key.free)


def default_config() -> ConfigDict:
    """A new configuration with the default of every key; locked against other keys."""
    config = {}
    for name, key in KEYS.items():
        group, _, leaf = name.rpartition(".")
        (config.setdefault(group, {}) if group else config)[leaf] = key.default
    return ConfigDict(config).lock()
