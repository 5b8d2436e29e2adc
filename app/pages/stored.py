"""`/models` and `/datasets`: what is stored, what it takes, and what needs it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from app.api.access import get_usage
from app.api.state import Service
from app.pages.forms import Blank, NameField, TagsField, labels_of, local, with_query
from app.pages.rendering import render
from app.pages.uploading import received_upload
from app.schemas.labels import Name, Tag
from app.services import listing
from app.services.labels import label_upload
from app.services.removal import remove_upload
from app.store.uploads import UploadFilter

_PAGE = 50

Kind = Literal["model", "dataset"]
To = Annotated[str, Form(max_length=2000)]


def _router(kind: Kind) -> APIRouter:
    """The same pages for either kind."""
    router = APIRouter(prefix=f"/{kind}s", include_in_schema=False)
    path = f"/{kind}s"

    @router.get("", name=f"{kind}s_page", response_class=Response)
    def listed(
        request: Request,
        service: Service,
        name: Annotated[Name | None, Blank] = None,
        tag: Annotated[Tag | None, Blank] = None,
        cursor: Annotated[str | None, Query(max_length=200), Blank] = None,
    ) -> Response:
        """What was uploaded, newest first, and how much of the quota it takes."""
        wanted = {"name": name, "tag": tag}
        listed, following = listing.list_uploads(service.sessions, kind, UploadFilter(**wanted), _PAGE, cursor)
        return render(
            request,
            "uploads.html",
            service,
            kind=kind,
            uploads=listed,
            wanted=wanted,
            filtered=any(wanted.values()),
            stored=listing.stored(service.sessions, kind),
            taken=get_usage(service).bytes,
            most_bytes=_most_bytes(service, kind),
            here=with_query(path, {**wanted, "cursor": cursor}),
            newest=with_query(path, wanted) if cursor else None,
            older=with_query(path, {**wanted, "cursor": following}) if following else None,
        )

    @router.post("", name=f"upload_{kind}_page")
    async def uploaded(request: Request, service: Service) -> RedirectResponse:
        """Store a file of the form, then show what it is."""
        row = await received_upload(request, service, kind, _most_bytes(service, kind))
        return RedirectResponse(f"{path}/{row.id}", 303)

    @router.get("/{upload_id}", name=f"{kind}_page", response_class=Response)
    def shown(upload_id: str, request: Request, service: Service) -> Response:
        """One of them, and what was recognised in it."""
        return render(
            request,
            "upload.html",
            service,
            kind=kind,
            upload=listing.find_upload(service.sessions, kind, upload_id),
        )

    @router.post("/{upload_id}/labels", name=f"label_{kind}_page")
    def labelled(
        upload_id: str,
        service: Service,
        name: NameField = "",
        tags: TagsField = "",
        pinned: Annotated[bool, Form()] = False,
        to: To = "",
    ) -> RedirectResponse:
        """Change name and tags, and whether it is kept."""
        label_upload(service.sessions, kind, upload_id, labels_of(name, tags, pinned))
        return RedirectResponse(local(to, f"{path}/{upload_id}"), 303)

    @router.post("/{upload_id}/delete", name=f"delete_{kind}_page")
    def deleted(upload_id: str, service: Service, to: To = "") -> RedirectResponse:
        """Remove it, unless a job that has not ended reads it."""
        remove_upload(service.sessions, kind, upload_id)
        return RedirectResponse(local(to, path), 303)

    return router


def _most_bytes(service: Service, kind: Kind) -> int:
    settings = service.settings
    most = settings.max_model_bytes if kind == "model" else settings.max_dataset_bytes
    return min(most, settings.max_upload_bytes)


router = APIRouter()
router.include_router(_router("model"))
router.include_router(_router("dataset"))
