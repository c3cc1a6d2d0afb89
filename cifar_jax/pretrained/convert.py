"""Converts between the tensors of a file and the trees of `models.resnet.ResNet`, one to one."""

import re

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cifar_jax.errors import DataError, one_line
from cifar_jax.models.classifier import abstract_variables
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.pretrained.families import CAFFE_RELEASE, FAMILIES, TORCHVISION, Family

# TensorFlow numbers a scope that is entered again.
_NUMBERED_SCOPE = re.compile(r"\b(standardized_conv2d|group_norm)_\d+\b")
# Words in the names of what people put behind or beside a network. Only dense layers: a convolution may be part of it.
_BEHIND = re.compile(
    r"(?:^|[_./\d])(?:fc|heads?|class(?:if\w*|es)?|cls|linear|dense|logits?|predict\w*|proj\w*|mlp|out|output|final|"
    r"criterion|loss|metrics?|acc|accuracy|queue|prototypes?)(?:$|[_./\d])"
)
_MAX_LISTED = 8  # names per kind of problem in an error message
_MAX_SHOWN = 80  # characters of a name in an error message
_MAX_STAGES, _MAX_BLOCKS, _MAX_WIDTH = 8, 500, 4096  # more than in any published ResNet
_MAX_PREFIX = 8  # modules that wrap a network

Tensors = dict[str, np.ndarray]


def convert(tensors: Tensors, *, where: str, variant: str = "") -> tuple[Family, dict, dict, dict]:
    """Converts the tensors of a file to Flax trees; the architecture and number of classes follow from the tensors.

    Kernels become (height, width, in, out), float32. For Keras v1, the biases of the convolutions are folded into the
    running means of the norms after them (mean - bias; in training they cancel), and the first kernel is reordered
    from BGR to RGB.

    Modules that wrap the network prefix the names of its tensors; any such prefix is removed.

    Args:
        tensors: by name; afterwards, those that are left aside: they are no part of the network.
        where: the file, for messages.
        variant: 'caffe' if the file states this layout; its tensors have torchvision's names.

    Returns:
        The family, the architecture as of `Backbone.architecture`, `params` and `batch_stats`.

    Raises:
        DataError: the naming is unknown, or tensors do not fit; lists all of them.
    """
    family, named = _recognize(tensors, where)
    if family is TORCHVISION and (variant == CAFFE_RELEASE.variant or _has_stem_of_its_own(named)):
        family = CAFFE_RELEASE
    tensors.clear()
    architecture = _architecture(family, named, where)
    try:
        shapes = parameter_shapes(**architecture, num_classes=_num_classes(family, named))
    except (ValueError, TypeError, ArithmeticError) as error:  # such as 32 groups of 8 channels
        raise DataError(f"{where}: no ResNet has these shapes: {architecture} ({one_line(error)})") from error
    if family.caffe:
        shapes |= _biases(shapes)
    matched = {path: named.pop(name) for path in shapes if (name := family.name(path)) in named}
    tensors.update({name: named.pop(name) for name in list(named) if _is_aside(family, name, named[name])})
    ours = {path: _our_layout(array, path, family) for path, array in matched.items()}
    _require_bijection(family, shapes, ours, unexpected=named, where=where)
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
    """The family of the names, and the tensors without the prefix of the modules that wrap the network."""
    for family in FAMILIES:
        names = (name for name in tensors if not re.search(family.ignored, name))
        prefixes = sorted({prefix for name in names if (prefix := _prefix(family, name)) is not None})
        if prefixes:
            break
    else:
        names = ", ".join(_shown(name) for name in list(tensors)[:3]) or "no tensors"
        raise DataError(
            f"{where}: no ResNet with tensor names of Keras, torchvision, timm, Hugging Face or BiT ({names}, ...)"
        )
    if len(prefixes) > 1:
        listed = ", ".join(_shown(prefix) or "''" for prefix in prefixes[:_MAX_LISTED])
        raise DataError(
            f"{where}: weights of {len(prefixes)} networks, whose names begin with {listed}; keep one of them"
        )
    wrappers = re.split(r"(?<=[./])", prefixes[0])[:-1]
    named: Tensors = {}
    for name, array in tensors.items():
        short = name
        for wrapper in wrappers:  # a head may be outside of some
            short = short.removeprefix(wrapper)
        short = _NUMBERED_SCOPE.sub(r"\1", short)
        if short in named:
            raise DataError(f"{where}: two tensors are named {_shown(short)}; keep one of them")
        named[short] = array
    return family, named


