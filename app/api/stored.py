"""Models and datasets that are stored: listed, shown, named, removed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from app.api.jobs import DELETE_ERRORS, MERGE_PATCH, PATCH_ERRORS, Cursor, Limit, patch_body
from app.api.problems import problem_answers
from app.api.receiving import received_json
from app.api.state import Service
from app.api.uploads import upload_view
from app.schemas.answers import Upload, UploadList
from app.schemas.labels import Name, Tag, UploadLabels
from app.schemas.parsing import parse_object
from app.services import uploads
from app.services.labels import label_upload
from app.services.removal import remove_upload
from app.store.uploads import UploadFilter

NameFilter = Annotated[Name | None, Query(description="Only those of this name.")]
TagFilter = Annotated[Tag | None, Query(description="Only those with this tag.")]
_LABELS_BODY: dict[str, Any] = patch_body({**UploadLabels.model_json_schema(), "title": "UploadLabels"})


def _router(kind: Literal["model", "dataset"]) -> APIRouter:
    """The same calls for either kind."""
    router = APIRouter(prefix=f"/v1/{kind}s", tags=["uploads"])
    address = "/{upload_id}"

    @router.get("", name=f"list_{kind}s", responses=problem_answers("request_invalid"))
    def listed(
        service: Service, name: NameFilter = None, tag: TagFilter = None, limit: Limit = 50, cursor: Cursor = None
    ) -> UploadList:
        """What was uploaded, newest first."""
        rows, following = uploads.recent(service.sessions, kind, UploadFilter(name, tag), limit, cursor)
        return UploadList(uploads=[upload_view(row) for row in rows], next_cursor=following)

    @router.get(address, name=f"get_{kind}", responses=problem_answers("not_found"))
    def shown(upload_id: str, service: Service) -> Upload:
        """Its name, size and tags, and when it was used."""
        return upload_view(uploads.get(service.sessions, kind, upload_id))

    @router.patch(address, name=f"patch_{kind}", responses=PATCH_ERRORS, openapi_extra=_LABELS_BODY)
    async def labelled(upload_id: str, request: Request, service: Service) -> Upload:
        """Change name, tags or whether it is pinned; merged as by RFC 7396."""
        changes = parse_object(await received_json(request, MERGE_PATCH))
        return upload_view(await run_in_threadpool(label_upload, service.sessions, kind, upload_id, changes))

    @router.delete(address, name=f"delete_{kind}", status_code=204, responses=DELETE_ERRORS)
    def removed(upload_id: str, service: Service) -> None:
        """Remove it; jobs that have ended with it stay, with their results, and cannot be replanned."""
        remove_upload(service.sessions, kind, upload_id)

    return router


router = APIRouter()
router.include_router(_router("model"))
router.include_router(_router("dataset"))
