"""Everything that is made of documents, by the name of its file: charts, the page, the model card."""

from __future__ import annotations

from report import charts, render
from report.charts.theme import Theme
from report.contents import ACROSS_JOBS, CHARTS, MODEL_CARD, PAGE
from report.documents import Documents
from report.model_card import model_card
from report.page import page

FACTS = {**CHARTS, **ACROSS_JOBS}


class Missing(LookupError):
    """The job left nothing behind of which this could be made; the text says what."""


def make(file: str, documents: Documents, theme: str = Theme.LIGHT) -> bytes:
    """The file `report.html`, `model-card.md`, or `charts/NAME.svg` or `.png`, where NAME is one of `FACTS`.

    Args:
        theme: of a chart; the page is light or dark as its reader's browser is.

    Raises:
        Missing: the documents have nothing to show in it.
        ValueError: there is no such file.
    """
    if file == PAGE:
        return _utf8(page(documents))
    if file == MODEL_CARD:
        return _utf8(model_card(documents))
    folder, _, name = file.rpartition("/")
    stem, _, kind = name.rpartition(".")
    if folder != "charts" or stem not in FACTS or kind not in ("svg", "png"):
        raise ValueError(
            f"a file is {PAGE}, {MODEL_CARD} or charts/NAME.svg or .png with NAME one of {', '.join(FACTS)}, "
            f"got {file!r}"
        )
    chart = getattr(charts, stem)(documents, theme)
    if chart is None:
        raise Missing(f"the job has nothing to show in the chart {stem}")
    if kind == "png":
        return render.png(chart)
    return render.svg(chart, FACTS[stem].title, FACTS[stem].description).encode()


def _utf8(text: str) -> bytes:
    """JSON can have halves of a surrogate pair in a name, and UTF-8 none: they become question marks."""
    return text.encode(errors="replace")
