"""Charts as files: well-formed, described, and with no way out."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from xml.etree import ElementTree

import altair as alt
import pytest

from report import Documents, charts, render

NAMESPACE = "{http://www.w3.org/2000/svg}"


def test_marks_say_what_they_are_and_ids_have_their_prefix(documents: Documents) -> None:
    text = render.svg(charts.frontier(documents), "Size against damage", "two panels", prefix="frontier")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{NAMESPACE}svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", "Size against damage")
    assert root.findtext(f"{NAMESPACE}desc") == "two panels"
    titles = [element.text or "" for element in root.iter(f"{NAMESPACE}title")]
    assert any(title.startswith("delivered: ") for title in titles)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(str(name).startswith("frontier-") for name in ids)
    assert "aria-roledescription" not in text


def test_names_of_an_upload_are_texts_in_an_svg() -> None:
    hostile = '</text><script>alert(1)</script>"&'
    chart = (
        alt.Chart(alt.InlineData(values=[{"a": hostile, "b": 1}]))
        .mark_bar()
        .encode(x="b:Q", y="a:N", description="a:N")
    )
    text = render.svg(chart, hostile)
    assert "<script" not in text
    labels = [element.get("aria-label") for element in ElementTree.fromstring(text).iter()]
    assert labels.count(hostile) == 2


@pytest.mark.parametrize(
    ("character", "drawn"),
    [
        *[(chr(code), chr(0x2400 + code)) for code in (0, 1, 8, 11, 31)],
        *[("\ufffe", "\ufffd"), ("\uffff", "\ufffd"), ("\ud800", "\ufffd"), ("\udfff", "\ufffd")],
        *[("\ue000", "\ue000"), ("\U0001f600", "\U0001f600"), ("\x7f", "\x7f")],
    ],
)
def test_a_name_with_what_xml_cannot_have_is_drawn(documents: Documents, character: str, drawn: str) -> None:
    plan = copy.deepcopy(dict(documents.plan or {}))
    plan["layers"][0]["name"] = f"conv{character}"
    chart = charts.layers(replace(documents, plan=plan))
    # checked before it is given to the renderer, which would abort this process too
    json.dumps(render.vega_lite(chart), ensure_ascii=False).encode()
    assert f"conv{drawn}" in str(render.vega_lite(chart)) or not drawn.isprintable()
    labels = [element.get("aria-label", "") for element in ElementTree.fromstring(render.svg(chart, "")).iter()]
    assert any(label.startswith(f"conv{drawn} (") for label in labels)


def test_an_image_has_two_pixels_for_each(documents: Documents) -> None:
    image = render.png(charts.stages(documents))
    assert image.startswith(b"\x89PNG\r\n")
    width = int.from_bytes(image[16:20])
    drawn = ElementTree.fromstring(render.svg(charts.stages(documents), "")).get("width")
    assert width == pytest.approx(2 * float(drawn or 0), abs=2)


def test_a_chart_asks_nobody_for_data() -> None:
    chart = alt.Chart(alt.UrlData(url="http://127.0.0.1:9/data.json")).mark_bar().encode(x="a:Q")
    with pytest.raises(ValueError, match="External data url not allowed"):
        render.svg(chart, "empty")
