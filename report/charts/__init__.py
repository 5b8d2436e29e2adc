"""The charts of a report, one function each: documents in, an Altair chart out, or None where there is nothing to show.

from report import Documents, charts
charts.frontier(Documents.of_folder("result"))
"""

from report.charts.frontier import frontier
from report.charts.theme import Theme

__all__ = ["Theme", "frontier"]
