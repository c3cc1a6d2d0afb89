"""Pages from templates: self-contained, with figures inlined and no script."""

import base64
import io
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from cifar_jax.files.atomic import atomic_path

LARGE = 400_000  # bytes of a PNG: above, it is inlined with 256 colors; ten such figures stay below 5 MB


def write_page(path: Path, template: str, **values) -> None:
    """Fills in the template of that name and replaces `path` by it at once; in HTML every value is escaped.

    Raises:
        OSError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_jax.report"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "number": number, "p_value": p_value}
    text = environment.get_template(template).render(**values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def percent(share: float) -> str:
    """0.8878 as '88.78 %'."""
    return f"{100 * share:.2f} %"


def interval(bounds: tuple[float, float]) -> str:
    """Two shares as '88.15 to 89.38'."""
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def number(value: float) -> str:
    """With a separator of thousands; below 100 with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def p_value(probability: float) -> str:
    """With two significant digits; what is too small for a float is no zero."""
    return f"{probability:.2g}" if probability else "< 1e-300"


def inlined(path: Path, *, alt: str) -> Markup:
    """An <img> that holds the PNG itself, with its size so that the page does not jump while it loads."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        if len(content) > LARGE:
            smaller = io.BytesIO()
            image.convert("RGB").quantize(256).save(smaller, "png", optimize=True)
            content = smaller.getvalue()
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Markup('<img src="{}" alt="{}" width="{}" height="{}">').format(source, alt, width, height)
