"""What the header of a .safetensors file states about its network: the layout of the Caffe release, and preprocessing.

The header holds texts. `architecture` is a JSON object with `layout` ("caffe", and words of explanation after a colon),
`stage_sizes`, `width`, `stem_width` and `epsilon`. `preprocessing` is one with `mean` and `std` of the values that
`scale` names ("0..255" or "0..1"), `order` ("RGB" or "BGR") and `size` in pixels. Texts of other programs are ignored.
"""

import json

from cifar_jax.errors import DataError, one_line
from cifar_jax.models.resnet import VARIANTS, ResNet
from cifar_jax.pretrained.hub_config import Stated, stated_preprocessing

_LAYOUT = "caffe"
_MAXIMUM = {"0..255": 255, "0..1": 1}
_PLACE = "its header"


def read(metadata: dict[str, str]) -> Stated | None:
    """None if the header states neither a layout nor preprocessing.

    Raises:
        DataError: another layout, or a value that cannot be read.
    """
    architecture, images = (_object(metadata.get(name, "")) for name in ("architecture", "preprocessing"))
    if "layout" not in architecture and "scale" not in images:
        return None
    try:
        stated = _architecture(architecture) if "layout" in architecture else {}
        if not images:
            return Stated(stated, None, "RGB", _PLACE)
        maximum, order = _MAXIMUM[images["scale"]], _order(images["order"])
        values = {name: [float(value) / maximum for value in images[name]] for name in ("mean", "std")}
        if order == "BGR":
            values = {name: listed[::-1] for name, listed in values.items()}
        scale = stated_preprocessing(values, method="bilinear", size=images.get("size", 224))
        return Stated(stated, scale, order, _PLACE)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise DataError(f"{_PLACE} cannot be understood ({one_line(error)}); write the file without it") from error


def _object(text: str) -> dict:
    """Empty if the text is no JSON object."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _architecture(architecture: dict) -> dict:
    _require_supported(architecture)
    stated = {"variant": _LAYOUT}
    stated |= {name: int(architecture[name]) for name in ("width", "stem_width") if name in architecture}
    if "stage_sizes" in architecture:
        stated["stage_sizes"] = tuple(map(int, architecture["stage_sizes"]))
    return stated


def _require_supported(architecture: dict) -> None:
    layout = str(architecture["layout"]).partition(":")[0].strip().lower()
    epsilon = VARIANTS[_LAYOUT].get("epsilon", ResNet.epsilon)
    if layout != _LAYOUT or architecture.get("epsilon", epsilon) != epsilon:
        found = f"layout {layout[:40]!a}, epsilon {str(architecture.get('epsilon', epsilon))[:20]}"
        raise DataError(f"{_PLACE} states {found}; supported: {_LAYOUT!r}, {epsilon}")


def _order(text: str) -> str:
    order = str(text)[:3].upper()
    if order not in ("RGB", "BGR"):
        raise ValueError(f"order {str(text)[:40]!a}")
    return order