def _prefix(family: Family, name: str) -> str | None:
    """What precedes a name of this family; None if it is not one."""
    starts = [0, *(match.end() for match in re.finditer(r"[./]", name))][: _MAX_PREFIX + 1]
    return next((name[:start] for start in starts if re.search(family.signature, name[start:])), None)


def _is_aside(family: Family, name: str, array: np.ndarray) -> bool:
    """Whether a tensor that matches no layer is known to be no part of the network."""
    if re.search(family.ignored, name):
        return True
    return not re.match(family.block, name) and array.ndim <= 2 and bool(_BEHIND.search(name))


def _has_stem_of_its_own(tensors: Tensors) -> bool:
    """Whether the stem has another width than the plain bottlenecks after it, as in no network of torchvision."""
    paths = ("stem_conv1/kernel", "stage1_block1/conv1/kernel", "stage1_block1/conv3/kernel")
    stem, inside, outside = (_outputs(TORCHVISION, tensors, path) for path in paths)
    return 0 < inside != stem and outside == 4 * inside


def _outputs(family: Family, tensors: Tensors, path: str) -> int:
    """Output channels of a convolution; 0 without it."""
    kernel = tensors.get(family.name(path), np.empty(0))
    return kernel.shape[0 if family.torch_layout else -1] if kernel.ndim == 4 else 0


def _architecture(family: Family, tensors: Tensors, where: str) -> dict:
    blocks = {match.groups() for match in map(re.compile(family.block).match, tensors) if match}
    stages = sorted({stage for stage, _ in blocks}, key=int)
    if len(stages) > _MAX_STAGES or len(blocks) > _MAX_BLOCKS:
        raise DataError(
            f"{where}: {len(stages)} stages of {len(blocks)} blocks; at most {_MAX_STAGES} of {_MAX_BLOCKS}"
        )
    stem = _outputs(family, tensors, f"stem_conv{3 if 'stem_conv3' in family.layers else 1}/kernel")
    width = _outputs(family, tensors, "stage1_block1/conv1/kernel") if family is CAFFE_RELEASE else stem
    third_convs = {family.name(f"stage{s}_block1/conv3/kernel") for s in range(1, len(stages) + 1)}
    return {
        "variant": family.variant,
        "stage_sizes": tuple(sum(stage == other for other, _ in blocks) for stage in stages),
        "width": width if 0 < width <= _MAX_WIDTH else 64,
        "stem_width": stem if width != stem <= _MAX_WIDTH else 0,
        "block": "bottleneck" if third_convs & tensors.keys() else "basic",
    }


def _num_classes(family: Family, tensors: Tensors) -> int:
    """0 if the file has no classifier."""
    bias, kernel = (tensors.get(family.name(f"head/{leaf}")) for leaf in ("bias", "kernel"))
    if bias is not None:
        return bias.size
    return 0 if kernel is None or not kernel.ndim else kernel.shape[0 if family.torch_layout else -1]


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
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused as such
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
        "of variances that are negative or all 0": [
            family.name(path)
            for path, array in floats.items()
            if path.endswith("/var") and array.size and (array.min() < 0 or not array.any())
        ],
    }
    listed = [_list(kind, names) for kind, names in problems.items() if names]
    if listed:
        hint = "; a ResNeXt, a wide ResNet and others that share its names do not fit"
        siblings = hint if problems["of a wrong shape"] or problems["unexpected"] else ""
        raise DataError(f"{where}: not a complete {family.variant} ResNet: {'; '.join(listed)}{siblings}")


def _list(kind: str, names: list[str]) -> str:
    names = sorted(map(_shown, names))
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:_MAX_LISTED])}{more})"


def _shown(name: str) -> str:
    """A name that a file chose, short and without control characters."""
    return ascii(name)[1:-1][:_MAX_SHOWN]
