"""Between the tensors of a file and the trees of `models.resnet.ResNet`: a bijection, or an error that lists it all."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cifar_jax.errors import DataError
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.pretrained.families import FAMILIES, Family

# What wraps a network puts its own name before the tensors'; TensorFlow numbers a scope that is entered again.
_WRAPPERS = re.compile(r"^(?:module\.|model\.|resnet[./])+")
_NUMBERED_SCOPE = re.compile(r"\b(standardized_conv2d|group_norm)_\d+\b")
_SHOWN = 8  # names in a message, of each kind

Tensors = dict[str, np.ndarray]


def convert(tensors: Tensors, *, where: str) -> tuple[Family, dict, dict, dict]:
    """The trees that a file's tensors are.

    Stage sizes, width, kind of block and classes follow from the tensors, so that a small network of the same naming
    converts like a ResNet-50. Kernels become (height, width, in, out), float32. Of Keras's first version, the biases of
    the convolutions go into the running means of the norms behind them (mean - bias: in training they cancel), and the
    first kernel takes RGB.

    Args:
        where: the file, for messages.

    Returns:
        The family, the architecture (`variant`, `stage_sizes`, `width` and `block`), `params` and `batch_stats`.

    Raises:
        DataError: an unknown naming; or every tensor that is missing, left over, of a wrong shape or not finite.
    """
    family, tensors = _recognize(tensors, where)
    architecture = _architecture(family, tensors)
    shapes = parameter_shapes(**architecture, num_classes=_classes(family, tensors))
    if family.caffe:
        shapes |= _biases(shapes)
    ours = {path: _our_layout(tensors.pop(name), path, family) for path, name in _present(family, shapes, tensors)}
    _require_bijection(family, shapes, ours, left_over=tensors, where=where)
    if family.caffe:
        _fold_caffe(ours, shapes)
    statistics = {path: array for path, array in ours.items() if path.endswith(("/mean", "/var"))}
    params = {path: array for path, array in ours.items() if path not in statistics}
    return family, architecture, unflatten_dict(params, sep="/"), unflatten_dict(statistics, sep="/")


def foreign(params: dict, batch_stats: dict, family: Family) -> Tensors:
    """The tensors of the trees as `family` names and lays them out: `convert` gives back the very same trees."""
    ours = flatten_dict(params, sep="/") | flatten_dict(batch_stats, sep="/")
    if family.caffe:
        shapes = {path: array.shape for path, array in ours.items()}
        ours |= {path: np.zeros(shape, np.float32) for path, shape in _biases(shapes).items()}
        ours["stem_conv1/kernel"] = ours["stem_conv1/kernel"][:, :, ::-1]
    return {family.name(path): np.ascontiguousarray(_their_layout(array, family)) for path, array in ours.items()}


def parameter_shapes(*, num_classes: int, **architecture) -> dict[str, tuple[int, ...]]:
    """{path: shape} of every parameter and statistic; nothing is computed. Without a head for 0 classes."""
    variant = VARIANTS[architecture.pop("variant")]
    model = ResNet(num_classes=num_classes or 1, **{**variant, **architecture})
    initialize = functools.partial(model.init, train=False)
    abstract = jax.eval_shape(initialize, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    shapes = {path: leaf.shape for tree in abstract.values() for path, leaf in flatten_dict(tree, sep="/").items()}
    return {path: shape for path, shape in shapes.items() if num_classes or not path.startswith("head/")}


def _recognize(tensors: Tensors, where: str) -> tuple[Family, Tensors]:
    """The family of the names, and the tensors without wrappers' prefixes and without what the family ignores."""
    renamed: Tensors = {}
    for name, array in tensors.items():
        short = _NUMBERED_SCOPE.sub(r"\1", _WRAPPERS.sub("", name))
        if short in renamed:
            raise DataError(f"{where}: {name} and another tensor are both {short}; keep one of the two networks")
        renamed[short] = array
    for family in FAMILIES:
        if any(re.search(family.mark, name) for name in renamed):
            return family, {name: array for name, array in renamed.items() if not re.search(family.ignored, name)}
    some = ", ".join(list(tensors)[:3]) or "no tensors"
    raise DataError(
        f"{where}: not the names of a ResNet of Keras, torchvision, timm, Hugging Face or BiT ({some}, ...)"
    )


