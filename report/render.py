"""Charts as SVG, PNG and Vega-Lite. No request leaves the process: addresses in a chart are refused."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import vl_convert

SVG = "http://www.w3.org/2000/svg"
PNG_SCALE = 2.0

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may have, by `Char` of its specification. Names of an upload may have it, and a renderer that
meets it in an SVG aborts its process."""
_PICTURES, _REPLACEMENT = 0x2400, "\ufffd"
"""Unicode has a picture of each control character, so that names that differ stay different."""


def vega_lite(chart: Any) -> dict[str, Any]:
    """The chart as a Vega-Lite specification, data included. Control characters in it are replaced by pictures of them,
    others that XML cannot have by U+FFFD."""
    specification: dict[str, Any] = _writable(chart.to_dict())
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


def _writable(value: Any) -> Any:
    """`value`, as JSON has it, with texts that XML can have."""
    if isinstance(value, str):
        return _NO_XML.sub(_picture, value)
    if isinstance(value, dict):
        return {_writable(name): _writable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(member) for member in value]
    return value


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(_PICTURES + code) if code < 0x20 else _REPLACEMENT


def _rename_ids(element: ElementTree.Element, prefix: str) -> None:
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, f"{prefix}-{value}")
        elif value.startswith("url(#"):
            element.set(name, value.replace("url(#", f"url(#{prefix}-", 1))
