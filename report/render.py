"""Charts as SVG, PNG and Vega-Lite. No request leaves the process: addresses in a chart are refused."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import vl_convert

SVG = "http://www.w3.org/2000/svg"
PNG_SCALE = 2.0


def vega_lite(chart: Any) -> dict[str, Any]:
    """The chart as a Vega-Lite specification, data included."""
    specification: dict[str, Any] = chart.to_dict()
    return specification


def svg(chart: Any, title: str, description: str = "", *, prefix: str = "") -> str:
    """The chart as an SVG file of its own. Marks have a `<title>`, which browsers show where the pointer is.

    Args:
        title: what the whole shows, for those who cannot see it.
        description: more of it.
        prefix: of the ids in it, which must differ between charts of one page.
    """
    text = vl_convert.vegalite_to_svg(vega_lite(chart), allowed_base_urls=[])
    return _described(text, title, description, prefix)


def png(chart: Any) -> bytes:
    """The chart as a PNG file, with two pixels for each of the SVG."""
    image: bytes = vl_convert.vegalite_to_png(vega_lite(chart), scale=PNG_SCALE, allowed_base_urls=[])
    return image


def _described(text: str, title: str, description: str, prefix: str) -> str:
    """`text` with an accessible name; what is said of a mark also as its title; ids with `prefix`."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(text)  # noqa: S314 - the renderer's own output, which has no entities
    for element in list(root.iter()):
        # what the marks say is enough: "rect mark container" and the like are read out as noise
        element.attrib.pop("aria-roledescription", None)
        if prefix:
            _rename_ids(element, prefix)
        label = element.attrib.get("aria-label")
        if label is not None and element.get("role") == "graphics-symbol":
            ElementTree.SubElement(element, f"{{{SVG}}}title").text = label
    root.set("role", "img")
    root.set("aria-label", title)
    if description:
        about = ElementTree.Element(f"{{{SVG}}}desc")
        about.text = description
        root.insert(0, about)
    return ElementTree.tostring(root, encoding="unicode")


def _rename_ids(element: ElementTree.Element, prefix: str) -> None:
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, f"{prefix}-{value}")
        elif value.startswith("url(#"):
            element.set(name, value.replace("url(#", f"url(#{prefix}-", 1))