def _architecture(family: Family, tensors: Tensors) -> dict:
    blocks = {match.groups() for match in map(re.compile(family.block).match, tensors) if match}
    stages = sorted({stage for stage, _ in blocks}, key=int)
    stem = family.name(f"stem_conv{3 if 'stem_conv3' in family.layers else 1}/kernel")
    kernel = tensors.get(stem, np.empty(0))
    thirds = {family.name(f"stage{s}_block1/conv3/kernel") for s in range(1, len(stages) + 1)}
    return {
        "variant": family.variant,
        "stage_sizes": tuple(sum(stage == other for other, _ in blocks) for stage in stages),
        "width": (kernel.shape[0] if family.torch_layout else kernel.shape[-1]) if kernel.ndim == 4 else 64,
        "block": "bottleneck" if thirds & tensors.keys() else "basic",
    }


def _classes(family: Family, tensors: Tensors) -> int:
    """0 where the file has no classifier."""
    bias, kernel = (tensors.get(family.name(f"head/{leaf}")) for leaf in ("bias", "kernel"))
    if bias is not None:
        return bias.size
    return 0 if kernel is None else kernel.shape[0 if family.torch_layout else -1]


def _biases(shapes: dict) -> dict[str, tuple[int, ...]]:
    """The biases that Keras's first version has in front of its norms."""
    kernels = {path: shape for path, shape in shapes.items() if len(shape) == 4}
    return {path.replace("/kernel", "/bias"): (shape[-1],) for path, shape in kernels.items()}


def _present(family: Family, shapes: dict, tensors: Tensors) -> list[tuple[str, str]]:
    names = [(path, family.name(path)) for path in shapes]
    return [(path, name) for path, name in names if name in tensors]


def _our_layout(array: np.ndarray, path: str, family: Family) -> np.ndarray:
    if family.torch_layout and array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    if path == "head/kernel":
        if family.torch_layout:
            array = array.T
        elif array.ndim == 4:  # BiT: a 1x1 convolution
            array = array.reshape(array.shape[-2:])
    numbers = jnp.issubdtype(array.dtype, jnp.floating)
    return np.ascontiguousarray(array, np.float32) if numbers else array


def _their_layout(array: np.ndarray, family: Family) -> np.ndarray:
    if family.torch_layout and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if family.torch_layout else array


def _require_bijection(family: Family, shapes: dict, ours: Tensors, *, left_over: Tensors, where: str) -> None:
    floats = {path: array for path, array in ours.items() if array.dtype == np.float32}
    problems = {
        "missing": [family.name(path) for path in shapes.keys() - ours.keys()],
        "left over": list(left_over),
        "of a wrong shape": [
            f"{family.name(path)} {_our_shape(array.shape)} for {_our_shape(shapes[path])}"
            for path, array in ours.items()
            if array.shape != shapes[path]
        ],
        "not floating point": [family.name(path) for path in ours.keys() - floats.keys()],
        "not finite": [family.name(path) for path, array in floats.items() if not np.isfinite(array).all()],
    }
    listed = [_list(kind, names) for kind, names in problems.items() if names]
    if listed:
        raise DataError(f"{where}: not the weights of a whole {family.variant} ResNet: {'; '.join(listed)}")


def _our_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _list(kind: str, names: list[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{more})"


def _fold_caffe(ours: Tensors, shapes: dict) -> None:
    """Biases into the running means, and BGR into RGB; float32 keeps a zero bias and a second flip exact."""
    for path in _biases({path: shape for path, shape in shapes.items() if len(shape) == 4}):
        statistics = path.replace("conv", "norm").replace("/bias", "/mean")
        ours[statistics] = ours[statistics] - ours.pop(path)
    ours["stem_conv1/kernel"] = np.ascontiguousarray(ours["stem_conv1/kernel"][:, :, ::-1])
