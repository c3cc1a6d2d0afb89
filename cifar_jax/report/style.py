"""The style of all figures: readable on a phone, with color blindness, and in print.

Figures are built without pyplot, so that they leave no global state and need no display.
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

WIDTH = 6.5  # inches: the text width of a page; wider than a phone's screen, where it scrolls
NARROW = 4.15  # inches: fits a screen 390 px wide with 9 pt text 11 px high, see `html.SMALLEST`
DPI = 200

# Okabe and Ito (2008), distinguishable with every kind of color blindness; dark and light alternate
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE)
GRAY = "#595959"

STYLE = {
    "font.family": "DejaVu Sans",  # ships with Matplotlib: the same figure everywhere
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "text.parse_math": False,  # a dollar sign in a class name is not math
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@contextlib.contextmanager
def figure(path: pathlib.Path, *, title: str, height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Yields a figure to draw on; it is written to `path` as PNG, atomically, if the block ends without an error.

    `height` and `width` are in inches; the height is without the title, whose long lines are wrapped.

    Raises:
        OSError: the file cannot be written.
    """
    unbroken = title.replace(" = ", "\u00a0=\u00a0")  # no line break within 'n = 10,000'
    columns = int(66 * width / WIDTH)
    lines = [part for line in unbroken.splitlines() for part in textwrap.wrap(printable(line), columns)]
    with matplotlib.style.context(["default", STYLE]):  # the user's matplotlibrc is ignored
        canvas = FigureCanvasAgg(Figure((width, height + 0.2 * len(lines)), DPI, layout="constrained"))
        canvas.figure.suptitle("\n".join(lines), x=0.01, horizontalalignment="left")
        yield canvas.figure
        with atomic_path(path) as temporary:
            # without the library's version: the same figure gives the same bytes
            canvas.figure.savefig(temporary, format="png", metadata={"Software": None})


def printable(text: str) -> str:
    """`text` with characters that the font lacks replaced by their code points, such as \\u732b."""
    font = font_manager.get_font(font_manager.findfont(STYLE["font.family"]))
    return "".join(c if font.get_char_index(ord(c)) else f"\\u{ord(c):04x}" for c in text)


def short(name: str, length: int = 18) -> str:
    """A class name for a tick label: printable, and a long name shortened in the middle."""
    name = printable(name)
    if len(name) <= length:
        return name
    head = 2 * length // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"
