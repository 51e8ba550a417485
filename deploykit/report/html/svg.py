"""A drawing by matplotlib as inline SVG that takes its colours from the page: light, dark and on paper."""

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
"""What we draw with, and the variable of style.css that takes its place."""

WIDTH: Final = 420
"""Of every drawing, in CSS pixels: text of 12 stays readable where a phone shows it in 358."""

SETTINGS: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: small, and it can be searched and read aloud
    "svg.hashsalt": "deploykit",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: what is laid out does not depend on the machine
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


def drawing(name: str, said: str, height: int, draw: Callable[[Axes], None]) -> Markup:
    """What `draw` puts on the axes, `height` CSS pixels high, as an element for a page. `name` is unlike that of any
    other drawing there; `said` tells in words what is to be seen. Equal drawings give equal text.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _settings():
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        content = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts have it
            figure.savefig(
                content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
    return Markup(_inline(content.getvalue(), name, said))


@contextmanager
def _settings() -> Iterator[None]:
    """Ours alone: a user's matplotlibrc changes no report."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        every: Any = matplotlib.rcParams  # whose type lists each key there is
        every.update(SETTINGS)
        yield


def plain(text: str) -> str:
    """A name as it may stand in XML, which has no place for control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "�", text)


def _inline(content: bytes, name: str, said: str) -> str:
    """The element alone: no namespaces, no metadata, no style that would reach beyond it, ids of this page's own."""
    root = ElementTree.fromstring(content)
    wanted = set(REFERENCE.findall(content.decode()))
    for element in tuple(root.iter()):
        for child in tuple(element):
            if child.tag in UNWANTED:
                element.remove(child)
        element.tag = element.tag.removeprefix(SVG)
        attributes = {"href" if key == LINK else key: _themed(value, name) for key, value in element.items()}
        identifier = attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update(attributes)
        if identifier in wanted:
            element.set("id", f"{name}-{identifier}")
    root.attrib.clear()
    root.attrib.update(viewBox=_box(content), role="img")
    root.set("aria-label", plain(said))
    return ElementTree.tostring(root, encoding="unicode")


UNWANTED: Final = (f"{SVG}metadata", f"{SVG}style")

REFERENCE: Final = re.compile(r"(?<=[\"(]#)[\w-]+")


def _themed(value: str, name: str) -> str:
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var({variable})")
    value = re.sub(r"font-family:[^;]*;?\s*|(?<=px )'DejaVu Sans'[^;]*", "", value)
    value = re.sub(r"(\.\d\d)\d+", r"\1", value)  # a hundredth of a pixel is seen by nobody
    return re.sub(r"^#(?=[\w-]+$)|(?<=url\(#)", lambda found: f"{found[0]}{name}-", value)


def _box(content: bytes) -> str:
    found = re.search(rb'viewBox="([^"]*)"', content)
    assert found is not None
    return found[1].decode()
