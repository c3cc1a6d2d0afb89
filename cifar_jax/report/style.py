"""The one look of every figure: read on a phone, by the color-blind, and in print.

Figures are built without pyplot, so that drawing them leaves no state behind and never asks for a display.
"""

import contextlib
import pathlib
import textwrap
from collections.abc import Iterator

import matplotlib.style
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cifar_jax.files.atomic import atomic_path

WIDTH = 6.5  # inches: the text width of a page, and a phone's screen with 9 pt still readable
DPI = 200

# Okabe and Ito (2008), told apart with every kind of color blindness; the order alternates dark and light
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE)
GRAY = "#595959"

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@contextlib.contextmanager
def figure(path: pathlib.Path, *, title: str, height: float) -> Iterator[Figure]:
    """A figure to draw on, written to `path` as PNG when the block ends; an error leaves nothing behind.

    Args:
        path: of the PNG; missing folders are made. It is replaced at once, never half there.
        title: stands above the axes at the left; long lines are wrapped.
        height: inches, without the title's.

    Raises:
        OSError: the file cannot be written.
    """
    together = title.replace(" = ", "\u00a0=\u00a0")  # an n stays with its number
    lines = [part for line in together.splitlines() for part in textwrap.wrap(printable(line), 66)]
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own matplotlibrc says
        canvas = FigureCanvasAgg(Figure((WIDTH, height + 0.2 * len(lines)), DPI, layout="constrained"))
        canvas.figure.suptitle("\n".join(lines), x=0.01, horizontalalignment="left")
        yield canvas.figure
        with atomic_path(path) as temporary:
            # no version of the library inside: the same figure gives the same bytes
            canvas.figure.savefig(temporary, format="png", metadata={"Software": None})


def printable(text: str) -> str:
    """`text` with every character that the font lacks written as its code point, such as \\u732b."""
    font = font_manager.get_font(font_manager.findfont(STYLE["font.family"]))
    return "".join(c if font.get_char_index(ord(c)) else f"\\u{ord(c):04x}" for c in text)


def short(name: str, length: int = 18) -> str:
    """A class name for a tick label: printable, and where it is long cut towards the end, which it keeps."""
    name = printable(name)
    if len(name) <= length:
        return name
    head = 2 * length // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"


def width(names: list[str]) -> float:
    """Inches that the longest of `names` takes as a tick label, roughly."""
    return 0.075 * max(map(len, names))
