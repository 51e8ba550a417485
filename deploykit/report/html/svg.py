"""A matplotlib drawing as inline SVG with the page's colours: light, dark and in print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = "#010101"
MUTED: Final = "#020202"
LINE: Final = "#030303"
BLUE: Final = "#040404"
ORANGE: Final = "#050505"
GREEN: Final = "#060606"
PURPLE: Final = "#070707"
GREY: Final = "#080808"
PAPER: Final = "#090909"

VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
    GREY: "--grey",
    PAPER: "--card",
}
"""Placeholder colours of drawings, and the variables of style.css that replace them."""

WIDTH: Final = 420
"""Width of every drawing in CSS pixels: text of size 12 stays readable on a phone 358 pixels wide."""

SETTINGS: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: small, searchable and accessible
    "svg.hashsalt": "deploykit",
    "text.parse_math": False,  # a dollar sign in a name is literal
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # part of matplotlib: the layout does not depend on the machine
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 12,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}

SVG: Final = "{http://www.w3.org/2000/svg}"
LINK: Final = "{http://www.w3.org/1999/xlink}href"


def render_svg(name: str, description: str, height: int, draw: Callable[[Axes], None]) -> Markup:
    """Render what `draw` puts on the axes as an SVG element, `height` CSS pixels high. `name` is unique on the page;
    `description` is the text for screen readers. Equal drawings give equal text.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _isolated_settings():
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        content = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts have them
            figure.savefig(
                content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
    return Markup(_inline_svg(content.getvalue(), name, description))


@contextmanager
def _isolated_settings() -> Iterator[None]:
    """Matplotlib's defaults with SETTINGS: a user's matplotlibrc does not change a report."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams  # its type lists every key
        parameters.update(SETTINGS)
        yield


def strip_control_characters(text: str) -> str:
    """Replace the control characters of a name, which XML does not allow."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "�", text)


def _inline_svg(content: bytes, name: str, description: str) -> str:
    """The SVG element without namespaces, metadata and global style, and with ids that are unique on the page."""
    root = ElementTree.fromstring(content)
    wanted = set(REFERENCE.findall(content.decode()))
    for element in tuple(root.iter()):
        for child in tuple(element):
            if child.tag in UNWANTED:
                element.remove(child)
        element.tag = element.tag.removeprefix(SVG)
        attributes = {"href" if key == LINK else key: _apply_theme(value, name) for key, value in element.items()}
        identifier = attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update(attributes)
        if identifier in wanted:
            element.set("id", f"{name}-{identifier}")
    root.attrib.clear()
    root.attrib.update(viewBox=_view_box(content), role="img")
    root.set("aria-label", strip_control_characters(description))
    return ElementTree.tostring(root, encoding="unicode")


UNWANTED: Final = (f"{SVG}metadata", f"{SVG}style")

REFERENCE: Final = re.compile(r"(?<=[\"(]#)[\w-]+")


def _apply_theme(value: str, name: str) -> str:
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var({variable})")
    value = re.sub(r"font-family:[^;]*;?\s*|(?<=px )'DejaVu Sans'[^;]*", "", value)
    value = re.sub(r"(\.\d\d)\d+", r"\1", value)  # hundredths of a pixel are invisible
    return re.sub(r"^#(?=[\w-]+$)|(?<=url\(#)", lambda match: f"{match[0]}{name}-", value)


def _view_box(content: bytes) -> str:
    match = re.search(rb'viewBox="([^"]*)"', content)
    assert match is not None
    return match[1].decode()
