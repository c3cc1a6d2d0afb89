"""Converts between the tensors of a file and the trees of `models.resnet.ResNet`, one to one."""

import re

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cifar_jax.errors import DataError
from cifar_jax.models.classifier import abstract_variables
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.pretrained.families import FAMILIES, Family

# Modules that wrap a network prefix the names of its tensors; TensorFlow numbers a scope that is entered again.
_WRAPPERS = re.compile(r"^(?:module\.|model\.|resnet[./])+")
_NUMBERED_SCOPE = re.compile(r"\b(standardized_conv2d|group_norm)_\d+\b")
_MAX_LISTED = 8  # names per kind of problem in an error message

Tensors = dict[str, np.ndarray]


def convert(tensors: Tensors, *, where: str) -> tuple[Family, dict, dict, dict]:
    """Converts the tensors of a file to Flax trees; the architecture and number of classes follow from the tensors.

    Kernels become (height, width, in, out), float32. For Keras v1, the biases of the convolutions are folded into the
    running means of the norms after them (mean - bias; in training they cancel), and the first kernel is reordered
    from BGR to RGB.

    Args:
        tensors: by name; emptied.
        where: the file, for messages.

    Returns:
        The family, the architecture (`variant`, `stage_sizes`, `width` and `block`), `params` and `batch_stats`.

    Raises:
        DataError: the naming is unknown, or tensors do not fit; lists all of them.
    """
    family, tensors = _recognize(tensors, where)
    architecture = _architecture(family, tensors)
    shapes = parameter_shapes(**architecture, num_classes=_num_classes(family, tensors))
    if family.caffe:
        shapes |= _biases(shapes)
    matched = {path: tensors.pop(name) for path in shapes if (name := family.name(path)) in tensors}
    ours = {path: _our_layout(array, path, family) for path, array in matched.items()}
    _require_bijection(family, shapes, ours, unexpected=tensors, where=where)
    if family.caffe:
        for path in _biases(shapes):
            mean = path.replace("conv", "norm").replace("/bias", "/mean")
            ours[mean] = ours[mean] - ours.pop(path)  # exact for the zero biases that `foreign` writes
        ours["stem_conv1/kernel"] = np.ascontiguousarray(ours["stem_conv1/kernel"][:, :, ::-1])
    statistics = {path: array for path, array in ours.items() if path.endswith(("/mean", "/var"))}
    params = {path: array for path, array in ours.items() if path not in statistics}
    return family, architecture, unflatten_dict(params, sep="/"), unflatten_dict(statistics, sep="/")


def foreign(params: dict, batch_stats: dict, family: Family) -> Tensors:
    """The trees as tensors with the names and layout of `family`; `convert` returns identical trees from them."""
    ours = flatten_dict(params, sep="/") | flatten_dict(batch_stats, sep="/")
    if family.caffe:
        shapes = {path: array.shape for path, array in ours.items()}
        ours |= {path: np.zeros(shape, np.float32) for path, shape in _biases(shapes).items()}
        ours["stem_conv1/kernel"] = ours["stem_conv1/kernel"][:, :, ::-1]
    if family.torch_layout:
        ours = {path: array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T for path, array in ours.items()}
    return {family.name(path): np.ascontiguousarray(array) for path, array in ours.items()}


def parameter_shapes(*, num_classes: int, variant: str, **architecture) -> dict[str, tuple[int, ...]]:
    """{path: shape} of every parameter and statistic; nothing is computed. No head if `num_classes` is 0."""
    model = ResNet(num_classes=num_classes or 1, **VARIANTS[variant], **architecture)
    trees = abstract_variables(model, image_size=64).values()
    shapes = {path: leaf.shape for tree in trees for path, leaf in flatten_dict(tree, sep="/").items()}
    return {path: shape for path, shape in shapes.items() if num_classes or not path.startswith("head/")}


def _recognize(tensors: Tensors, where: str) -> tuple[Family, Tensors]:
    """The family of the names, and the tensors without prefixes of wrappers and without ignored names."""
    renamed: Tensors = {}
    for name, array in tensors.items():
        short = _NUMBERED_SCOPE.sub(r"\1", _WRAPPERS.sub("", name))
        if short in renamed:
            raise DataError(f"{where}: {name} and another tensor both map to {short}; keep one of the two networks")
        renamed[short] = array
    for family in FAMILIES:
        if any(re.search(family.signature, name) for name in renamed):
            return family, {name: array for name, array in renamed.items() if not re.search(family.ignored, name)}
    names = ", ".join(list(tensors)[:3]) or "no tensors"
    raise DataError(
        f"{where}: no ResNet with tensor names of Keras, torchvision, timm, Hugging Face or BiT ({names}, ...)"
    )


def _architecture(family: Family, tensors: Tensors) -> dict:
    blocks = {match.groups() for match in map(re.compile(family.block).match, tensors) if match}
    stages = sorted({stage for stage, _ in blocks}, key=int)
    stem = family.name(f"stem_conv{3 if 'stem_conv3' in family.layers else 1}/kernel")
    kernel = tensors.get(stem, np.empty(0))
    third_convs = {family.name(f"stage{s}_block1/conv3/kernel") for s in range(1, len(stages) + 1)}
    return {
        "variant": family.variant,
        "stage_sizes": tuple(sum(stage == other for other, _ in blocks) for stage in stages),
        "width": (kernel.shape[0] if family.torch_layout else kernel.shape[-1]) if kernel.ndim == 4 else 64,
        "block": "bottleneck" if third_convs & tensors.keys() else "basic",
    }


def _num_classes(family: Family, tensors: Tensors) -> int:
    """0 if the file has no classifier."""
    bias, kernel = (tensors.get(family.name(f"head/{leaf}")) for leaf in ("bias", "kernel"))
    if bias is not None:
        return bias.size
    return 0 if kernel is None else kernel.shape[0 if family.torch_layout else -1]


def _biases(shapes: dict) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the biases that Keras's first version has before its norms."""
    kernels = {path: shape for path, shape in shapes.items() if len(shape) == 4}
    return {path.replace("/kernel", "/bias"): (shape[-1],) for path, shape in kernels.items()}


def _our_layout(array: np.ndarray, path: str, family: Family) -> np.ndarray:
    if family.torch_layout and array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    if path == "head/kernel":
        if family.torch_layout:
            array = array.T
        elif array.ndim == 4:  # BiT: a 1x1 convolution
            array = array.reshape(array.shape[-2:])
    is_float = jnp.issubdtype(array.dtype, jnp.floating)  # bfloat16 too, unlike `np.issubdtype`
    return np.ascontiguousarray(array, np.float32) if is_float else array


def _require_bijection(family: Family, shapes: dict, ours: Tensors, *, unexpected: Tensors, where: str) -> None:
    floats = {path: array for path, array in ours.items() if array.dtype == np.float32}
    problems = {
        "missing": [family.name(path) for path in shapes.keys() - ours.keys()],
        "unexpected": list(unexpected),
        "of a wrong shape": [
            f"{family.name(path)} {'x'.join(map(str, array.shape))} instead of {'x'.join(map(str, shapes[path]))}"
            for path, array in ours.items()
            if array.shape != shapes[path]
        ],
        "not floating point": [family.name(path) for path in ours.keys() - floats.keys()],
        "not finite": [family.name(path) for path, array in floats.items() if not np.isfinite(array).all()],
    }
    listed = [_list(kind, names) for kind, names in problems.items() if names]
    if listed:
        raise DataError(f"{where}: not a complete {family.variant} ResNet: {'; '.join(listed)}")


def _list(kind: str, names: list[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:_MAX_LISTED])}{more})"
