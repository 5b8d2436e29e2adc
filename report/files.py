"""Everything that is made of documents, by the name of its file: charts, the page, the model card."""

from __future__ import annotations

from report import charts, render
from report.charts.theme import Theme
from report.contents import CHARTS
from report.documents import Documents


class Missing(LookupError):
    """The job left nothing behind of which this could be made; the text says what."""


def make(file: str, documents: Documents, theme: str = Theme.LIGHT) -> bytes:
    """The file `charts/NAME.svg` or `charts/NAME.png`, where NAME is one of `CHARTS`.

    Raises:
        Missing: the documents have nothing to show in it.
        ValueError: there is no such file.
    """
    folder, _, name = file.rpartition("/")
    stem, _, kind = name.rpartition(".")
    if folder != "charts" or stem not in CHARTS or kind not in ("svg", "png"):
        raise ValueError(f"a file is charts/NAME.svg or .png with NAME one of {', '.join(CHARTS)}, got {file!r}")
    chart = getattr(charts, stem)(documents, theme)
    if chart is None:
        raise Missing(f"the job has nothing to show in the chart {stem}")
    if kind == "png":
        return render.png(chart)
    return render.svg(chart, CHARTS[stem].title, CHARTS[stem].description).encode()
