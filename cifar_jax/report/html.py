"""Self-contained HTML and Markdown pages from templates, with inlined figures and without scripts."""

import base64
import io
import re
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from cifar_jax.files.atomic import atomic_path

LARGE = 400_000  # bytes: a larger PNG is reduced to 256 colors, so that a page with ten figures is smaller than 5 MB
SMALLEST, LARGEST = 88, 100  # CSS pixels per inch of a figure: its smallest text, 9 pt, is at least 11 px high
DPI = 200  # of a PNG without that information


def write_page(path: Path, template: str, **values) -> None:
    """Renders a file in templates/ with its variables to `path`, atomically; in HTML every value is escaped.

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
    filters = (percent, interval, signed_interval, number, p_value, breakable)
    environment.filters |= {function.__name__: function for function in filters}
    text = environment.get_template(template).render(**values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def percent(share: float) -> str:
    """0.8878 as '88.78 %'."""
    return f"{100 * share:.2f} %"


def interval(bounds: tuple[float, float]) -> str:
    """Two shares as '88.15 to 89.38'."""
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def signed_interval(bounds: tuple[float, float]) -> str:
    """Two differences of shares, in points: (-0.0079, 0.0168) as '-0.79 to +1.68'."""
    return f"{100 * bounds[0]:+.2f} to {100 * bounds[1]:+.2f}"


def number(value: float) -> str:
    """With thousands separators; below 100 with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def p_value(probability: float) -> str:
    """Two significant digits; never 0, even if it is too small for a float."""
    return f"{probability:.2g}" if probability else "< 1e-300"


def breakable(name: str) -> Markup:
    """A configuration key or run name, escaped, that a browser may break after . _ / and -."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/-])", name))


def inlined(path: Path, *, alt: str) -> Markup:
    """An <img> element with the PNG as a data URI and its size in pixels, so that the layout does not shift on loading.

    The width on the page follows from the width in inches, see `SMALLEST`; a figure wider than the page scrolls.
    """
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # raises if the file is damaged
        width, height = image.size
        inches = width / image.info.get("dpi", (DPI, DPI))[0]
        if len(content) > LARGE:
            smaller = io.BytesIO()
            image.convert("RGB").quantize(256).save(smaller, "png", optimize=True)
            content = smaller.getvalue()
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    style = f"min-width: {SMALLEST * inches:.0f}px; max-width: {LARGEST * inches:.0f}px"
    return Markup('<img src="{}" alt="{}" width="{}" height="{}" style="{}">').format(source, alt, width, height, style)
