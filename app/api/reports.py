"""Charts, report and model card of a finished job, drawn when they are asked for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from app.api.declared import declared
from app.api.problems import problem_answers
from app.api.ranges import Conditions, Wanted
from app.api.state import Service, State
from app.services import reports
from report.contents import CHARTS, MODEL_CARD, PAGE
from report.policy import policy

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

_ERRORS = problem_answers("not_found", "job_not_finished", "artifact_missing", "report_unavailable")
OF_IMAGES = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""What an SVG may do that somebody opens by itself: be seen."""


class Theme(StrEnum):
    LIGHT = "light"
    DARK = "dark"


ChartName = StrEnum("ChartName", {name.upper(): name for name in CHARTS})  # type: ignore[misc]
ThemeWanted = Annotated[Theme, Query(description="The ground that the chart is for.")]


def _content(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {
        200: declared(200, "ETag", content={media_type: {"schema": schema}}),
        304: declared(304, "ETag", description="Not changed"),
        **_ERRORS,
    }


_TEXT = {"type": "string"}
_FILE = {"type": "string", "format": "binary"}


@router.get("/charts/{name}.svg", responses=_content("image/svg+xml", _TEXT), response_class=Response)
def get_chart_svg(
    job_id: str, name: ChartName, service: Service, conditions: Wanted, theme: ThemeWanted = Theme.LIGHT
) -> Response:
    """A chart of the results, as SVG. Marks have a title, which browsers show where the pointer is."""
    wanted = reports.chart(service.sessions, job_id, name.value, "svg", theme)
    return _answer(service, conditions, wanted, "image/svg+xml", {"Content-Security-Policy": OF_IMAGES})


@router.get("/charts/{name}.png", responses=_content("image/png", _FILE), response_class=Response)
def get_chart_png(
    job_id: str, name: ChartName, service: Service, conditions: Wanted, theme: ThemeWanted = Theme.LIGHT
) -> Response:
    """A chart of the results, as PNG with two pixels for each of the SVG."""
    wanted = reports.chart(service.sessions, job_id, name.value, "png", theme)
    return _answer(service, conditions, wanted, "image/png", {})


@router.get("/report.html", responses=_content("text/html", _TEXT), response_class=Response)
def get_report(
    job_id: str,
    service: Service,
    conditions: Wanted,
    samples: Annotated[bool, Query(description="Whether it shows the samples that lose most.")] = True,
) -> Response:
    """The report: one HTML file with everything of the job, which needs nothing besides."""
    wanted = reports.report(service.sessions, job_id, PAGE, with_samples=samples)
    # of an origin of its own: whatever a page may do that came from an upload, it does not do to this service
    headers = {"Content-Security-Policy": f"{policy()}; sandbox allow-scripts"}
    return _answer(service, conditions, wanted, "text/html", headers)


@router.get("/model-card.md", responses=_content("text/markdown", _TEXT), response_class=Response)
def get_model_card(job_id: str, service: Service, conditions: Wanted) -> Response:
    """The model card: Markdown with front matter, in the form of Hugging Face."""
    wanted = reports.report(service.sessions, job_id, MODEL_CARD, with_samples=False)
    return _answer(service, conditions, wanted, "text/markdown", {})


def _answer(
    service: State, conditions: Conditions, wanted: reports.Wanted, media_type: str, headers: dict[str, str]
) -> Response:
    headers = {"ETag": f'"{wanted.tag}"', "Cache-Control": "private, no-cache", **headers}
    if conditions.has_already(wanted.tag):
        return Response(status_code=304, headers=headers)
    if conditions.head:  # the length is not known before it is drawn
        return Response(headers=headers, media_type=media_type)
    return Response(wanted.drawn(service.sessions, service.renderer), media_type=media_type, headers=headers)
