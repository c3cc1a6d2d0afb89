"""The range of every configuration key."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Range:
    """The values a key may hold.

    Attributes:
        wanted: completes the sentence 'must be ...'.
        allows: whether a value is one of them.
        names: the choices, where they are names.
    """

    wanted: str
    allows: Callable[[object], bool]
    names: tuple[str, ...] = ()


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def integer(minimum: int, maximum: float = math.inf) -> Range:
    upper = "" if maximum == math.inf else f", at most {maximum}"
    return Range(f"an integer of at least {minimum}{upper}", lambda x: _is_integer(x) and minimum <= x <= maximum)


def at_least(minimum: float) -> Range:
    return Range(f"a finite number of at least {minimum}", lambda x: _is_finite(x) and x >= minimum)


def above(minimum: float) -> Range:
    return Range(f"a finite number above {minimum}", lambda x: _is_finite(x) and x > minimum)


def between(minimum: float, maximum: float) -> Range:
    wanted = f"a finite number from {minimum} to {maximum}"
    return Range(wanted, lambda x: _is_finite(x) and minimum <= x <= maximum)


def from_zero_below(maximum: float) -> Range:
    wanted = f"a finite number of at least 0 and below {maximum}"
    return Range(wanted, lambda x: _is_finite(x) and 0 <= x < maximum)


def above_to(minimum: float, maximum: float) -> Range:
    wanted = f"a finite number above {minimum}, at most {maximum}"
    return Range(wanted, lambda x: _is_finite(x) and minimum < x <= maximum)


def one_of(*names: str) -> Range:
    listed = ", ".join(repr(name) for name in names)
    return Range(f"one of {listed}", lambda x: x in names, names)


def tuple_of(element: Range) -> Range:
    return Range(
        f"a tuple, each element {element.wanted}",
        lambda x: isinstance(x, tuple) and all(element.allows(e) for e in x),
    )


def of_length(elements: Range, *lengths: int) -> Range:
    wanted = f"{elements.wanted}, of {' or '.join(map(str, lengths))} elements"
    return Range(wanted, lambda x: elements.allows(x) and len(x) in lengths)


def increasing(elements: Range) -> Range:
    return Range(
        f"{elements.wanted}, and above the one before",
        lambda x: elements.allows(x) and all(a < b for a, b in itertools.pairwise(x)),
    )


def _is_rule(value: object) -> bool:
    """Whether it is a pair of a regular expression and a multiplier of the learning rate."""
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)):
        return False
    try:
        re.compile(value[0])
    except re.error:
        return False
    return at_least(0).allows(value[1])


def _is_repair(value: object) -> bool:
    """Whether it is a name with pairs of a key and its value."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], tuple)
        and all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in value[1])
    )


REPAIRS = tuple_of(Range("a name with changes, such as ('BatchNorm', (('model.norm', 'batch'),))", _is_repair))
RULES = tuple_of(Range("a pair such as ('.*/kernel', 1.0), a regular expression and a number of at least 0", _is_rule))
FOUR_STAGES = of_length(tuple_of(integer(1)), 4)
COLOR = of_length(tuple_of(Range("a finite number", _is_finite)), 0, 3)
COLOR_ABOVE_0 = of_length(tuple_of(above(0)), 0, 3)
TEXT = Range("text", lambda x: isinstance(x, str))
SWITCH = Range("True or False", lambda x: isinstance(x, bool))

# Every key of configs/default.py: a test holds the two together.
RANGES = {
    "data.name": one_of("cifar10", "cifar100", "shapes", "folder"),
    "data.dir": TEXT,
    "data.fallback": one_of("", "shapes"),
    "data.pipeline": one_of("device"),
    "data.image_size": integer(0),
    "data.validation_fraction": from_zero_below(1),
    "data.split_seed": integer(0, 2**31 - 1),
    "data.limit": integer(0),
    "augment.flip": one_of("none", "random", "alternating"),
    "augment.crop_padding": integer(0),
    "augment.cutout": integer(0),
    "augment.random_resized_crop": between(0, 1),
    "augment.mixup": at_least(0),
    "model.name": one_of("cnn", "resnet"),
    "model.image_size": integer(0),
    "model.dtype": one_of("float32", "bfloat16", "auto"),
    "model.widths": tuple_of(integer(1)),
    "model.convs_per_block": integer(1),
    "model.norm": one_of("batch", "none"),
    "model.whitening": SWITCH,
    "model.variant": one_of("v1", "v1.5", "v2", "d", "bit"),
    "model.stage_sizes": FOUR_STAGES,
    "model.width": integer(1),
    "model.block": one_of("bottleneck", "basic"),
    "model.stem": one_of("", "imagenet", "deep", "small"),
    "model.remat": SWITCH,
    "model.pretrained": TEXT,
    "model.input_mean": COLOR,
    "model.input_std": COLOR_ABOVE_0,
    "model.check_input": SWITCH,
    "model.freeze_statistics": SWITCH,
    "optimizer.name": one_of("sgd", "adamw", "muon", "lbfgs"),
    "optimizer.learning_rate": above(0),
    "optimizer.momentum": from_zero_below(1),
    "optimizer.weight_decay": at_least(0),
    "optimizer.adam_learning_rate": above(0),
    "optimizer.rules": RULES,
    "optimizer.layer_decay": above_to(0, 1),
    "optimizer.clip_norm": at_least(0),
    "optimizer.accumulate_steps": integer(1),
    "schedule.name": one_of("cosine", "linear", "step", "constant"),
    "schedule.final_fraction": between(0, 1),
    "schedule.warmup_steps": integer(0),
    "schedule.warmup_epochs": at_least(0),
    "schedule.warmup_percent": between(0, 100),
    "schedule.head_epochs": at_least(0),
    "schedule.decay_steps": increasing(tuple_of(integer(1))),
    "schedule.decay_epochs": increasing(tuple_of(above(0))),
    "schedule.decay_percent": increasing(tuple_of(between(0, 100))),
    "schedule.decay_factor": between(0, 1),
    "train.epochs": integer(1),
    "train.batch_size": integer(1),
    "train.seed": integer(0, 2**31 - 1),
    "train.seeds": integer(1),
    "train.label_smoothing": from_zero_below(1),
    "train.cached_features": SWITCH,
    "train.ema_decay": from_zero_below(1),
    "train.log_every_steps": integer(0),
    "train.steps_per_dispatch": integer(0),
    "evaluation.batch_size": integer(1),
    "evaluation.tta": SWITCH,
    "checkpoint.every_steps": integer(0),
    "checkpoint.keep": integer(1),
    "mesh.devices": integer(0),
    "mesh.cpu_devices": integer(0),
    "mesh.compilation_cache": SWITCH,
    "repairs": REPAIRS,
}
