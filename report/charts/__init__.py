"""The charts of a report, one function each: documents in, an Altair chart out, or None where there is nothing to show.

from report import Documents, charts
charts.frontier(Documents.of_folder("result"))
"""

from report.charts.agreement import agreement
from report.charts.comparison import comparison
from report.charts.frontier import frontier
from report.charts.interactions import interactions
from report.charts.interval import interval
from report.charts.layers import layers
from report.charts.outputs import outputs
from report.charts.stages import stages
from report.charts.theme import Theme

__all__ = ["Theme", "agreement", "comparison", "frontier", "interactions", "interval", "layers", "outputs", "stages"]
